"""docs/crd.md from the CRD, which comes from the models: each field with its type, default, rules and example.

`python -m slmpack.api.crd_page > docs/crd.md` writes it (`make crds`); a test compares the bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from slmpack.api.crd import build_crd
from slmpack.api.v1alpha1 import API_VERSION, GROUP, KIND

__all__ = ["main", "render_page"]

Schema = Mapping[str, Any]

HEAD = f"""# {KIND}: every field

<!-- Generated from operator/slmpack/api by `make crds`. Do not edit. -->

`apiVersion: {API_VERSION}`, `kind: {KIND}`, namespaced, short name `slm`. All fields are there since 0.1.0; within
`v1alpha1` fields are only added. `kubectl explain slmdeployment.spec --recursive` says the same for the version that
your cluster has.

A field that is left out has the default named here. The API server writes none into your object: no field of `spec`
has a schema default, so what you applied stays what you applied. (`status` is `{{observedGeneration: -1}}` until the
operator has seen the object, so that no tool takes it for ready.) A rule is checked by the API server, and again by
the operator and by `slmpack plan`, with the same words; `VALUE` is what you wrote.

Whole objects: [the shortest](../examples/qwen2.5-1.5b.yaml), [a stated load](../examples/workload.yaml),
[scaling](../examples/scaling/chat.yaml), [to zero](../examples/scaling/to-zero.yaml), [MIG](../examples/mig.yaml),
[MPS](../examples/mps.yaml), [packs](../examples/sharing/pack.yaml), [claims](../examples/sharing/dra.yaml).
"""
EXAMPLE = re.compile(r"\s*Example: (`[^`]+`)\.")
DEFAULT = re.compile(r"\s*Default: (.*)\.$")
REQUIRED = re.compile(r"\s*Required\.")
VALUE = "the value"


def render_page() -> str:
    """The page, the same bytes each time."""
    (version,) = build_crd()["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    parts = [HEAD, *_rules_of_the_object(root)]
    for name in ("spec", "status"):
        parts += _section(root["properties"][name], path=name)
    parts += _columns(version)
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write(render_page())


def _rules_of_the_object(root: Schema) -> Iterator[str]:
    yield "## The object\n"
    yield "".join(_rules("", root))


def _section(schema: Schema, *, path: str) -> Iterator[str]:
    """An object's table and rules, then those of the objects in it."""
    required = schema.get("required", ())
    yield f"## `{path}`\n\n{_taken_apart(schema['description'])[0]}\n"
    fields: Schema = schema["properties"]
    rows = [_row(name, field, path=path, required=name in required) for name, field in fields.items()]
    yield "".join(["| field | type | default | what |\n", "|---|---|---|---|\n", *rows])
    plain = {name: field for name, field in fields.items() if "properties" not in field}
    found = [*_rules("", schema), *(line for name, field in plain.items() for line in _rules(name, field))]
    if found:
        yield "Rules:\n\n" + "".join(dict.fromkeys(found))
    for name, field in fields.items():
        inner, suffix = _inner(field)
        if "properties" in inner:
            yield from _section(inner, path=f"{path}.{name}{suffix}")


def _inner(field: Schema) -> tuple[Schema, str]:
    """The object of a field, of a list or of a map."""
    if "items" in field:
        return field["items"], "[]"
    if "additionalProperties" in field:
        return field["additionalProperties"], "{}"
    return field, ""


def _row(name: str, field: Schema, *, path: str, required: bool) -> str:
    text, default, example = _taken_apart(field["description"])
    shown = f"{text} Example: {example}." if example else text
    kind = _type(field)
    if "properties" in _inner(field)[0]:
        anchor = re.sub(r"[^\w]", "", f"{path}{name}").lower()
        kind = kind.replace("object", f"[object](#{anchor})", 1)
    return f"| `{name}` | {kind} | {_cell('required' if required else default)} | {_cell(shown)} |\n"


def _taken_apart(description: str) -> tuple[str, str, str]:
    """What a field is, its default and an example, as the models' docstrings have them."""
    example = EXAMPLE.search(description)
    text = EXAMPLE.sub("", description)
    default = DEFAULT.search(text)
    return REQUIRED.sub("", DEFAULT.sub("", text)).strip(), default[1] if default else "", example[1] if example else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type(field: Schema) -> str:
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if "items" in field:
        return _bounded(f"list of {_type(field['items'])}", field, "maxItems", "items")
    if "additionalProperties" in field:
        return _bounded(f"map to {_type(field['additionalProperties'])}", field, "maxProperties", "entries")
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = str(field["type"])
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "any object"
    if field.get("format") == "date-time":
        return "time"
    if kind in {"integer", "number"}:
        return _range(kind, field)
    return _bounded(kind, field, "maxLength", "characters")


def _range(kind: str, field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is None and high is None:
        return kind
    if high is None:
        return f"{kind}, at least {low:,}"
    return f"{kind}, {low:,} to {high:,}"


def _bounded(text: str, field: Schema, key: str, unit: str) -> str:
    return f"{text}, at most {field[key]:,} {unit}" if key in field else text


def _rules(name: str, field: Schema) -> Iterator[str]:
    """Rules of a field, of its items and of its values, each a line; those of objects have their own section."""
    for validation in field.get("x-kubernetes-validations", ()):
        where = name or validation.get("fieldPath", "").lstrip(".")
        message = validation["message"].replace(f"'{VALUE}'", VALUE).replace(VALUE, "`VALUE`")
        yield f"- {f'`{where}`: ' if where else ''}{message}\n"
    if not name:
        return
    inner, _ = _inner(field)
    if inner is not field and "properties" not in inner:
        yield from _rules(name, inner)


def _columns(version: Schema) -> Iterator[str]:
    yield "## What `kubectl get slm` shows\n"
    rows = [
        f"| {column['name']} | `{column['jsonPath']}` | {column['description']}"
        f"{'; with `-o wide`' if column.get('priority') else ''} |\n"
        for column in version["additionalPrinterColumns"]
    ]
    yield "".join(["| column | from | what |\n", "|---|---|---|\n", *rows])
    scale = version["subresources"]["scale"]
    yield (
        f"`kubectl scale slm` writes `{scale['specReplicasPath']}`; the group's resource is `slmdeployments.{GROUP}`,"
        f" with the subresources `status` and `scale`.\n"
    )


if __name__ == "__main__":
    main()
