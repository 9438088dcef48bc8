"""Node selectors mean what kubectl's do."""

from __future__ import annotations

import pytest

from slmpack.adapters.selector import parse_selector
from slmpack.domain.snapshot import NodeTerm

LABELS = {"pool": "gpu", "zone": "a"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("pool=gpu", True),
        ("pool==cpu", False),
        ("pool!=cpu,zone=a", True),
        ("missing!=x", True),
        ("pool", True),
        ("!pool", False),
        ("!spot", True),
        ("zone in (a, b),pool", True),
        ("zone in (b)", False),
        ("zone notin (b)", True),
        ("missing notin (b)", True),
        ("missing in (b)", False),
    ],
)
def test_matching(text: str, matches: bool) -> None:
    assert parse_selector(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "key", "operator", "values"),
    [
        ("pool=gpu", "pool", "In", ("gpu",)),
        ("pool!=cpu", "pool", "NotIn", ("cpu",)),
        ("pool", "pool", "Exists", ()),
        ("!spot", "spot", "DoesNotExist", ()),
        ("zone in (b, a)", "zone", "In", ("a", "b")),
        ("zone notin (b)", "zone", "NotIn", ("b",)),
    ],
)
def test_as_node_affinity_says_it(text: str, key: str, operator: str, values: tuple[str, ...]) -> None:
    (term,) = parse_selector(text).node_terms
    assert term == NodeTerm(key=key, operator=operator, values=values)
    assert term.is_label is (text == "pool=gpu")


@pytest.mark.parametrize("text", ["=x", "a in b", "!a=b", "a b", "a>1"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no label selector"):
        parse_selector(text)
