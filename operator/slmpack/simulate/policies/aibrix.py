"""`aibrix`: AIBrix's APA strategy on the mean of requests in flight over the pods.

Source: aibrix pkg/controller/podautoscaler/{autoscaler,podautoscaler_controller}.go, algorithm/apa.go and
context/context.go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen, whole_above, whole_below

__all__ = ["AibrixRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AibrixRule:
    """`target` requests in flight for each pod.

    `as_coded`: at a wish to go down the controller takes the *lowest* wish of the cool-down window, which drops below
    what the load needs; its comment says that it holds as the HPA does (the highest), which is the default here.
    """

    target: float
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    up_rate: float = 2.0
    down_rate: float = 2.0
    window_s: float = 180.0
    cooldown_s: float = 300.0
    period_s: float = 10.0
    as_coded: bool = False

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One PodAutoscaler for each tenant."""
        return PerTenant(period_s=self.period_s, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: AibrixRule, bounds: Bounds) -> Mover:
    return _Apa(rule, bounds)


class _Apa:
    """One PodAutoscaler; it never goes below 1: at none there is no pod to ask."""

    def __init__(self, rule: AibrixRule, bounds: Bounds) -> None:
        self._rule = rule
        self._bounds = Bounds(least=max(1, bounds.least), most=bounds.most)
        self._values: deque[tuple[float, float]] = deque()
        self._wishes: deque[tuple[float, int]] = deque()
        self._wanted: int | None = None

    def step(self, seen: TenantSeen) -> int:
        """One reconciliation; without a ready pod nothing is measured and nothing changes."""
        current = self._bounds.clamp(len(seen.replicas) if self._wanted is None else self._wanted)
        self._wanted = current
        ready = seen.ready
        if not ready:
            return current
        self._values.append((seen.now, sum(one.in_flight for one in ready) / len(ready)))
        while self._values[0][0] <= seen.now - self._rule.window_s:
            self._values.popleft()
        usage = sum(value for _, value in self._values) / len(self._values)
        wish = self._bounds.clamp(self._wish(usage, current))
        wish = self._guarded(usage, wish, current, len(ready))
        self._wanted = self._settled(seen.now, wish, current)
        return self._wanted

    def _wish(self, usage: float, current: int) -> int:
        """ComputeTargetReplicas."""
        rule = self._rule
        ratio = usage / rule.target
        if ratio > 1 + rule.up_tolerance:
            return min(whole_above(current * ratio), whole_above(rule.up_rate * current))
        if ratio < 1 - rule.down_tolerance:
            return max(whole_above(current * ratio), whole_below(current / rule.down_rate))
        return current

    def _guarded(self, usage: float, wish: int, current: int, ready: int) -> int:
        """ApplyPendingReplicaGuard: pods that are not ready count as 0 upwards, as the target downwards."""
        pending = current - min(ready, current)
        if pending <= 0 or wish == current:
            return wish
        if wish > current:
            return min(max(whole_above(usage * ready / self._rule.target), current), wish)
        adjusted = whole_above((usage * ready + self._rule.target * pending) / self._rule.target)
        return max(min(adjusted, current), wish)

    def _settled(self, now: float, wish: int, current: int) -> int:
        """StabilizeRecommendation: up at once (a window of 0 s), down by the window."""
        self._wishes.append((now, wish))
        while self._wishes[0][0] <= now - self._rule.cooldown_s:
            self._wishes.popleft()
        if wish >= current:
            return wish
        wishes = [value for _, value in self._wishes]
        return min(wishes) if self._rule.as_coded else min(max(wishes), current)
