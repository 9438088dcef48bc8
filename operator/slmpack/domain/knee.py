"""The knee: the largest batch of a grid that still pays (architecture D7).

The rule of "Mind the Memory Gap" (arXiv 2503.08311; its artifact's `advisor/bopt_plots/plots.py`), with two clauses
more: absolute latency bounds, and at least a tenth more throughput for twice the batch. GPU utilisation takes no part:
it falls while throughput rises.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.wording import format_ms
from slmpack.domain.workload import Bounds

__all__ = ["GRID", "Binding", "Knee", "KneePolicy", "NoKnee", "find_knee"]

GRID = (*(1, 2, 4, 8), *range(16, 65, 8), *range(80, 129, 16), *range(160, 257, 32), *range(320, 513, 64))
"""Batches of the published sweep up to 512, and more between them, so that no step is far from a fourth."""


class Binding(Enum):
    """The clause that the next larger batch of the grid breaks."""

    KV_CACHE = "KvCache"
    MAX_NUM_SEQS = "MaxNumSeqs"
    ITL_BOUND = "ItlBound"
    TTFT_BOUND = "TtftBound"
    ITL_FACTOR = "ItlFactor"
    EPSILON = "Epsilon"
    DOUBLING = "Doubling"
    GRID_END = "GridEnd"
    """None: there is no larger batch on the grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KneePolicy:
    """The rule's numbers."""

    epsilon: float = 0.1
    """T(B) / (B * T(1)) must be over this."""
    itl_factor: float = 2.0
    """ITL(B) is at most this times ITL(itl_reference_batch)."""
    itl_reference_batch: int = 32
    doubling_gain: float | None = 1.10
    """T(B) is at least this times T(B/2); None: no such clause."""
    reference_itl_s: float | None = None
    """ITL(itl_reference_batch) of one replica alone, where those of the curve share a GPU; None: the curve's own."""
    grid: tuple[int, ...] = GRID
    """Batches that are tried where the curve is a function; points that were measured are their own grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """The batch, and what stops the next one."""

    batch: int
    binding: Binding
    explanation: str
    """One sentence with the numbers of the binding clause."""
    itl_s: float
    throughput_tok_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoKnee:
    """No batch meets the rule, or the curve lacks what the rule needs."""

    reason: str
    broken: Binding | None = None
    """The clause that one sequence at a time breaks; None where the curve lacks something."""


def find_knee(
    curve: Curve | Sequence[CurvePoint] | Callable[[float], CurvePoint],
    policy: KneePolicy,
    bounds: Bounds,
    *,
    most: float | None = None,
    limit: int | None = None,
) -> Knee | NoKnee:
    """The largest grid point that keeps every clause.

    Args:
        curve: measured points, or a function of the batch.
        policy: the rule's numbers.
        bounds: absolute bounds on the means.
        most: sequences whose KV cache fits at a time: KV tokens / mean live context.
        limit: the engine's max-num-seqs where the user fixed it.
    """
    whole = _as_curve(curve, policy)
    if not whole.grid or whole.grid[0] != 1:
        return NoKnee(reason="The curve has no point at batch 1, which the rule compares with: measure one.")
    rule = _Rule(curve=whole, policy=policy, bounds=bounds, most=most, limit=limit)
    broken = (Binding.GRID_END, "no larger batch was tried")
    for batch in reversed(whole.grid[: rule.worth_a_look()]):
        stop = next(rule.broken_by(batch), None)
        if stop is None:
            return _knee(whole.between(batch), broken)
        broken = stop
    return NoKnee(reason=f"Not even one sequence at a time: {broken[1]}.", broken=broken[0])


def _as_curve(curve: Curve | Sequence[CurvePoint] | Callable[[float], CurvePoint], policy: KneePolicy) -> Curve:
    if isinstance(curve, Curve):
        return curve
    if callable(curve):
        return Curve.of_function(policy.grid, curve)
    return Curve.of_points(curve)


def _knee(point: CurvePoint, broken: tuple[Binding, str]) -> Knee:
    binding, text = broken
    return Knee(
        batch=int(point.batch),
        binding=binding,
        explanation=f"The knee is {point.batch:g}: {text}.",
        itl_s=point.itl_s,
        throughput_tok_s=point.throughput_tok_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    curve: Curve
    policy: KneePolicy
    bounds: Bounds
    most: float | None
    limit: int | None

    def broken_by(self, batch: int) -> Iterator[tuple[Binding, str]]:
        """The clauses that a batch breaks."""
        yield from self._rising(batch)
        yield from self._throughput(self.curve.between(batch))

    def _rising(self, batch: int) -> Iterator[tuple[Binding, str]]:
        """Those that get harder with the batch, the cheapest to tell first, so that a model is not asked in vain."""
        if self.most is not None and batch > self.most:
            yield Binding.KV_CACHE, f"the KV cache holds {self.most:,.1f} requests of this length, fewer than {batch}"
        if self.limit is not None and batch > self.limit:
            yield Binding.MAX_NUM_SEQS, f"max-num-seqs is {self.limit}, less than {batch}"
        yield from self._latency(self.curve.between(batch))

    def worth_a_look(self) -> int:
        """Grid points, from the smallest on, that can matter: the latency of a function rises with the batch."""
        if not self.curve.computed:
            return len(self.curve.grid)
        broken = bisect_left(self.curve.grid, True, key=lambda batch: any(self._rising(batch)))
        return broken + 1

    def _latency(self, point: CurvePoint) -> Iterator[tuple[Binding, str]]:
        itl, ttft = point.itl_s, point.ttft_s
        if self.bounds.itl_s is not None and itl > self.bounds.itl_s:
            yield (
                Binding.ITL_BOUND,
                f"at {point.batch:g} the ITL is {format_ms(itl)}, over the bound of {format_ms(self.bounds.itl_s)}",
            )
        if self.bounds.ttft_s is not None and (ttft is None or ttft > self.bounds.ttft_s):
            over = f"over the bound of {format_ms(self.bounds.ttft_s)}"
            found = "is not known" if ttft is None else f"is {format_ms(ttft)}, {over}"
            yield Binding.TTFT_BOUND, f"at {point.batch:g} the TTFT {found}"
        reference = self._reference(point.batch)
        if reference is not None and itl > self.policy.itl_factor * reference:
            alone = "" if self.policy.reference_itl_s is None else " of one replica alone"
            limit = f"{self.policy.itl_factor:g} x the {format_ms(reference)}"
            rule = f"{limit}{alone} at {self.policy.itl_reference_batch}"
            yield Binding.ITL_FACTOR, f"at {point.batch:g} the ITL is {format_ms(itl)}, over {rule}"

    def _reference(self, batch: float) -> float | None:
        """ITL at the reference batch; None up to that batch itself, where the curve's own holds by its rise."""
        if self.policy.reference_itl_s is not None:
            return self.policy.reference_itl_s
        if batch <= self.policy.itl_reference_batch:
            return None
        return self.curve.between(self.policy.itl_reference_batch).itl_s

    def _throughput(self, point: CurvePoint) -> Iterator[tuple[Binding, str]]:
        batch, throughput = point.batch, point.throughput_tok_s
        efficiency = throughput / (batch * self.curve.between(1).throughput_tok_s)
        if efficiency <= self.policy.epsilon:
            of_one = f"a request gets {efficiency:.3f} of the speed that it has alone"
            yield Binding.EPSILON, f"at {batch:g} {of_one}, not over {self.policy.epsilon:g}"
        if self.policy.doubling_gain is not None and batch >= 2:
            gain = throughput / self.curve.between(batch / 2).throughput_tok_s
            if gain < self.policy.doubling_gain:
                rule = f"less than {_percent(self.policy.doubling_gain)}"
                yield Binding.DOUBLING, f"{batch:g} gives {_percent(gain)} more than {batch / 2:g}, {rule}"


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:.1f} %"
