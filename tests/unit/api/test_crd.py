from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from slmpack.api.base import ApiModel
from slmpack.api.crd import NotStructuralError, build_crd, render_crd, structural
from tests.support.spec_tables import bad_specs

VERSION = build_crd()["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def test_rendering_is_yaml_of_the_same_object_and_stable() -> None:
    assert yaml.safe_load(render_crd()) == build_crd()
    assert render_crd() == render_crd()
    assert "&id" not in render_crd()


def test_no_field_of_the_user_has_a_schema_default() -> None:
    found = {path: schema["default"] for path, schema in walk(SCHEMA) if "default" in schema}
    assert found == {".status": {"observedGeneration": -1}}


def test_every_field_has_a_description_and_every_optional_value_says_its_default() -> None:
    required = {f"{path}.{name}" for path, schema in walk(SCHEMA) for name in schema.get("required", [])}
    fields = [(path, schema) for path, schema in walk(SCHEMA) if path.startswith(".spec") and path[-1] not in "]}"]
    assert [path for path, schema in fields if len(schema.get("description", "")) < 12] == []
    silent = [
        path
        for path, schema in fields
        if path not in required and path != ".spec" and "Default: " not in schema["description"]
    ]
    assert silent == []


def test_defaults_in_descriptions_come_from_the_model() -> None:
    fields = dict(walk(SCHEMA))
    assert fields[".spec.service.port"]["description"].endswith("Default: `8000`.")
    assert fields[".spec.engine.image"]["description"].endswith("Default: `vllm/vllm-openai:v0.33.0`.")
    assert fields[".spec.pod.volumeMounts[].readOnly"]["description"].endswith("Default: `false`.")


def test_every_rule_is_broken_by_a_row_of_the_table() -> None:
    heard = "\n".join(row.server or "" for row in bad_specs())
    messages = {rule["message"] for _, schema in walk(SCHEMA) for rule in schema.get("x-kubernetes-validations", [])}
    patterns = {message: ".*".join(re.escape(part) for part in message.split("the value")) for message in messages}
    assert [message for message, pattern in patterns.items() if not re.search(pattern, heard)] == []


def test_scale_status_columns_and_conditions() -> None:
    assert VERSION["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    columns = {column["name"]: column.get("priority", 0) for column in VERSION["additionalPrinterColumns"]}
    assert [name for name, priority in columns.items() if not priority] == [
        *("Ready", "Per GPU", "Share", "GPU", "Reason", "Age"),
    ]
    assert [name for name, priority in columns.items() if priority] == ["Scaling"]
    conditions = dict(walk(SCHEMA))[".status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


class Union(ApiModel):
    """A union."""

    field: int | str
    """A field."""


class Bare(ApiModel):
    """A field without a description."""

    field: int


class Anything(ApiModel):
    """A field of any type."""

    field: Any
    """A field."""


class Open(ApiModel):
    """A map of anything."""

    field: dict[str, Any]
    """A field."""


class Loop(ApiModel):
    """Holds itself."""

    field: Loop | None = None
    """A field."""


class Strange(ApiModel):
    """A keyword that a CRD does not have."""

    field: Annotated[tuple[int, str], Field()]
    """A field."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Union, r"\.field: a union of 2 types"),
        (Bare, r"\.field: has no description"),
        (Anything, r"\.field: has no type"),
        (Open, r"\.field: unknown fields are neither listed nor kept"),
        (Loop, r"\.field: Loop holds itself"),
        (Strange, r"\.field: a structural schema has no prefixItems"),
    ],
)
def test_what_is_not_structural_is_refused(model: type[ApiModel], message: str) -> None:
    with pytest.raises(NotStructuralError, match=message):
        structural(model.model_json_schema())
