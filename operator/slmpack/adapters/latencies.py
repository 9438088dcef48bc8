"""Latencies of single requests, from the increase of a histogram's cumulative buckets."""

from __future__ import annotations

import math
from collections.abc import Iterable

from slmpack.adapters.loads import Unknown
from slmpack.domain.load import Latencies

__all__ = ["IMPOSSIBLE", "latencies_of"]

ROUNDING = 1e-6
"""Of all requests: by so much a bucket may hold less than the one below it. Prometheus extrapolates and sums floats."""
IMPOSSIBLE = Unknown("buckets that cannot be")


def latencies_of(increases: Iterable[tuple[str, float]]) -> Latencies | Unknown | None:
    """By `le` as it is written: the requests at or below it. None where the histogram is not there, or has no bounds.

    What contradicts itself is unknown: a bound twice, fewer requests below a higher one, none that holds them all.
    """
    found: dict[float, float] = {}
    for written, requests in increases:
        bound = _bound(written)
        if bound in found or not bound >= 0 or not 0 <= requests < math.inf:
            return IMPOSSIBLE
        found[bound] = requests
    if not found:
        return None
    if math.inf not in found:
        return IMPOSSIBLE
    return _rising(sorted(found.items())) if len(found) > 1 else None


def _rising(buckets: list[tuple[float, float]]) -> Latencies | Unknown:
    slack = ROUNDING * buckets[-1][1]
    below, rising = 0.0, []
    for bound, requests in buckets:
        if requests < below - slack:
            return IMPOSSIBLE
        below = max(below, requests)
        rising.append((bound, below))
    return Latencies(at_most=tuple(rising))


def _bound(written: str) -> float:
    """NaN for what is no number."""
    try:
        return float(written)
    except ValueError:
        return math.nan
