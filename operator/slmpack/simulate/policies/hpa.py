"""`hpa`: Kubernetes' HorizontalPodAutoscaler on the mean of running and waiting requests over the pods.

Every 15 s, on the sample of the look before: a scrape and the metrics adapter make it about 15 s old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen
from slmpack.simulate.policies.horizontal import TOLERANCE, Behaviour, Governor, PodSamples, from_pods

__all__ = ["HpaRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaRule:
    """`target` requests in flight for each pod; the least number of replicas is 1 (no HPAScaleToZero gate)."""

    target: float
    behaviour: Behaviour | None = None
    tolerance: float = TOLERANCE
    period_s: float = 15.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One HPA for each tenant."""
        return PerTenant(period_s=self.period_s, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: HpaRule, bounds: Bounds) -> Mover:
    return _Hpa(rule, bounds)


class _Hpa:
    """One HPA object."""

    def __init__(self, rule: HpaRule, bounds: Bounds) -> None:
        self._rule = rule
        self._bounds = Bounds(least=max(1, bounds.least), most=bounds.most)
        self._governor = Governor(behaviour=rule.behaviour, bounds=self._bounds)
        self._sample: dict[int, int] = {}
        self._wanted: int | None = None

    def step(self, seen: TenantSeen) -> int:
        """One sync: a pod that is ready but was not at the last scrape has no sample yet."""
        current = len(seen.replicas) if self._wanted is None else self._wanted
        measured = [float(self._sample[one.replica]) for one in seen.ready if one.replica in self._sample]
        self._sample = {one.replica: one.in_flight for one in seen.ready}
        if not self._bounds.least <= current <= self._bounds.most:
            self._wanted = self._bounds.clamp(current)
            return self._wanted
        pods = PodSamples(
            measured=measured,
            missing=len(seen.replicas) - len(measured),
            unready=max(0, current - len(seen.replicas)),
        )
        rule = self._rule
        wish = from_pods(pods, target=rule.target, replicas=current, tolerance=rule.tolerance)
        self._wanted = self._governor.settle(now=seen.now, current=current, wish=wish)
        return self._wanted
