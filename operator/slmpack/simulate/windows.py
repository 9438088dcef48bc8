"""What Prometheus computes over a window of one series, or of many series at once: rate, delta, histogram_quantile.

As in promql/functions.go of Prometheus 3: windows are open on the left, and a rate is extrapolated to the window's
ends where samples come near enough to them, a counter never to below zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "histogram_quantile", "quantile"]

Floats = NDArray[np.float64]

NEAR = 1.1
"""A window's end is near where the first (or last) sample lies within this many mean intervals of it."""


@dataclass(slots=True, kw_only=True)
class Series:
    """Samples of several values taken together, one vector a scrape."""

    keep_s: float
    """Older samples are forgotten."""
    times: deque[float] = field(default_factory=deque)
    values: deque[Floats] = field(default_factory=deque)

    def put(self, at: float, value: Floats) -> None:
        """One more sample."""
        self.times.append(at)
        self.values.append(value)
        while self.times[0] < at - self.keep_s:
            self.times.popleft()
            self.values.popleft()

    def last(self, now: float, *, within_s: float) -> Floats | None:
        """The newest sample that is no older than this."""
        for at, value in zip(reversed(self.times), reversed(self.values), strict=True):
            if at <= now:
                return value if at > now - within_s else None
        return None

    def rate(self, now: float, window_s: float) -> Floats | None:
        """A counter's increase a second; None with fewer than two samples."""
        return self._extrapolated(now, window_s, counter=True)

    def slope(self, now: float, window_s: float) -> Floats | None:
        """A gauge's change a second: delta() over the window's length; None with fewer than two samples."""
        return self._extrapolated(now, window_s, counter=False)

    def _extrapolated(self, now: float, window_s: float, *, counter: bool) -> Floats | None:
        first, last, count = self._ends(now, window_s)
        if count < 2:
            return None
        change = self.values[last] - self.values[first]
        sampled = self.times[last] - self.times[first]
        mean = sampled / (count - 1)
        to_end = now - self.times[last]
        to_end = mean / 2 if to_end >= NEAR * mean else to_end
        to_start = self.times[first] - (now - window_s)
        to_start = mean / 2 if to_start >= NEAR * mean else to_start
        if not counter:
            return np.asarray(change * ((sampled + to_start + to_end) / sampled / window_s))
        with np.errstate(divide="ignore", invalid="ignore"):
            to_zero = np.where(change > 0, sampled * self.values[first] / change, np.inf)
        reach = sampled + to_end + np.minimum(to_start, to_zero)
        return np.asarray(change * (reach / sampled / window_s))

    def _ends(self, now: float, window_s: float) -> tuple[int, int, int]:
        """Indexes of the first and last sample in (now - window, now], and how many there are."""
        times = self.times
        last = len(times) - 1
        while last >= 0 and times[last] > now:
            last -= 1
        first = last + 1
        while first > 0 and times[first - 1] > now - window_s:
            first -= 1
        return first, last, last - first + 1


def histogram_quantile(share: float, bounds: Sequence[float], counts: Floats) -> float | None:
    """Of observations (or rates) by bucket, the last one being +Inf: linear within a bucket; None without any."""
    below = np.cumsum(counts)
    total = float(below[-1])
    if not total > 0:
        return None
    rank = share * total
    bucket = int(np.searchsorted(below[:-1], rank))
    if bucket >= len(bounds):
        return float(bounds[-1])
    before = float(below[bucket - 1]) if bucket else 0.0
    start = float(bounds[bucket - 1]) if bucket else 0.0
    inside = float(counts[bucket])
    part = (rank - before) / inside if inside > 0 else 0.0
    return start + (float(bounds[bucket]) - start) * part


def quantile(share: float, values: Sequence[float]) -> float:
    """quantile_over_time: linear between the two nearest ranks."""
    return float(np.quantile(np.asarray(values), share))
