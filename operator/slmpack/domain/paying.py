"""Whether one more replica on the same GPU pays: `T_k(N/k) >= 1.05 * T_{k-1}(N/(k-1))` under the bounds (D7).

The k replicas run at the batch that they would get, the k-1 at their own best one, so that a replica is never credited
with what a larger batch would give as well. The curves may be measured or modelled; GPU utilisation takes no part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import floor

from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.wording import number_of
from slmpack.domain.workload import Bounds, Objective

__all__ = [
    "Answer",
    "Load",
    "Operating",
    "Packing",
    "PayPolicy",
    "PayRule",
    "Step",
    "Verdict",
    "largest_kept",
    "operate",
    "pack_what_pays",
]


_ROUNDS = 2
"""Of Little's law, N = rate * time(N), which grows slower than N; from a neighbour on the grid they end within 1 %."""


class Verdict(Enum):
    """On one step, from fewer replicas to more."""

    PAYS = "Pays"
    DOES_NOT_PAY = "DoesNotPay"
    UNCERTAIN = "Uncertain"
    """The interval of the gain holds the threshold. Counts as does not pay for a new replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayPolicy:
    """The rule's numbers."""

    step_gain: float = 1.05
    """What a further replica must multiply the throughput (or divide the latency or the energy) by."""
    run_to_run: float = 0.03
    """Half width of a gain between runs that were measured; the same run differs by 0.5 to 2.6 % (arXiv 2503.08311)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the replicas of one GPU face together; exactly one is given."""

    in_flight: float | None = None
    """Requests in flight at a time, closed loop."""
    demand_tok_s: float | None = None
    """Output tokens a second, open loop: request rate * output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """So many replicas on the GPU."""

    replicas: int
    curve: Curve
    """Throughput of all of them against the batch of each."""
    runs: float
    """Sequences at a time that each would be given: its knee. Below 1: it has none."""
    most: float
    """Sequences at a time that each could hold: its KV cache, its largest max-num-seqs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operating:
    """Where a packing runs under the load."""

    replicas: int
    point: CurvePoint
    """`batch` of each replica, figures of the whole GPU."""
    goodput_tok_s: float
    """Output tokens a second that keep the bounds."""
    carries: bool
    """Whether the whole load runs within the bounds; else the rest waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From the packing before to one with more replicas."""

    replicas: int
    verdict: Verdict
    gain: Interval
    """1.1: a tenth better, in what `text` says."""
    text: str
    """One sentence with the numbers."""
    operating: Operating | None
    """None where the packing runs nowhere under the bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The packing that pays, and the steps up to the first that does not."""

    operating: Operating
    before: Operating | None
    """The packing with one step fewer; None where the first is the answer."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PayRule:
    """What counts as a gain, and how sure one has to be."""

    policy: PayPolicy
    objective: Objective
    spread: float
    """Half width of a gain: 0.1 is 10 points either way."""
    basis: Basis

    def step(self, before: Operating, after: Operating | None, *, replicas: int, load: Load, carried: bool) -> Step:
        """The verdict on going from one packing to the next.

        `before` is at its best batch; `carried`: the load already is, at the batch that would run.
        """
        if after is None:
            gain = Interval.exactly(0.0, self.basis)
            text = f"No batch is known at which {number_of(replicas)} run within the bounds: does not pay."
            return Step(replicas=replicas, verdict=Verdict.DOES_NOT_PAY, gain=gain, text=text, operating=None)
        if self.objective is Objective.THROUGHPUT and load.demand_tok_s is not None and carried:
            gain = Interval.exactly(1.0, self.basis)
            carry = "carries" if before.replicas == 1 else "carry"
            text = f"{number_of(before.replicas)} {carry} the whole load within the bounds: another does not pay."
            return Step(replicas=replicas, verdict=Verdict.DOES_NOT_PAY, gain=gain, text=text, operating=after)
        expected, what = self.compare(before, after)
        gain = Interval(
            low=max(0.0, expected - self.spread), expected=expected, high=expected + self.spread, basis=self.basis
        )
        verdict = self._verdict(gain)
        best = "its" if before.replicas == 1 else "their"
        at_most = f"at batch {_batch(after)} instead of {before.replicas} at {best} best, {_batch(before)}"
        text = f"{number_of(replicas)} {at_most}: {what}, a gain of {_points(gain)}; {self._word(verdict)}."
        return Step(replicas=replicas, verdict=verdict, gain=gain, text=text, operating=after)

    def compare(self, before: Operating, after: Operating) -> tuple[float, str]:
        """How many times better, by the objective, as long as the load is carried as well as before."""
        more = after.goodput_tok_s / before.goodput_tok_s
        goodput = f"{after.goodput_tok_s:,.0f} instead of {before.goodput_tok_s:,.0f} output tokens/s"
        carries_less = more < 1 / self.policy.step_gain
        energy_before, energy_after = before.point.energy_j_per_token, after.point.energy_j_per_token
        if self.objective is Objective.LATENCY and not carries_less and before.carries:
            itl = f"ITL {after.point.itl_s * 1000:.1f} instead of {before.point.itl_s * 1000:.1f} ms"
            return before.point.itl_s / after.point.itl_s, itl
        if self.objective is Objective.ENERGY and not carries_less and energy_before and energy_after:
            return energy_before / energy_after, f"{energy_after:.4f} instead of {energy_before:.4f} J a token"
        return more, goodput

    def _verdict(self, gain: Interval) -> Verdict:
        if gain.low >= self.policy.step_gain:
            return Verdict.PAYS
        return Verdict.DOES_NOT_PAY if gain.high < self.policy.step_gain else Verdict.UNCERTAIN

    def _word(self, verdict: Verdict) -> str:
        threshold = f"{(self.policy.step_gain - 1) * 100:.0f} %"
        words = {
            Verdict.PAYS: f"pays, being over {threshold}",
            Verdict.DOES_NOT_PAY: f"does not pay, being under {threshold}",
            Verdict.UNCERTAIN: f"uncertain, as {threshold} lies within, which counts as does not pay",
        }
        return words[verdict]


def pack_what_pays(packings: Iterable[Packing], load: Load, bounds: Bounds, *, rule: PayRule) -> Answer | None:
    """Add replicas while each step pays by itself; None where the first packing runs nowhere.

    The packings come by rising number of replicas and are read only as needed.
    """
    rising = iter(packings)
    packing = next(rising)
    current, before, steps = operate(packing, load, bounds, most=packing.runs), None, []
    if current is None:
        return None
    for further in rising:
        best = operate(packing, load, bounds, most=max(packing.runs, packing.most)) or current
        after = operate(further, load, bounds, most=further.runs)
        steps.append(rule.step(best, after, replicas=further.replicas, load=load, carried=current.carries))
        if after is None or steps[-1].verdict is not Verdict.PAYS:
            break
        packing, current, before = further, after, current
    return Answer(operating=current, before=before, steps=tuple(steps))


def operate(packing: Packing, load: Load, bounds: Bounds, *, most: float) -> Operating | None:
    """Where the packing runs with at most so many sequences each.

    None where it holds no request, keeps the bounds at no batch, or nothing is known of the batch.
    """
    curve, replicas = packing.curve, packing.replicas
    top = largest_kept(curve, most, bounds)
    if top is None:
        return None
    if load.in_flight is not None:
        each = load.in_flight / replicas
        if not curve.covers(min(each, top.batch)):
            return None
        best = _no_better_below(curve, curve.at(min(each, top.batch)))
        carries = each <= top.batch
        return Operating(replicas=replicas, point=best, goodput_tok_s=best.throughput_tok_s, carries=carries)
    demand = load.demand_tok_s or 0.0
    if top.throughput_tok_s < demand:
        best = _no_better_below(curve, top)
        return Operating(replicas=replicas, point=best, goodput_tok_s=best.throughput_tok_s, carries=False)
    point = _where_reached(curve, top, demand)
    return Operating(replicas=replicas, point=point, goodput_tok_s=demand, carries=True)


def _batch(operating: Operating) -> str:
    batch = operating.point.batch
    return f"{batch:.0f}" if batch >= 1 else f"{batch:.2g}"


def _points(gain: Interval) -> str:
    low, expected, high = ((part - 1) * 100 for part in (gain.low, gain.expected, gain.high))
    return f"{expected:.1f} % ({low:.0f} to {high:.0f} %)"


def largest_kept(curve: Curve, most: float, bounds: Bounds) -> CurvePoint | None:
    """The largest batch up to `most` that keeps the bounds, to a whole number between two of the grid."""

    def keeps(batch: float) -> bool:
        return batch <= most and _keeps(curve.at(batch), bounds)

    grid, index = curve.grid, len(curve.grid)
    if curve.computed:  # a model's latency rises with the batch; the knee has asked for the same points
        index = bisect_left(grid, True, key=lambda batch: not keeps(batch))
    while index > 0 and not keeps(grid[index - 1]):
        index -= 1
    if index == 0:
        return None
    kept = curve.at(grid[index - 1])
    end = min(most, grid[index]) if index < len(grid) else kept.batch
    if end <= kept.batch:
        return kept
    beyond = curve.at(end)
    return beyond if _keeps(beyond, bounds) else _last_kept(curve, kept, beyond, bounds)


def _keeps(point: CurvePoint, bounds: Bounds) -> bool:
    slow = bounds.itl_s is not None and point.itl_s > bounds.itl_s
    late = bounds.ttft_s is not None and (point.ttft_s is None or point.ttft_s > bounds.ttft_s)
    return not slow and not late


def _last_kept(curve: Curve, kept: CurvePoint, broken: CurvePoint, bounds: Bounds) -> CurvePoint:
    """Latency rises with the batch itself, so a line in its logarithm reaches the bound too early, never too late."""
    part = min(
        _part(bounds.itl_s, kept.itl_s, broken.itl_s),
        _part(bounds.ttft_s, kept.ttft_s, broken.ttft_s),
    )
    between = curve.at(max(kept.batch, float(floor(kept.batch * (broken.batch / kept.batch) ** part))))
    return between if _keeps(between, bounds) else kept


def _part(bound: float | None, low: float | None, high: float | None) -> float:
    """How far from low to high a bound lies; 1 where it is not in the way, 0 where that is not known."""
    if bound is None:
        return 1.0
    if low is None or high is None:
        return 0.0
    return 1.0 if high <= bound else (bound - low) / (high - low)


def _no_better_below(curve: Curve, point: CurvePoint) -> CurvePoint:
    """The best batch up to this one: with a curve that falls again, a smaller one, while the rest waits."""
    for batch in reversed([batch for batch in curve.grid if batch < point.batch]):
        smaller = curve.at(batch)
        if smaller.throughput_tok_s <= point.throughput_tok_s:
            break
        point = smaller
    return point


def _where_reached(curve: Curve, top: CurvePoint, demand: float) -> CurvePoint:
    """The smallest batch whose throughput meets the demand, which `top` does: Little's law read backwards."""
    below = [batch for batch in curve.grid if batch < top.batch]
    index = bisect_left(below, demand, key=lambda batch: curve.at(batch).throughput_tok_s)
    high = curve.at(below[index]) if index < len(below) else top
    if index == 0:
        batch = high.batch * demand / high.throughput_tok_s
    else:
        low = curve.at(below[index - 1])
        part = (demand - low.throughput_tok_s) / (high.throughput_tok_s - low.throughput_tok_s)
        batch = low.batch * (high.batch / low.batch) ** part
    for _ in range(_ROUNDS if curve.computed else 0):
        batch *= demand / curve.at(batch).throughput_tok_s
    return curve.at(batch)
