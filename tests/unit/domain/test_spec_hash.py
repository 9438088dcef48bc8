from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.spec_hash import spec_hash

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

SPEC = {"model": {"source": "hf://a/b"}, "engine": {"maxModelLen": 4096}}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({**SPEC, "replicas": 7}, True),
        ({**SPEC, "scaling": {"max": 7}}, True),
        ({**SPEC, "service": {"port": 80}}, True),
        (dict(reversed(SPEC.items())), True),
        ({**SPEC, "engine": {"maxModelLen": 4097}}, False),
        ({**SPEC, "engine": {"maxModelLen": "4096"}}, False),
        ({**SPEC, "sharing": {"maxPerGPU": 2}}, True),
        ({**SPEC, "sharing": {"whenFull": "Pending"}}, True),
        ({**SPEC, "sharing": {"mode": "MIG", "maxPerGPU": 2}}, False),
        ({**SPEC, "pod": {"labels": {"a": "b"}}}, False),
        ({"model": {"source": "hf://a/b"}}, False),
    ],
)
def test_spec_hash_covers_what_pods_are_made_from(other: dict[str, object], same: bool) -> None:
    assert (spec_hash(other) == spec_hash(SPEC)) is same


def test_spec_hash_never_changes() -> None:
    """A different hash for the same spec would restart every replica in the world on an upgrade."""
    assert spec_hash(SPEC) == "b9cd5227587a"
    assert spec_hash({"pod": {"annotations": {"owner": "Zoë 🚀"}}}) == "29a9a2113265"


@given(template=st.dictionaries(st.text(), JSON))
def test_spec_hash_takes_any_json(template: dict[str, object]) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", spec_hash(template))
