"""From what the API server (or a file) holds to an SLMDeployment, or to every problem with it in a user's words.

Nothing here raises for any input: the object may come from a newer schema, an older one, or a text editor.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from slmpack.api.rules import BROKEN_RULES
from slmpack.api.status import NOTHING_SAID, SLMDeploymentStatus
from slmpack.api.v1alpha1 import ObjectMeta, SLMDeployment
from slmpack.domain.reasons import Problem, Reason

__all__ = ["parse_metadata", "parse_slmdeployment", "parse_status"]

SHOWN_MAX = 80
"""Characters of an offending value that a message repeats."""
NESTED_MAX = 64
"""Levels of nesting that a config or a volume may have; deeper ones would exhaust the stack of whoever walks them."""

KINDS = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "int_type": "a whole number",
    "float_type": "a number",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "string_type": "a string (put it in quotes)",
    "tuple_type": "a list",
}
BOUNDS = {
    "greater_than_equal": ("at least {ge}", ""),
    "less_than_equal": ("at most {le}", ""),
    "string_too_long": ("at most {max_length} characters long", "length"),
    "string_too_short": ("at least {min_length} characters long", "length"),
    "too_long": ("at most {max_length} entries long", "length"),
}


def parse_slmdeployment(obj: object) -> SLMDeployment | tuple[Problem, ...]:
    """The object as a model, or all that is wrong with it, at least one problem, ordered by field.

    Its status never makes it wrong: see parse_status.
    """
    if not isinstance(obj, Mapping):
        return (_problem("", f"must be an object, got {_shown(obj)}"),)
    if _is_too_deep(obj):
        return (_problem("", f"is nested more than {NESTED_MAX} levels deep; flatten spec.model.config"),)
    wanted = {key: value for key, value in obj.items() if key != "status"}
    try:
        deployment = SLMDeployment.model_validate(wanted)
    except ValidationError as error:
        found = {problem for details in error.errors(include_url=False) for problem in _problems(details)}
        return tuple(sorted(found, key=lambda problem: (problem.field, problem.message)))
    return deployment.model_copy(update={"status": parse_status(obj)})


def parse_metadata(obj: object) -> ObjectMeta | None:
    """The metadata of an object whose spec may be wrong; None where even that cannot be read."""
    try:
        return ObjectMeta.model_validate(obj.get("metadata") if isinstance(obj, Mapping) else None)
    except ValidationError:
        return None


def parse_status(obj: object) -> SLMDeploymentStatus:
    """The status, without what cannot be read: it is derived anew each cycle, so nothing is lost."""
    status = obj.get("status") if isinstance(obj, Mapping) else None
    if not isinstance(status, Mapping) or status == NOTHING_SAID:
        return SLMDeploymentStatus()
    try:
        return SLMDeploymentStatus.model_validate(status)
    except ValidationError as error:
        unreadable = {details["loc"][0] for details in error.errors(include_url=False) if details["loc"]}
        return SLMDeploymentStatus.model_validate({key: status[key] for key in status if key not in unreadable})


def _problem(field: str, message: str) -> Problem:
    return Problem(reason=Reason.INVALID_SPEC, message=f"{field or 'the object'}: {message}", field=field)


def _problems(details: ErrorDetails) -> Iterator[Problem]:
    """One problem for each rule that pydantic's error stands for."""
    path = _path(details["loc"])
    if details["type"] == BROKEN_RULES:
        for field, message in details["ctx"]["broken"]:
            yield _problem(
                f"{path}{field}" if field.startswith("[") else ".".join(filter(None, (path, field))), message
            )
    else:
        yield _problem(path, _message(details))


def _message(details: ErrorDetails) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return f"is required{_example(details['loc'])}"
    if kind == "extra_forbidden":
        return f"unknown field{_suggestion(details['loc'])}"
    if kind in KINDS:
        return f"must be {KINDS[kind]}, got {_shown(value)}"
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(' or ', ', ')}, got {_shown(value)}"
    if kind in BOUNDS:
        bound, measure = BOUNDS[kind]
        got = len(value) if measure else _shown(value)
        plain = {key: int(of) if isinstance(of, float) and of.is_integer() else of for key, of in context.items()}
        return f"must be {bound.format(**plain)}, got {got}"
    return f"{details['msg']}, got {_shown(value)}"


def _path(loc: tuple[int | str, ...]) -> str:
    """`spec.pod.env[0].name`, as the API server writes paths."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path


def _shown(value: object) -> str:
    """The value as JSON, cut."""
    try:
        text = json.dumps(value, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        return f"something of type {type(value).__name__}"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


def _suggestion(loc: tuple[int | str, ...]) -> str:
    """The field that was probably meant, else all there are."""
    names = sorted(_fields(loc[:-1]))
    near = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; the fields here are {', '.join(names)}"


def _example(loc: tuple[int | str, ...]) -> str:
    """The example in the missing field's description, where it has one."""
    field = _fields(loc[:-1]).get(str(loc[-1]))
    found = re.search(r"Example:\s+`([^`]*)`", field.description or "") if field else None
    return f"; write for instance {found[1]}" if found else ""


def _fields(loc: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The fields of the model at a path, by their names in the API."""
    model: type[BaseModel] = SLMDeployment
    for part in loc:
        field = next((field for field in model.model_fields.values() if field.alias == part), None)
        model = next(_models(field.annotation)) if field else model
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a type annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _is_too_deep(obj: object) -> bool:
    """Whether lists and objects are nested too deeply; what is referred to twice on a level counts once."""
    level = {id(obj): obj}
    for _ in range(NESTED_MAX):
        level = {id(child): child for item in level.values() for child in _parts(item)}
        if not level:
            return False
    return True


def _parts(item: object) -> Iterable[object]:
    if isinstance(item, Mapping):
        return item.values()
    return item if isinstance(item, (list, tuple)) else ()
