"""Label and field selectors in the API server's query syntax."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from slmpack.devcluster.errors import StatusError

__all__ = ["Predicate", "field_selector", "label_selector"]

Predicate = Callable[[dict[str, Any]], bool]
_SET = re.compile(r"^(?P<key>\S+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s=!]+)\s*(?P<op>==|!=|=)\s*(?P<value>\S*)$")


def _bad(text: str) -> StatusError:
    return StatusError(400, "BadRequest", f"unable to parse requirement: {text!r}")


def _label_term(term: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(term):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(term):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if re.fullmatch(r"!\s*[^\s=!]+", term):
        absent = term[1:].strip()
        return lambda labels: absent not in labels
    if re.fullmatch(r"[^\s=!(),]+", term):
        return lambda labels: term in labels
    raise _bad(term)


def label_selector(text: str | None) -> Predicate:
    """Predicate on an object for `a=b,c!=d,e in (x,y),f notin (z),g,!h`; an empty selector takes everything."""
    terms = [_label_term(term.strip()) for term in re.split(r",(?![^(]*\))", text or "") if term.strip()]

    def matches(obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(term(labels) for term in terms)

    return matches


def _field(obj: dict[str, Any], path: str) -> str:
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def field_selector(text: str | None) -> Predicate:
    """Predicate on an object for `metadata.name=x,spec.nodeName!=y`; a missing field counts as empty."""
    terms: list[tuple[str, bool, str]] = []
    for term in (text or "").split(","):
        if not term.strip():
            continue
        found = _EQUAL.match(term.strip())
        if found is None:
            raise _bad(term)
        terms.append((found["key"], found["op"] != "!=", found["value"]))
    return lambda obj: all((_field(obj, path) == value) is wanted for path, wanted, value in terms)
