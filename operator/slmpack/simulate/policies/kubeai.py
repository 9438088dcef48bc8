"""`kubeai`: KubeAI's autoscaler on the mean of its proxies' requests over ten minutes.

Source: kubeai internal/modelautoscaler/autoscaler.go, internal/modelclient/scale.go, internal/movingaverage/simple.go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen, whole_above

__all__ = ["KubeAiRule"]

_PROXY_S = 1.0
"""How often the proxy's own 0 to 1 is looked at; KubeAI's does it within the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeAiRule:
    """`target` requests in flight for each replica (targetRequests)."""

    target: float
    interval_s: float = 10.0
    window_s: float = 600.0
    down_delay_s: float = 30.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One Model for each tenant."""
        to_zero = any(one.least == 0 for one in bounds)
        period_s = min(_PROXY_S, self.interval_s) if to_zero else self.interval_s
        return PerTenant(period_s=period_s, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: KubeAiRule, bounds: Bounds) -> Mover:
    return _KubeAi(rule, bounds)


class _KubeAi:
    """One model's ring of samples and its count of lower ticks."""

    def __init__(self, rule: KubeAiRule, bounds: Bounds) -> None:
        count = whole_above(rule.window_s / rule.interval_s)
        self._rule = rule
        self._bounds = bounds
        self._ring: deque[float] = deque([0.0] * count, maxlen=count)
        self._lower = 0
        self._wanted: int | None = None
        self._ticked_at: float | None = None

    def step(self, seen: TenantSeen) -> int:
        """One tick every `interval_s`; in between only the proxy's 0 to 1."""
        current = len(seen.replicas) if self._wanted is None else self._wanted
        if self._ticked_at is None or seen.now - self._ticked_at >= self._rule.interval_s:
            self._ticked_at = seen.now
            current = self._tick(seen, current)
        if current == 0 and seen.gateway_waiting:
            current = 1
        self._wanted = current
        return current

    def _tick(self, seen: TenantSeen, current: int) -> int:
        """Up at once; down only after enough lower ticks in a row."""
        self._ring.append(float(seen.in_flight))
        mean = sum(self._ring) / len(self._ring)
        wish = self._bounds.clamp(whole_above(mean / self._rule.target))
        if wish >= current:
            self._lower = 0
            return wish
        if self._lower < whole_above(self._rule.down_delay_s / self._rule.interval_s):
            self._lower += 1
            return current
        return wish
