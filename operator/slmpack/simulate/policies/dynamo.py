"""`dynamo`: NVIDIA Dynamo's planner in its easy modes, for aggregated engines.

Source: dynamo components/src/dynamo/planner/core/load_scaling.py (_agg_easy_decision, _advance_load_agg).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen

__all__ = ["DynamoRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoRule:
    """One replica more where any engine is above `up`, one fewer where all are below `down`.

    Both are shares of the KV cache, tokens in use and queued prompt tokens together. Throughput mode (the default) has
    1.0 and 0.6, latency mode 0.4 and 0.1.
    """

    up: float = 1.0
    down: float = 0.6
    period_s: float = 5.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One planner for each tenant."""
        return PerTenant(period_s=self.period_s, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: DynamoRule, bounds: Bounds) -> Mover:
    return _Dynamo(rule, bounds)


class _Dynamo:
    """One planner; min_endpoint 1."""

    def __init__(self, rule: DynamoRule, bounds: Bounds) -> None:
        self._rule = rule
        self._bounds = Bounds(least=max(1, bounds.least), most=bounds.most)
        self._wanted: int | None = None

    def step(self, seen: TenantSeen) -> int:
        """One tick, skipped while what was asked for is not there, ready and reporting."""
        if self._wanted is None:
            self._wanted = self._bounds.clamp(len(seen.replicas))
        count = len(seen.ready)
        if count != self._wanted:
            return self._wanted
        use = [one.kv_usage + (one.waiting_tokens / one.kv_tokens if one.kv_tokens else 0.0) for one in seen.ready]
        if any(value > self._rule.up for value in use):
            self._wanted = self._bounds.clamp(count + 1)
        elif count > 1 and all(value < self._rule.down for value in use):
            self._wanted = self._bounds.clamp(count - 1)
        return self._wanted
