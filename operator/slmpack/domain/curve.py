"""Throughput and latency against batch: points that were measured, or a function that computes them when asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log

__all__ = ["Curve", "CurvePoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The steady state with `batch` requests in flight at each replica, none of them waiting."""

    batch: float
    """Sequences that one replica decodes at a time."""
    throughput_tok_s: float
    """Output tokens a second of all replicas of the curve together."""
    itl_s: float
    """Mean inter-token latency."""
    ttft_s: float | None = None
    """Mean time to first token; None where it was not measured."""
    energy_j_per_token: float | None = None
    """Of the whole GPU, per output token; None where it is not known."""


class Curve:
    """Points on a grid of batches, each computed at most once; linear in the logarithm of the batch between them."""

    __slots__ = ("_compute", "_known", "_places", "computed", "grid")

    def __init__(self, grid: Iterable[int], compute: Callable[[float], CurvePoint], *, computed: bool) -> None:
        self.grid = tuple(sorted(set(grid)))
        self._places = frozenset(self.grid)
        self.computed = computed
        """Whether `compute` answers for every batch, not only for those of the grid."""
        self._compute = compute
        self._known: dict[float, CurvePoint] = {}

    @classmethod
    def of_points(cls, points: Iterable[CurvePoint]) -> Curve:
        """Points that were measured; with two of one batch the later one counts."""
        by_batch = {point.batch: point for point in points}
        return cls((int(batch) for batch in by_batch), by_batch.__getitem__, computed=False)

    @classmethod
    def of_function(cls, grid: Iterable[int], compute: Callable[[float], CurvePoint]) -> Curve:
        """A model that answers for any batch."""
        return cls(grid, compute, computed=True)

    def covers(self, batch: float) -> bool:
        """Whether anything is known at this batch."""
        return self.computed or (bool(self.grid) and self.grid[0] <= batch <= self.grid[-1])

    def at(self, batch: float) -> CurvePoint:
        """The point of a batch: computed where possible, else between its neighbours."""
        return self._get(batch) if self.computed else self.between(batch)

    def between(self, batch: float) -> CurvePoint:
        """The point of a batch from its two neighbours on the grid (D7); beyond the grid, the nearest end."""
        known = self._known.get(batch)
        if known is not None and batch in self._places:
            return known
        index = bisect_left(self.grid, batch)
        high = self._get(self.grid[min(index, len(self.grid) - 1)])
        if high.batch <= batch or index == 0:
            return high
        low = self._get(self.grid[index - 1])
        part = log(batch / low.batch) / log(high.batch / low.batch)
        return CurvePoint(
            batch=batch,
            throughput_tok_s=_mix(low.throughput_tok_s, high.throughput_tok_s, part),
            itl_s=_mix(low.itl_s, high.itl_s, part),
            ttft_s=_mix_known(low.ttft_s, high.ttft_s, part),
            energy_j_per_token=_mix_known(low.energy_j_per_token, high.energy_j_per_token, part),
        )

    def _get(self, batch: float) -> CurvePoint:
        point = self._known.get(batch)
        if point is None:
            point = self._known[batch] = self._compute(batch)
        return point


def _mix(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def _mix_known(low: float | None, high: float | None, part: float) -> float | None:
    return None if low is None or high is None else _mix(low, high, part)
