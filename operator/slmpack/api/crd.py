"""The CRD from the models: pydantic's JSON schema made structural, or refused.

`python -m slmpack.api.crd > crds/slmdeployments.slmpack.dev.yaml` writes it (`make crds`); a test compares the bytes.
No field of spec gets a schema default: the API server would write it into the user's object (and GitOps tools would see
drift). Status has one: without it kstatus, so Flux and `helm --wait`, would take an object that no operator has seen
for ready.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml
from typing_extensions import override

from slmpack.api.status import NOTHING_SAID
from slmpack.api.v1alpha1 import GROUP, KIND, PLURAL, VERSION, SLMDeployment

__all__ = ["NotStructuralError", "build_crd", "main", "render_crd", "structural"]

HEADER = "# Generated from operator/slmpack/api by `make crds`. Do not edit.\n"
COPIED = (
    "enum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "pattern",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
DROPPED = {"title", "description", "type", "const", "default", "examples"}
COLUMNS = (
    ("Ready", "string", ".status.ready", "Ready and wanted replicas"),
    ("Per GPU", "integer", ".status.perGPU", "Replicas that fit and pay on one GPU"),
    ("Share", "string", ".status.share", "The replicas' part of a GPU"),
    ("GPU", "string", ".status.gpu", "The GPU product in use"),
    ("Reason", "string", ".status.reason", "Why not everything is Ready"),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation"),
)
WIDE = (("Scaling", "string", ".status.scaling.reason", "Why so many are wanted; with spec.scaling"),)
"""Columns of `kubectl get -o wide`."""


class NotStructuralError(Exception):
    """A model uses something that a structural schema cannot say; the message names the path."""


class _PlainDumper(yaml.SafeDumper):
    """Writes equal lists out instead of naming them once."""

    @override
    def ignore_aliases(self, data: object) -> bool:
        return True


def build_crd() -> dict[str, Any]:
    """The CustomResourceDefinition as a plain object."""
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["slm"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [_version()]},
    }


def render_crd() -> str:
    """The CRD as YAML, the same bytes each time."""
    return HEADER + yaml.dump(build_crd(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Write the CRD to standard output."""
    sys.stdout.write(render_crd())


def _version() -> dict[str, Any]:
    columns: list[dict[str, Any]] = [
        {"name": name, "type": kind, "jsonPath": path, "description": text} for name, kind, path, text in COLUMNS + WIDE
    ]
    for column in columns[len(COLUMNS) :]:
        column["priority"] = 1
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "subresources": {"status": {}, "scale": scale},
        "schema": {"openAPIV3Schema": _root_schema()},
    }


def _root_schema() -> dict[str, Any]:
    """The object's schema; of apiVersion, kind and metadata the API server allows no more than their types."""
    schema = SLMDeployment.model_json_schema(by_alias=True, mode="validation")
    schema["required"] = ["spec"]
    fields = schema["properties"]
    for name, text in (("apiVersion", "Version of the API."), ("kind", f"{KIND}.")):
        fields[name] = {"type": "string", "description": text}
    del fields["metadata"]
    out = structural(schema)
    out["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    # D3's "no field has a schema default" is about spec, which is the user's. This is what Flux' own CRDs say.
    out["properties"]["status"]["default"] = dict(NOTHING_SAID)
    return out


def structural(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A self-contained structural schema from pydantic's JSON schema.

    Raises NotStructuralError for a union, a recursion, a tuple of fixed length, a keyword that has no place in a CRD,
    and a field without a description.
    """
    return _convert(schema, definitions=schema.get("$defs", {}), path="", open_refs=())


def _convert(
    schema: Mapping[str, Any], *, definitions: Mapping[str, Any], path: str, open_refs: tuple[str, ...]
) -> dict[str, Any]:
    schema, open_refs = _resolved(schema, definitions=definitions, path=path, open_refs=open_refs)
    known = {*COPIED, *DROPPED, "$defs", "properties", "items", "additionalProperties"}
    if strange := sorted(schema.keys() - known):
        raise NotStructuralError(f"{path or '.'}: a structural schema has no {', '.join(strange)}")
    out: dict[str, Any] = {}
    if text := _description(schema):
        out["description"] = text
    if "type" in schema:
        out["type"] = schema["type"]
    elif "x-kubernetes-int-or-string" not in schema:
        raise NotStructuralError(f"{path or '.'}: has no type: {json.dumps(schema, default=str)[:200]}")
    out.update({key: schema[key] for key in COPIED if key in schema})
    if "const" in schema:
        out["enum"] = [schema["const"]]
    out.update(_children(schema, definitions=definitions, path=path, open_refs=open_refs))
    return out


def _resolved(
    schema: Mapping[str, Any], *, definitions: Mapping[str, Any], path: str, open_refs: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Replace `$ref` and `anyOf [X, null]` by what they stand for; what stands beside them wins."""
    found = dict(schema)
    while "$ref" in found or "anyOf" in found:
        if "$ref" in found:
            name = found.pop("$ref").rsplit("/", 1)[-1]
            if name in open_refs:
                raise NotStructuralError(f"{path}: {name} holds itself")
            open_refs = (*open_refs, name)
            found = {**definitions[name], **found}
        else:
            branches = [branch for branch in found.pop("anyOf") if branch != {"type": "null"}]
            if len(branches) != 1:
                raise NotStructuralError(f"{path}: a union of {len(branches)} types")
            found = {**branches[0], **found}
    return found, open_refs


def _description(schema: Mapping[str, Any]) -> str:
    """The docstring on one line, with the model's default where that is a plain value."""
    text = re.sub(r"\s+", " ", schema.get("description", "")).strip()
    default = schema.get("default")
    if isinstance(default, (str, int)) and default != "" and text:
        shown = json.dumps(default) if isinstance(default, bool) else str(default)
        text = f"{text} Default: `{shown}`."
    return text


def _children(
    schema: Mapping[str, Any], *, definitions: Mapping[str, Any], path: str, open_refs: tuple[str, ...]
) -> dict[str, Any]:
    def convert(child: Mapping[str, Any], name: str) -> dict[str, Any]:
        return _convert(child, definitions=definitions, path=f"{path}{name}", open_refs=open_refs)

    out: dict[str, Any] = {}
    if "properties" in schema:
        out["properties"] = {name: convert(child, f".{name}") for name, child in schema["properties"].items()}
        for name, child in out["properties"].items():
            if not child.get("description"):
                raise NotStructuralError(f"{path}.{name}: has no description")
    if "items" in schema:
        out["items"] = convert(schema["items"], "[]")
    extra = schema.get("additionalProperties", False)
    if isinstance(extra, Mapping):
        out["additionalProperties"] = convert(extra, "{}")
    elif extra and "x-kubernetes-preserve-unknown-fields" not in schema:
        raise NotStructuralError(f"{path}: unknown fields are neither listed nor kept")
    return out


if __name__ == "__main__":
    main()
