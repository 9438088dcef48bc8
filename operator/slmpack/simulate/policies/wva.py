"""`wva`: llm-d's workload variant autoscaler, saturation analyser v1, alone or behind the HPA of its chart.

Source: workload-variant-autoscaler internal/saturation/analyzer.go and its chart's values. One variant a model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slmpack.simulate.policies.base import Bounds, Mover, PerTenant, Scaler, TenantSeen
from slmpack.simulate.policies.horizontal import Behaviour, Governor, Rate, from_external

__all__ = ["CHART", "WvaRule"]

_RATES = (Rate(pods=10, per_s=150.0),)
CHART = Behaviour(up_window_s=240.0, down_window_s=240.0, up=_RATES, down=_RATES)
"""The chart's HPA: 240 s of stabilisation both ways, 10 pods in 150 s."""
_SCRAPE_S = 15.0
_POLL_S = 1.0
"""WVA polls the scheduler's queue every 100 ms at zero replicas; a second is what this looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WvaRule:
    """`kv_threshold` is swept; `charted` puts the chart's HPA behind it."""

    kv_threshold: float = 0.80
    queue_threshold: float = 5.0
    kv_trigger: float = 0.10
    queue_trigger: float = 3.0
    charted: bool = False
    interval_s: float = 60.0
    retention_s: float = 600.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """One VariantAutoscaling for each tenant."""
        to_zero = any(one.least == 0 for one in bounds)
        return PerTenant(period_s=_POLL_S if to_zero else _SCRAPE_S, mover=partial(_mover, self), bounds=bounds)


def _mover(rule: WvaRule, bounds: Bounds) -> Mover:
    return _Wva(rule, bounds)


class _Wva:
    """One model with one variant."""

    def __init__(self, rule: WvaRule, bounds: Bounds) -> None:
        self._rule = rule
        self._bounds = bounds
        between = Bounds(least=max(1, bounds.least), most=bounds.most)
        self._governor = Governor(behaviour=CHART, bounds=between)
        self._scrapes: deque[tuple[float, dict[int, tuple[float, int]]]] = deque()
        self._desired: int | None = None
        self._wanted = 0
        self._arrived = 0
        self._used_at = 0.0
        self._decided_at: float | None = None
        self._synced_at: float | None = None

    def step(self, seen: TenantSeen) -> int:
        """Scrape every 15 s, analyse every `interval_s`, and let the HPA act every 15 s where there is one."""
        if seen.arrived > self._arrived or seen.in_flight:
            self._used_at = seen.now
        self._arrived = seen.arrived
        if self._desired is None:
            self._desired = self._wanted = self._bounds.clamp(len(seen.replicas))
            self._used_at = self._decided_at = seen.now
        self._scrape(seen)
        if self._decided_at is None or seen.now - self._decided_at >= self._rule.interval_s:
            self._decided_at = seen.now
            self._desired = self._bounds.clamp(self._analysed(seen, self._desired))
        if self._wanted == 0 and seen.gateway_waiting:
            self._desired = 1
        self._apply(seen.now)
        return self._wanted

    def _scrape(self, seen: TenantSeen) -> None:
        """Keep a minute of samples of KV usage and queue."""
        if self._scrapes and seen.now - self._scrapes[-1][0] < _SCRAPE_S:
            return
        self._scrapes.append((seen.now, {one.replica: (one.kv_usage, one.waiting) for one in seen.ready}))
        while self._scrapes[0][0] <= seen.now - self._rule.interval_s:
            self._scrapes.popleft()

    def _analysed(self, seen: TenantSeen, desired: int) -> int:
        """AnalyzeModelSaturation and CalculateSaturationTargets."""
        if self._bounds.least == 0 and seen.now - self._used_at > self._rule.retention_s:
            return 0
        peaks = self._peaks(seen)
        if desired != self._wanted or len(peaks) != self._wanted:
            return desired  # in transition: nothing moves until what was asked for is there and reports
        if not peaks:
            return desired
        rule = self._rule
        spares = [
            (rule.kv_threshold - kv, rule.queue_threshold - queue)
            for kv, queue in peaks
            if kv < rule.kv_threshold and queue < rule.queue_threshold
        ]
        kv = sum(one for one, _ in spares) / len(spares) if spares else 0.0
        queue = sum(one for _, one in spares) / len(spares) if spares else 0.0
        if kv < rule.kv_trigger or queue < rule.queue_trigger:
            return len(peaks) + 1
        return len(peaks) - 1 if self._spare_after(len(spares), kv, queue) else len(peaks)

    def _spare_after(self, count: int, kv: float, queue: float) -> bool:
        """IsScaleDownSafe: the load of N on N-1 still leaves both spares at their triggers."""
        rule = self._rule
        if count < 2:
            return False
        factor = count / (count - 1)
        kv_after = rule.kv_threshold - (rule.kv_threshold - kv) * factor
        queue_after = rule.queue_threshold - (rule.queue_threshold - queue) * factor
        return kv_after >= rule.kv_trigger and queue_after >= rule.queue_trigger

    def _peaks(self, seen: TenantSeen) -> list[tuple[float, int]]:
        """max_over_time[1m] of each ready replica that has been scraped."""
        peaks = []
        for one in seen.ready:
            samples = [scrape[one.replica] for _, scrape in self._scrapes if one.replica in scrape]
            if samples:
                peaks.append((max(kv for kv, _ in samples), max(queue for _, queue in samples)))
        return peaks

    def _apply(self, now: float) -> None:
        """Without the HPA the number is applied; with it the HPA follows the number as an external metric."""
        desired = self._desired or 0
        if not self._rule.charted or desired == 0 or self._wanted == 0:
            self._wanted = desired
        elif self._synced_at is None or now - self._synced_at >= _SCRAPE_S:
            self._synced_at = now
            wish = from_external(usage=float(desired), target=1.0, replicas=self._wanted)
            self._wanted = self._governor.settle(now=now, current=self._wanted, wish=wish)
