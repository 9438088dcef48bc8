// Command gitops-judge says what Argo CD and Flux make of objects, by the programs' own libraries.
//
// It reads one JSON question from standard input and writes one JSON answer to standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	fluxstatus "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	fluxcel "github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	sigsstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// Question is what standard input holds.
type Question struct {
	// Health is Argo CD's health script.
	Health string `json:"health"`
	// Expressions are Flux's healthCheckExprs.
	Expressions []kustomize.CustomHealthCheck `json:"expressions"`
	// Objects are to be judged by all of the above and by kstatus.
	Objects []json.RawMessage `json:"objects"`
	// Strict are objects of Flux, to be read as its controllers' types without unknown fields.
	Strict []json.RawMessage `json:"strict"`
}

// Said is a status in somebody's words; Error is why there is none.
type Said struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	Error   string `json:"error"`
}

// Verdict is what each tool says of one object.
type Verdict struct {
	Argo            Said `json:"argo"`
	Sigs            Said `json:"sigs"`
	Flux            Said `json:"flux"`
	FluxExpressions Said `json:"fluxExpressions"`
}

// Answer is what standard output gets; its parts are in the order of the question's.
type Answer struct {
	Verdicts []Verdict `json:"verdicts"`
	// Strict holds an error for each object, empty where it is well-formed.
	Strict []string `json:"strict"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	var question Question
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&question); err != nil {
		return err
	}
	answer := Answer{Verdicts: []Verdict{}, Strict: []string{}}
	for _, raw := range question.Objects {
		verdict, err := judge(question, raw)
		if err != nil {
			return err
		}
		answer.Verdicts = append(answer.Verdicts, verdict)
	}
	for _, raw := range question.Strict {
		answer.Strict = append(answer.Strict, readStrictly(raw))
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}

func judge(question Question, raw json.RawMessage) (Verdict, error) {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		return Verdict{}, err
	}
	verdict := Verdict{Argo: argoHealth(object, question.Health)}
	if result, err := sigsstatus.Compute(object); err != nil {
		verdict.Sigs.Error = err.Error()
	} else {
		verdict.Sigs = Said{Status: string(result.Status), Message: result.Message}
	}
	if result, err := fluxstatus.Compute(object); err != nil {
		verdict.Flux.Error = err.Error()
	} else {
		verdict.Flux = Said{Status: string(result.Status), Message: result.Message}
	}
	verdict.FluxExpressions = byExpressions(object, question.Expressions)
	return verdict, nil
}

// byExpressions is what a Kustomization or a HelmRelease with these expressions says. Where one cannot be evaluated,
// Flux says Unknown and goes on waiting.
func byExpressions(object *unstructured.Unstructured, expressions []kustomize.CustomHealthCheck) Said {
	reader, err := fluxcel.NewStatusReader(expressions)
	if err != nil {
		return Said{Error: err.Error()}
	}
	result, err := reader(meta.MultiRESTMapper{}).ReadStatusForObject(context.Background(), nil, object)
	if err != nil {
		return Said{Error: err.Error()}
	}
	said := Said{Status: string(result.Status), Message: result.Message}
	if result.Error != nil {
		said.Error = result.Error.Error()
	}
	return said
}
