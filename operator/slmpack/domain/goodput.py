"""What a deployment's replicas carry together, as they lie on their GPUs; corrected by what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from slmpack.domain.calibration import Calibration
from slmpack.domain.capacity import Carried, Mix, Stack, carried, latency_at, rounded
from slmpack.domain.load import LoadSample
from slmpack.domain.performance import Unpredictable
from slmpack.domain.question import ChoicePolicy
from slmpack.domain.scale_decision import Figure, FigureName
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.stacks import Layout
from slmpack.domain.workload import Bounds

__all__ = ["Correction", "Goodput", "correct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """By how much modelled times are wrong, within what a model may be off."""

    factor: float = 1.0
    """Of every modelled time; 1 where nothing can be compared."""
    measured: bool = False
    """Whether a latency of a batch says so now; else it is remembered, or nothing is known."""
    figures: tuple[Figure, ...] = ()

    def remembered(self, factor: float | None) -> Correction:
        """As learned, where anything was: a measurement of this moment is a part of that."""
        if factor is None:
            return self
        own = Figure(name="correction", value=factor, unit="", basis="calibrated")
        return replace(self, factor=factor, figures=(*(it for it in self.figures if it.name != own.name), own))

    def careful(self, late: float, policy: ScalePolicy) -> Correction:
        """For ends: where nothing can be compared, the model may be as far off as the policy's `unmeasured`."""
        if self.measured:
            return self
        doubt = (policy.unmeasured - 1.0) * min(1.0, policy.care * late)
        return replace(self, factor=max(self.factor, rounded(1.0 + doubt, policy.mix_step)))


@dataclass(slots=True, kw_only=True)
class Goodput:
    """Requests a second, by layout; one decision asks for many that differ in one replica."""

    mix: Mix
    bounds: Bounds
    correction: Correction
    choice: ChoicePolicy
    policy: ScalePolicy
    _stacks: dict[int, Stack] = field(default_factory=dict)
    _each: dict[tuple[int, int], Carried | Unpredictable] = field(default_factory=dict)

    def corrected(self, correction: Correction) -> Goodput:
        """The same with what is measured."""
        return Goodput(mix=self.mix, bounds=self.bounds, correction=correction, choice=self.choice, policy=self.policy)

    def of(self, layout: Layout) -> float:
        """What all replicas carry: a Service gives each the same part, so the slowest says how much that may be.

        Nothing, where nobody can tell.
        """
        each = self.each(layout)
        return 0.0 if isinstance(each, Unpredictable) else each.requests_s * layout.replicas

    def each(self, layout: Layout) -> Carried | Unpredictable:
        """What the slowest replica carries, while all of them are as busy."""
        slowest: Carried | None = None
        for gpu in layout.used or layout.gpus[:1]:
            found = self._one(gpu.stack, max(1, gpu.ours))
            if isinstance(found, Unpredictable):
                return found
            if slowest is None or found.requests_s < slowest.requests_s:
                slowest = found
        return Unpredictable(reason="no GPU suits the deployment") if slowest is None else slowest

    def stack(self, stack: Stack, replicas: int) -> Stack:
        """So many replicas there, as corrected."""
        if id(stack) not in self._stacks:
            self._stacks[id(stack)] = _corrected(stack, self.correction.factor)
        return replace(self._stacks[id(stack)], replicas=replicas)

    def _one(self, stack: Stack | None, replicas: int) -> Carried | Unpredictable:
        if stack is None:
            return Unpredictable(reason="the model or the GPU of a replica is unknown")
        key = id(stack), replicas
        if key not in self._each:
            crowd = self.stack(stack, replicas)
            self._each[key] = self._at_least(self._carried(crowd), replace(stack, replicas=replicas))
        return self._each[key]

    def _carried(self, crowd: Stack) -> Carried | Unpredictable:
        return carried(crowd, self.mix, self.bounds, self.choice, self.policy.tail)

    def _at_least(self, found: Carried | Unpredictable, crowd: Stack) -> Carried | Unpredictable:
        """No less than what is carried without the correction, over its square.

        Near a tight bound a little slower would be next to nothing, and more replicas would be added without an end.
        """
        if self.correction.factor <= 1.0 or isinstance(found, Unpredictable):
            return found
        plain = self._carried(crowd)
        least = 0.0 if isinstance(plain, Unpredictable) else plain.requests_s / self.correction.factor**2
        return replace(found, requests_s=max(found.requests_s, least))


def correct(layout: Layout, sample: LoadSample, modelled: Goodput) -> Correction:
    """Compare the latency that is measured with what the model, not corrected, says of the same batch.

    Sequences in decode are tokens a second times the latency of one (Little's law), of one window; no scrape of an
    instant is compared with a mean. Replicas that slow each other are the model's: what is left is its error. That a
    small batch is faster than modelled says little of the knee, and counts in proportion.
    """
    each = modelled.each(layout)
    if isinstance(each, Unpredictable) or not sample.itl_s or not sample.generation_tok_s or not sample.reporting:
        return Correction()
    policy = modelled.policy
    batch = sample.generation_tok_s * sample.itl_s / sample.reporting
    if batch < policy.least_batch:
        return Correction()
    expected = _latency(layout, modelled.mix, rounded(batch, policy.mix_step))
    ratio = policy.bounded(sample.itl_s / expected) or 1.0
    if ratio < 1.0:
        ratio = 1.0 - (1.0 - ratio) * min(1.0, batch / each.most)
    factor = rounded(ratio, policy.mix_step)
    figures = (
        Figure(name=FigureName.ITL, value=sample.itl_s, unit="s"),
        Figure(name="modelledItl", value=expected, unit="s", basis="modelled"),
        Figure(name="correction", value=factor, unit="", basis="calibrated"),
    )
    return Correction(factor=factor, measured=True, figures=figures)


def _latency(layout: Layout, mix: Mix, batch: float) -> float:
    """Mean over the replicas, each of which has so many requests; of a layout whose GPUs can be predicted."""
    found = [
        (gpu.ours, latency_at(replace(gpu.stack, replicas=gpu.ours), mix, batch)) for gpu in layout.used if gpu.stack
    ]
    return sum(count * (itl or 0.0) for count, itl in found) / sum(count for count, _ in found)


def _corrected(stack: Stack, factor: float) -> Stack:
    if factor == 1.0:
        return stack
    known = stack.calibration or Calibration(step_s=0.0, factor=1.0, points=0)
    return replace(stack, calibration=replace(known, step_s=known.step_s * factor, factor=known.factor * factor))
