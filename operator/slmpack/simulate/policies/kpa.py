"""`kpa`: Knative's pod autoscaler on concurrency, with its panic mode and its way to zero.

Source: knative/serving pkg/autoscaler/scaling/autoscaler.go, pkg/autoscaler/config/config.go and
pkg/reconciler/autoscaling/kpa/scaler.go. A bucket holds the requests in flight when the second ended, those at the
activator included; Knative's queue-proxy averages over the second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen, whole_above

__all__ = ["KpaRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KpaRule:
    """`target` requests in flight for each pod: 0.7 of containerConcurrency where that is set."""

    target: float
    tick_s: float = 2.0
    bucket_s: float = 1.0
    stable_s: float = 60.0
    panic_s: float = 6.0
    panic_threshold: float = 2.0
    up_rate: float = 1000.0
    down_rate: float = 2.0
    grace_s: float = 30.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One PodAutoscaler for each tenant."""
        return PerTenant(period_s=self.bucket_s, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: KpaRule, bounds: Bounds) -> Mover:
    return _Kpa(rule, bounds)


class _Kpa:
    """One revision's autoscaler."""

    def __init__(self, rule: KpaRule, bounds: Bounds) -> None:
        self._rule = rule
        self._bounds = bounds
        self._buckets: deque[float] = deque(maxlen=round(rule.stable_s / rule.bucket_s))
        self._wanted = 0
        self._ticked_at: float | None = None
        self._panicked_at: float | None = None
        self._panic_pods = 0
        self._arrived = 0
        self._active_at = 0.0
        self._proxied_at: float | None = None

    def step(self, seen: TenantSeen) -> int:
        """Fill one bucket; decide every `tick_s`, and at once when the first request comes at zero replicas."""
        came = seen.arrived > self._arrived
        self._arrived = seen.arrived
        # A request that came and went within the second is in no count: a sliver keeps the window from reading idle.
        self._buckets.append(max(float(seen.in_flight), self._rule.bucket_s / 1000 if came else 0.0))
        if self._ticked_at is None:
            self._begin(seen)
        elif seen.now - self._ticked_at < self._rule.tick_s and not (self._wanted == 0 and seen.in_flight):
            return self._wanted
        self._ticked_at = seen.now
        self._wanted = self._to_zero(seen.now, self._bounds.clamp(self._desired(seen)))
        return self._wanted

    def _begin(self, seen: TenantSeen) -> None:
        """A new autoscaler of more than one pod starts in panic, so that it keeps them."""
        self._wanted = len(seen.replicas)
        self._active_at = seen.now
        if len(seen.ready) > 1:
            self._panicked_at = seen.now
            self._panic_pods = len(seen.ready)

    def _desired(self, seen: TenantSeen) -> int:
        """Scale(): the stable number, or in panic the highest of both windows so far."""
        rule = self._rule
        ready = max(1, len(seen.ready))
        most, least = whole_above(rule.up_rate * ready), int(ready / rule.down_rate)
        stable = whole_above(self._mean(rule.stable_s) / rule.target)
        panic = whole_above(self._mean(rule.panic_s) / rule.target)
        over = panic / ready >= rule.panic_threshold
        if over:
            self._panicked_at = seen.now
        elif self._panicked_at is not None and self._panicked_at + rule.stable_s < seen.now:
            self._panicked_at = None
            self._panic_pods = 0
        desired = min(max(stable, least), most)
        if self._panicked_at is None:
            return desired
        self._panic_pods = max(self._panic_pods, desired, min(max(panic, least), most))
        return self._panic_pods

    def _mean(self, window_s: float) -> float:
        """Mean of the buckets within the window, or of as many as there are."""
        count = min(len(self._buckets), round(window_s / self._rule.bucket_s))
        return sum(self._buckets[-index] for index in range(1, count + 1)) / count

    def _to_zero(self, now: float, desired: int) -> int:
        """HandleScaleToZero: active for a stable window first, then `grace_s` with the activator in the path."""
        if desired > 0:
            if self._wanted == 0:
                self._active_at = now
            self._proxied_at = None
            return desired
        if self._wanted == 0:
            return 0
        if now - self._active_at < self._rule.stable_s:
            return 1
        if self._proxied_at is None:
            self._proxied_at = now
        return 0 if now - self._proxied_at >= self._rule.grace_s else self._wanted
