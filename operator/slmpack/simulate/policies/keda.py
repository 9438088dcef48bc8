"""`keda`: 0 to 1 by the activity of a trigger, the HPA on an external metric from 1 up.

Source: KEDA pkg/scaling/executor/scale_scaledobjects.go and controllers/keda/hpa.go. The triggers of vLLM's production
stack read vllm:num_requests_waiting. Without a replica no engine reports it, so here the gateway's own count stands in;
and a trigger counts as active while any request is in flight: with waiting requests alone KEDA would stop engines that
are answering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen
from slmpack.simulate.policies.horizontal import TOLERANCE, Behaviour, Governor, from_external

__all__ = ["KedaRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaRule:
    """`target` requests of `metric` for each replica (AverageValue)."""

    target: float
    metric: Literal["waiting", "in_flight"] = "waiting"
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    behaviour: Behaviour | None = None
    tolerance: float = TOLERANCE
    period_s: float = 15.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One ScaledObject for each tenant."""
        return PerTenant(period_s=self.period_s, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: KedaRule, bounds: Bounds) -> Mover:
    return _Keda(rule, bounds)


class _Keda:
    """One ScaledObject and the HPA that KEDA makes of it."""

    def __init__(self, rule: KedaRule, bounds: Bounds) -> None:
        self._rule = rule
        self._least = bounds.least
        between = Bounds(least=max(1, bounds.least), most=bounds.most)
        self._bounds = between
        self._governor = Governor(behaviour=rule.behaviour, bounds=between)
        self._usage: float | None = None
        self._wanted: int | None = None
        self._polled_at: float | None = None
        self._active_at: float | None = None

    def step(self, seen: TenantSeen) -> int:
        """One sync of the HPA and, every `polling_s`, one check of the trigger before it."""
        current = len(seen.replicas) if self._wanted is None else self._wanted
        current = self._poll(seen, current)
        usage, self._usage = self._usage, self._read(seen)
        if current == 0:
            self._wanted = 0
        elif usage is None or not self._bounds.least <= current <= self._bounds.most:
            self._wanted = self._bounds.clamp(current)
        else:
            wish = from_external(
                usage=usage, target=self._rule.target, replicas=current, tolerance=self._rule.tolerance
            )
            self._wanted = self._governor.settle(now=seen.now, current=current, wish=wish)
        return self._wanted

    def _read(self, seen: TenantSeen) -> float:
        """The trigger's value now; the HPA acts on it one scrape later."""
        if self._rule.metric == "in_flight":
            return float(seen.in_flight)
        return float(seen.gateway_waiting + sum(one.waiting for one in seen.ready))

    def _poll(self, seen: TenantSeen, current: int) -> int:
        """0 to 1 on activity at a poll; to 0 when the last activity is `cooldown_s` past."""
        if self._polled_at is not None and seen.now - self._polled_at < self._rule.polling_s:
            return current
        self._polled_at = seen.now
        if self._active_at is None or seen.in_flight > 0:
            self._active_at = seen.now
        if current == 0:
            return self._bounds.least if seen.in_flight > 0 else 0
        idle = seen.now - self._active_at > self._rule.cooldown_s
        return 0 if self._least == 0 and idle and seen.in_flight == 0 else current
