"""The ceiling on a GPU's watts: predicted at the load that a scale-up is for, corrected by what is measured there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from slmpack.domain.capacity import power_at, rounded
from slmpack.domain.goodput import Goodput
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.load import GpuReading
from slmpack.domain.scale_decision import Figure
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.snapshot import Snapshot
from slmpack.domain.stacks import Gpu, Layout

__all__ = ["Heat", "Watts", "measured_watts", "strangers_on"]


_LEAST = 1e-3
"""Requests a second: a GPU that nobody asks is as good as idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """The hottest GPU of a layout."""

    node: str
    power_w: Interval
    measured_w: float | None
    """What the hottest GPU of its node draws now."""


def measured_watts(readings: Sequence[GpuReading], *, now: datetime, policy: ScalePolicy) -> dict[str, float]:
    """By node: the power of its hottest GPU, where a fresh reading tells. Which GPU a share is on, nobody publishes."""
    found: dict[str, float] = {}
    for reading in readings:
        if reading.power_w is not None and abs(now - reading.at) <= policy.stale:
            found[reading.node] = max(found.get(reading.node, 0.0), reading.power_w)
    return found


def strangers_on(layout: Layout, snapshot: Snapshot, *, policy: ScalePolicy) -> tuple[Figure, ...]:
    """Pods that are not of this operator and that GPUs of the replicas' nodes are attributed to, where there are any.

    What such a GPU draws is then not the replicas' alone.
    """
    ours = {str(pod.key) for pod in snapshot.pods if pod.record is not None}
    nodes = {gpu.node for gpu in layout.used}
    fresh = (gpu for gpu in snapshot.gpus if gpu.node in nodes and abs(snapshot.now - gpu.at) <= policy.stale)
    found = {pod for gpu in fresh for pod in gpu.pods} - ours
    return (Figure(name="strangers", value=float(len(found)), unit="pods"),) if found else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watts:
    """Power of a deployment's GPUs as they are now, and as they would be."""

    before: Layout
    goodput: Goodput
    measured: Mapping[str, float]
    now_s: float
    """Requests a second of the deployment, as measured."""

    def hottest(self, after: Layout, requests_s: float, *, added: bool) -> Heat | None:
        """The GPU that draws most while `after` answers so many requests a second; None where nobody can tell.

        With `added` only among those that would hold more replicas than now.
        """
        heats = (
            self._heat(index, gpu, after, requests_s)
            for index, gpu in enumerate(after.gpus)
            if gpu.ours > (self.before.gpus[index].ours if added else 0)
        )
        return max((heat for heat in heats if heat is not None), key=lambda heat: heat.power_w.high, default=None)

    def _heat(self, index: int, gpu: Gpu, after: Layout, requests_s: float) -> Heat | None:
        predicted = self._predict(gpu, requests_s / after.replicas)
        if predicted is None:
            return None
        measured = self.measured.get(gpu.node) if self.before.gpus[index].in_use else None
        if measured is None:
            return Heat(node=gpu.node, power_w=predicted, measured_w=None)
        was = self._predict(self.before.gpus[index], self.now_s / max(1, self.before.replicas))
        return Heat(
            node=gpu.node,
            power_w=_from(measured, was or _awake(gpu), predicted, most=_most(gpu, predicted)),
            measured_w=measured,
        )

    def _predict(self, gpu: Gpu, each_s: float) -> Interval | None:
        if gpu.stack is None or not gpu.ours:
            return None
        rate = rounded(max(each_s, _LEAST), self.goodput.policy.mix_step)
        return power_at(self.goodput.stack(gpu.stack, gpu.ours), self.goodput.mix, rate)


def _awake(gpu: Gpu) -> Interval:
    """A GPU on which only others run: ours is what is predicted beyond the watts of a loaded GPU that is idle."""
    assert gpu.stack is not None  # noqa: S101 - its power was predicted
    product, power = gpu.stack.site.gpu, gpu.stack.constants.power
    idle = product.loaded_idle_w[0] if product.loaded_idle_w else product.tdp_w * power.loaded_idle_share
    return Interval.exactly(idle, Basis.MODELLED)


def _most(gpu: Gpu, predicted: Interval) -> float:
    """Watts that are not exceeded by prediction alone: what others on the GPU draw is in no prediction."""
    return predicted.high if not gpu.others or gpu.stack is None else float(gpu.stack.site.gpu.tdp_w)


def _from(measured: float, was: Interval, then: Interval, *, most: float) -> Interval:
    """What is measured is known; only the change is predicted, its upper end as far off as the prediction's.

    Between the lowest that was predicted without a measurement and `most`, or what is measured if that is more.
    """
    change = then.expected - was.expected
    spread = then.high / then.expected if change > 0 else 1.0
    high = min(max(most, measured), max(then.low, measured + change * spread))
    expected = min(high, max(then.low, measured + change))
    return Interval(low=min(then.low, expected), expected=expected, high=high, basis=then.basis)
