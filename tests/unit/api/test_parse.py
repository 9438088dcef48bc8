from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.adapters.tables import load_engine_table
from slmpack.api.crd import build_crd
from slmpack.api.parse import parse_metadata, parse_slmdeployment, parse_status
from slmpack.api.translate import Known, translate
from slmpack.api.v1alpha1 import SET_BY_SLMPACK, SLMDeployment
from slmpack.domain.engine import FlagClass
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import Demand, ModelUnknown, Rejected
from tests.support.spec_tables import BadSpec, bad_specs, examples, good_specs

ENGINES = load_engine_table()
UNKNOWN = ModelUnknown(reason=Reason.MODEL_PENDING, message="not read yet")
GOOD = [*good_specs(), *examples().values()]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


def parsed(obj: object) -> SLMDeployment:
    found = parse_slmdeployment(obj)
    assert isinstance(found, SLMDeployment), found
    return found


def said(obj: object) -> list[str]:
    """What `Accepted=False` says: of the schema, else of the engine's version, flags and environment."""
    found = parse_slmdeployment(obj)
    if isinstance(found, tuple):
        return [problem.message for problem in found]
    rejected = translate(found, known=Known(model=UNKNOWN), engines=ENGINES)
    assert isinstance(rejected, Rejected), rejected
    return [problem.message for problem in rejected.problems]


@pytest.mark.parametrize("row", bad_specs(), ids=lambda row: row.name)
def test_bad_spec_is_refused_in_the_tables_words(row: BadSpec) -> None:
    assert said(row.obj) == [row.operator]
    assert isinstance(parse_slmdeployment(row.obj), SLMDeployment) is (row.server is None)


def test_bad_specs_are_forty_or_more_and_named_once() -> None:
    names = [row.name for row in bad_specs()]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("obj", GOOD, ids=lambda obj: obj["metadata"]["name"])
def test_good_spec_is_parsed_and_written_back_unchanged(obj: dict[str, Any]) -> None:
    written = parsed(obj).spec.model_dump(mode="json", exclude_unset=True)
    assert written == obj["spec"]


@pytest.mark.parametrize("obj", GOOD, ids=lambda obj: obj["metadata"]["name"])
def test_good_spec_becomes_a_demand(obj: dict[str, Any]) -> None:
    assert isinstance(translate(parsed(obj), known=Known(model=UNKNOWN), engines=ENGINES), Demand)


def test_flags_that_the_schema_refuses_are_the_operators_in_the_table_too() -> None:
    classes = {name: flag.flag_class for name in SET_BY_SLMPACK if (flag := ENGINES.flag(name))}
    assert classes == dict.fromkeys(SET_BY_SLMPACK, FlagClass.RESERVED)


def test_good_specs_set_every_field_of_the_schema() -> None:
    schema = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert _fields_of_schema(schema) == {path for obj in GOOD for path in _fields_in(obj["spec"], schema)}


def _fields_of_schema(schema: dict[str, Any], path: str = "spec") -> set[str]:
    fields = {path}
    for name, child in schema.get("properties", {}).items():
        fields |= _fields_of_schema(child, f"{path}.{name}")
    if "items" in schema:
        fields |= _fields_of_schema(schema["items"], f"{path}[]")
    return fields


def _fields_in(value: Any, schema: dict[str, Any], path: str = "spec") -> set[str]:
    fields = {path}
    for name, child in schema.get("properties", {}).items():
        if name in value:
            fields |= _fields_in(value[name], child, f"{path}.{name}")
    if "items" in schema:
        for item in value:
            fields |= _fields_in(item, schema["items"], f"{path}[]")
    return fields


def test_defaults_of_the_shortest_spec() -> None:
    spec = parsed(examples()["qwen2.5-1.5b.yaml"]).spec
    assert spec.replicas == 3
    assert spec.engine.image == "vllm/vllm-openai:v0.33.0"
    assert spec.engine.max_model_len is None
    assert spec.engine.startup_timeout_seconds == 600
    assert (spec.sharing.mode, spec.sharing.max_per_gpu, spec.sharing.gpu_products) == ("Auto", None, ())
    assert (spec.service.port, spec.service.type) == (8000, "ClusterIP")
    assert spec.pod.termination_grace_period_seconds == 60
    without = copy.deepcopy(examples()["qwen2.5-1.5b.yaml"])
    del without["spec"]["replicas"]
    assert parsed(without).spec.replicas is None


def test_null_is_absent() -> None:
    obj = copy.deepcopy(examples()["mps.yaml"])
    obj["spec"] |= {"pod": None, "service": {"port": None}}
    assert parsed(obj).spec.service.port == 8000


def test_a_model_cannot_be_changed() -> None:
    deployment = parsed(examples()["mig.yaml"])
    with pytest.raises(ValueError, match="frozen"):
        deployment.spec.replicas = 2  # type: ignore[misc]


def test_all_problems_are_told_at_once_in_order() -> None:
    obj = copy.deepcopy(examples()["mig.yaml"])
    obj["spec"] |= {"replicas": -1, "engine": {"maxModelLen": 0}, "sharing": {"mode": "x"}}
    assert said(obj) == [
        "spec.engine.maxModelLen: must be at least 1, got 0",
        "spec.replicas: must be at least 0, got -1",
        "spec.sharing.mode: must be one of 'Auto', 'Exclusive', 'MIG', 'MPS', 'MPSPack', 'DRA', got \"x\"",
    ]


