"""Latencies of single requests from scrapes of the replicas themselves: what a ring of them says."""

from __future__ import annotations

import pytest

from slmpack.adapters.latencies import IMPOSSIBLE
from slmpack.adapters.scrape_windows import Ring, figures_of
from slmpack.domain.load import Latencies
from slmpack.domain.snapshot import Key

CHAT = Key("team", "chat")


def _bucket_ring(*scrapes: dict[str, float], every: float = 15.0) -> Ring:
    """Each scrape's buckets, by bound."""
    ring = Ring(deployment=CHAT)
    for number, buckets in enumerate(scrapes):
        ring.add(number * every, {"running": 0.0, **{f"tpot_bucket:{le}": value for le, value in buckets.items()}})
    return ring


def test_a_restart_is_seen_in_one_bucket_and_holds_for_all() -> None:
    """It has more slow requests already than it ever had; of the fast ones fewer."""
    ring = _bucket_ring({"0.1": 10, "+Inf": 10}, {"0.1": 5, "+Inf": 12})
    assert figures_of([ring], 15.0)["tpot_of"] == Latencies(at_most=((0.1, 5.0), (float("inf"), 12.0)))


def test_of_two_versions_the_bounds_that_both_have() -> None:
    older = _bucket_ring({"0.1": 0, "10.0": 0, "+Inf": 0}, {"0.1": 1, "10.0": 3, "+Inf": 4})
    newer = _bucket_ring({"0.1": 0, "0.2": 0, "+Inf": 0}, {"0.1": 10, "0.2": 20, "+Inf": 30})
    none = _bucket_ring({}, {})
    assert figures_of([older, newer, none], 15.0)["tpot_of"] == Latencies(at_most=((0.1, 11.0), (float("inf"), 34.0)))


@pytest.mark.parametrize(
    "buckets", [{"0.1": 3, "0.2": 2, "+Inf": 4}, {"0.1": 3, "0.2": 4}], ids=["less than the one below", "none with all"]
)
def test_buckets_that_cannot_be_are_unknown_with_a_reason(buckets: dict[str, float]) -> None:
    ring = _bucket_ring(dict.fromkeys(buckets, 0.0), buckets)
    assert figures_of([ring], 15.0)["tpot_of"] == IMPOSSIBLE


def test_scrapes_that_are_too_far_apart_tell_nothing_of_single_requests() -> None:
    ring = _bucket_ring({"0.1": 0, "+Inf": 0}, {"0.1": 3, "+Inf": 4}, every=130)
    assert figures_of([ring], 130.0)["tpot_of"] is None
