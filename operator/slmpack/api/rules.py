"""Rules that are written once: as CEL for the CRD and as a check for the model, with the same words.

A `Rule` stands where it holds: in `rules` of a model (about its fields) or in `Annotated[...]` (about one value). From
it come both `x-kubernetes-validations` and pydantic's validation. `ListMap` and `ListSet` do the same for lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

__all__ = [
    "BROKEN_RULES",
    "ListMap",
    "ListSet",
    "Rule",
    "Shown",
    "exactly_one",
    "keys_matching",
    "matching",
    "not_reserved",
    "present",
    "refuse_broken",
    "with_rules",
]

T = TypeVar("T")

BROKEN_RULES = "broken_rules"
"""The pydantic error type; its context's `broken` lists (relative field, message)."""
VALUE = "{value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The offending value: as Python reads it and, where its size is bounded, as CEL does.

    With `cel` the message names it as `{value}`, on both sides. Without (CEL's cost estimate knows no bound for keys
    of a map and for joined strings), the model adds it to the message and the API server does not.
    """

    read: Callable[[Any], object]
    cel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the API."""

    cel: str
    check: Callable[[Any], bool]
    """True for a value that keeps the rule; the same decision as `cel`."""
    message: str
    field: str = ""
    """The field to blame, as a path below the place where the rule stands, for instance `pod.env`."""
    shown: Shown | None = None

    def text(self, value: object) -> str:
        """The message for a value that breaks the rule."""
        if self.shown is None:
            return self.message
        read = str(self.shown.read(value))
        return self.message.replace(VALUE, read) if self.shown.cel else f"{self.message} (got {read})"

    def validation(self) -> dict[str, str]:
        """One entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message.replace(VALUE, "the value")}
        if self.shown and self.shown.cel:
            parts = (json.dumps(part, ensure_ascii=False) for part in self.message.split(VALUE))
            entry["messageExpression"] = f" + {self.shown.cel} + ".join(parts)
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Run the rule after the value's own validation."""

        def keep(value: T) -> T:
            refuse_broken((self,), value)
            return value

        return core_schema.no_info_after_validator_function(keep, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the rule to the value's schema."""
        return with_rules(handler(schema), (self,))


def matching(pattern: str, message: str) -> Rule:
    """The rule that a string matches a pattern, which RE2 and Python must read alike."""
    compiled = re.compile(pattern, re.ASCII)
    return Rule(
        cel=f"self.matches(r'{pattern}')",
        check=lambda value: compiled.fullmatch(value) is not None,
        message=message,
        shown=Shown(cel="self", read=str),
    )


def present(model: BaseModel, *names: str) -> list[str]:
    """Those of a model's fields that the user gave."""
    return [name for name in names if getattr(model, name) is not None]


def with_rules(schema: JsonSchemaValue, rules: tuple[Rule, ...]) -> JsonSchemaValue:
    """The schema with these rules after those that it has."""
    known = schema.get("x-kubernetes-validations", [])
    return {**schema, "x-kubernetes-validations": [*known, *(rule.validation() for rule in rules)]}


def refuse_broken(rules: tuple[Rule, ...], value: object) -> None:
    """Raise one pydantic error for all the rules that the value breaks."""
    broken = [(rule.field, rule.text(value)) for rule in rules if not rule.check(value)]
    if broken:
        text = "; ".join(message for _, message in broken)
        raise PydanticCustomError(BROKEN_RULES, "{text}", {"text": text, "broken": broken})


@dataclass(frozen=True, slots=True)
class ListMap:
    """A list whose items are told apart by these fields (`x-kubernetes-list-type: map`)."""

    keys: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse a second item with the same key."""

        def key_of(item: object) -> str:
            return ", ".join(f"{key} {getattr(item, _snake(key))!r}" for key in self.keys)

        return _unique(handler(source), key_of)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Mark the list for server-side apply."""
        return {**handler(schema), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(self.keys)}


@dataclass(frozen=True, slots=True)
class ListSet:
    """A list of scalars without repeats (`x-kubernetes-list-type: set`)."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse a repeat."""
        return _unique(handler(source), repr)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Mark the list for server-side apply."""
        return {**handler(schema), "x-kubernetes-list-type": "set"}


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[0].lower()}", name)


def _unique(schema: CoreSchema, key_of: Callable[[Any], str]) -> CoreSchema:
    def keep(items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: set[str] = set()
        for index, item in enumerate(items):
            key = key_of(item)
            if key in seen:
                broken = [(f"[{index}]", f"{key} is given twice; keep one of them")]
                raise PydanticCustomError(BROKEN_RULES, "{text}", {"text": broken[0][1], "broken": broken})
            seen.add(key)
        return items

    return core_schema.no_info_after_validator_function(keep, schema)


def keys_matching(pattern: str, message: str) -> Rule:
    """The rule that every key of a map matches a pattern, which RE2 and Python must read alike."""
    compiled = re.compile(pattern, re.ASCII)
    return Rule(
        cel=f"self.all(k, k.matches(r'{pattern}'))",
        check=lambda mapping: all(compiled.fullmatch(key) for key in mapping),
        message=message,
        shown=Shown(read=lambda mapping: ", ".join(sorted(key for key in mapping if not compiled.fullmatch(key)))),
    )


def not_reserved(names: frozenset[str], *, prefix: str, message: str) -> Rule:
    """The rule that no key of a map is one of `names` or begins with `prefix` (where there is one)."""
    listed = ", ".join(f"'{name}'" for name in sorted(names))
    reserved = f"k in [{listed}]" + (f" || k.startsWith('{prefix}')" if prefix else "")

    def taken(key: str) -> bool:
        return key in names or bool(prefix and key.startswith(prefix))

    return Rule(
        cel=f"!self.exists(k, {reserved})",
        check=lambda mapping: not any(map(taken, mapping)),
        message=message,
        shown=Shown(read=lambda mapping: ", ".join(sorted(filter(taken, mapping)))),
    )


def exactly_one(names: str) -> str:
    """CEL: exactly one of these fields of self is there."""
    return f"[{', '.join(f'has(self.{name})' for name in names.split())}].filter(given, given).size() == 1"