def test_an_unknown_field_without_a_near_one_lists_what_there_is() -> None:
    obj = copy.deepcopy(examples()["mig.yaml"])
    obj["spec"]["sharing"]["zzz"] = 1
    assert said(obj) == [
        "spec.sharing.zzz: unknown field; the fields here are gpuProducts, maxPerGPU, mode, smPercent, tolerations, whenFull"
    ]


@pytest.mark.parametrize("obj", [None, [], "text", 3])
def test_something_else_than_an_object_is_a_problem(obj: object) -> None:
    found = parse_slmdeployment(obj)
    assert isinstance(found, tuple)
    assert [problem.reason for problem in found] == [Reason.INVALID_SPEC]
    assert found[0].message.startswith("the object: must be an object, got ")


def test_a_config_nested_without_end_is_a_problem() -> None:
    obj = copy.deepcopy(examples()["mig.yaml"])
    loop: list[Any] = []
    loop.extend([loop, loop])
    obj["spec"]["model"]["config"] = {"loop": loop}
    assert said(obj) == ["the object: is nested more than 64 levels deep; flatten spec.model.config"]


def test_long_values_are_cut_and_odd_ones_named() -> None:
    obj = copy.deepcopy(examples()["mig.yaml"])
    obj["spec"] |= {"replicas": "9" * 500, "service": {"port": 10**5000}}
    replicas, port = said(obj)
    assert replicas.endswith("9...")
    assert len(replicas) < 200
    assert port == "spec.service.port: must be at most 65535, got something of type int"


def test_metadata_is_read_without_the_spec() -> None:
    meta = {
        "name": "chat",
        "namespace": "apps",
        "uid": "u",
        "generation": 3,
        "creationTimestamp": "2026-11-21T13:00:00Z",
        "deletionTimestamp": None,
        "managedFields": [{}],
    }
    found = parse_metadata({"metadata": meta, "spec": "wrong"})
    assert found is not None
    assert (found.name, found.namespace, found.uid, found.generation) == ("chat", "apps", "u", 3)
    assert found.creation_timestamp == datetime(2026, 11, 21, 13, tzinfo=UTC)
    assert found.deletion_timestamp is None
    assert parse_metadata({"metadata": {"name": 3}}) is None
    assert parse_metadata([]) is None


CONDITION = {
    "type": "Ready",
    "status": "False",
    "observedGeneration": 2,
    "lastTransitionTime": "2026-11-21T13:00:00Z",
    "reason": "Starting",
    "message": "1 of 2 replicas are Ready",
}


def test_status_ignores_what_a_newer_operator_wrote() -> None:
    obj = examples()["mig.yaml"] | {"status": {"replicas": 2, "new": {}, "conditions": [CONDITION | {"new": 1}]}}
    status = parsed(obj).status
    assert status.replicas == 2
    assert status.conditions[0].last_transition_time == datetime(2026, 11, 21, 13, tzinfo=UTC)


def test_status_that_cannot_be_read_is_left_out_and_refuses_nothing() -> None:
    obj = examples()["mig.yaml"] | {"status": {"replicas": "many", "conditions": [CONDITION]}}
    assert parsed(obj).status.replicas is None
    assert parsed(obj).status.conditions[0].reason == "Starting"
    assert parse_status(examples()["mig.yaml"] | {"status": []}) == parse_status({})


def test_the_schema_default_of_status_says_nothing() -> None:
    assert parse_status({"status": {"observedGeneration": -1}}) == parse_status({})
    assert parse_status({"status": {"observedGeneration": -1, "ready": "0/1"}}) != parse_status({})


@given(JSON)
def test_no_input_raises(value: object) -> None:
    for obj in (value, {"spec": value}, examples()["mig.yaml"] | {"spec": value, "status": value}):
        parse_slmdeployment(obj)
        parse_metadata({"metadata": value})


@given(st.sampled_from(GOOD), st.data())
def test_no_change_to_a_good_spec_raises(obj: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(obj)
    place: Any = changed
    while isinstance(place, (dict, list)) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    found = parse_slmdeployment(changed)
    assert isinstance(found, SLMDeployment) or all(problem.message for problem in found)


@pytest.mark.parametrize(
    ("spec", "lengths"),
    [
        ({}, (512, 256)),
        ({"engine": {"maxModelLen": 300}}, (200, 100)),
        ({"engine": {"maxModelLen": 1}}, (1, 1)),
        ({"engine": {"maxModelLen": 300}, "workload": {"inputTokens": 512}}, (512, 256)),
    ],
)
def test_lengths_that_nobody_stated_fit_into_a_request(spec: dict[str, Any], lengths: tuple[int, int]) -> None:
    obj = {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "metadata": {"name": "a"},
        "spec": {"model": {"source": "hf://a/b"}, **spec},
    }
    demand = translate(parsed(obj), known=Known(model=UNKNOWN), engines=ENGINES)
    assert isinstance(demand, Demand)
    assert (demand.workload.input_tokens, demand.workload.output_tokens) == lengths
