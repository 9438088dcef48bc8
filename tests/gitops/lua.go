package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
)

// argoHealth is what Argo CD shows: an object that is being deleted is not asked for its health.
func argoHealth(object *unstructured.Unstructured, script string) Said {
	if object.GetDeletionTimestamp() != nil {
		return Said{Status: "Progressing", Message: "Pending deletion"}
	}
	returned, err := runLua(object, script)
	if err != nil {
		return Said{Error: err.Error()}
	}
	var said Said
	if err := json.Unmarshal(returned, &said); err != nil {
		return Said{Error: err.Error()}
	}
	switch said.Status {
	case "Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown":
		return said
	}
	return Said{Error: fmt.Sprintf("%q is no health status", said.Status)}
}

// runLua runs a script with what Argo CD 3.6 gives to the health scripts of argocd-cm (util/lua): package, base and
// table, a part of os that our scripts do not use, one second, and the object as obj. Neither string nor math is there.
func runLua(object *unstructured.Unstructured, script string) ([]byte, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		call := lua.P{Fn: state.NewFunction(open), NRet: 0, Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	returned := state.Get(-1)
	if returned.Type() != lua.LTTable {
		return nil, fmt.Errorf("the script returned a %s, not a table", returned.Type())
	}
	return luajson.Encode(returned)
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch it := value.(type) {
	case bool:
		return lua.LBool(it)
	case float64:
		return lua.LNumber(it)
	case int64:
		return lua.LNumber(it)
	case string:
		return lua.LString(it)
	case []any:
		table := state.CreateTable(len(it), 0)
		for _, item := range it {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(it))
		for key, item := range it {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	}
	return lua.LNil
}
