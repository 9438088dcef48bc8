package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
)

// readStrictly reads an object of Flux as the type that its controller reads it as. A field that the type does not have
// is an error, and so is one that the type always writes, for it is required.
func readStrictly(raw json.RawMessage) string {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err.Error()
	}
	var into any
	switch head.APIVersion + " " + head.Kind {
	case "helm.toolkit.fluxcd.io/v2 HelmRelease":
		into = &helmv2.HelmRelease{}
	case "kustomize.toolkit.fluxcd.io/v1 Kustomization":
		into = &kustomizev1.Kustomization{}
	case "source.toolkit.fluxcd.io/v1 GitRepository":
		into = &sourcev1.GitRepository{}
	case "source.toolkit.fluxcd.io/v1 HelmRepository":
		into = &sourcev1.HelmRepository{}
	case "source.toolkit.fluxcd.io/v1 OCIRepository":
		into = &sourcev1.OCIRepository{}
	default:
		return fmt.Sprintf("%s %s is not of Flux", head.APIVersion, head.Kind)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err.Error()
	}
	var given, written struct {
		Spec any `json:"spec"`
	}
	again, err := json.Marshal(into)
	if err == nil {
		err = errors.Join(json.Unmarshal(raw, &given), json.Unmarshal(again, &written))
	}
	if err != nil {
		return err.Error()
	}
	return lacking("spec", given.Spec, written.Spec)
}

// lacking names a field that is in what the type writes and not in what was given; empty where there is none.
func lacking(path string, given, written any) string {
	switch it := written.(type) {
	case map[string]any:
		there, _ := given.(map[string]any)
		for key, value := range it {
			if _, found := there[key]; !found {
				return fmt.Sprintf("%s.%s is required", path, key)
			}
			if found := lacking(path+"."+key, there[key], value); found != "" {
				return found
			}
		}
	case []any:
		there, _ := given.([]any)
		for index, value := range it {
			if found := lacking(fmt.Sprintf("%s[%d]", path, index), there[index], value); found != "" {
				return found
			}
		}
	}
	return ""
}
