"""Label selectors as kubectl writes them, evaluated here: which nodes an operator packs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slmpack.domain.snapshot import NodeTerm

__all__ = ["EVERYTHING", "Selector", "parse_selector"]

_TERM = re.compile(
    r"(?P<absent>!)?(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)"
    r"(?:\s*(?P<operator>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?"
)


@dataclass(frozen=True, slots=True)
class _Term:
    key: str
    wanted: frozenset[str] | None
    """None: any value."""
    negated: bool


@dataclass(frozen=True, slots=True)
class Selector:
    """All terms must hold; none at all selects everything."""

    terms: tuple[_Term, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy every term; like kubectl, `!=` and `notin` hold where the label is absent."""
        return all(_holds(term, labels) for term in self.terms)

    @property
    def node_terms(self) -> tuple[NodeTerm, ...]:
        """The same as node affinity says it."""
        return tuple(_node_term(term) for term in self.terms)


EVERYTHING = Selector(())


def parse_selector(text: str) -> Selector:
    """`a=b,c!=d,e,!f,g in (h,i)`; ValueError for anything else."""
    return Selector(tuple(_parse_term(term.strip()) for term in re.split(r",(?![^()]*\))", text) if term.strip()))


def _parse_term(text: str) -> _Term:
    match = _TERM.fullmatch(text)
    if match is None or (match["absent"] and (match["operator"] or match["set"])):
        raise ValueError(f"{text!r} is no label selector; write for instance 'pool=gpu', 'pool in (a,b)' or '!spot'")
    if match["operator"]:
        return _Term(match["key"], frozenset({match["value"]}), match["operator"] == "!=")
    if match["set"]:
        wanted = frozenset(value.strip() for value in match["values"].split(","))
        return _Term(match["key"], wanted, match["set"] == "notin")
    return _Term(match["key"], None, bool(match["absent"]))


def _node_term(term: _Term) -> NodeTerm:
    if term.wanted is None:
        return NodeTerm(key=term.key, operator="DoesNotExist" if term.negated else "Exists")
    values = tuple(sorted(term.wanted))
    return NodeTerm(key=term.key, operator="NotIn" if term.negated else "In", values=values)


def _holds(term: _Term, labels: Mapping[str, str]) -> bool:
    value = labels.get(term.key)
    found = value is not None and (term.wanted is None or value in term.wanted)
    return found != term.negated
