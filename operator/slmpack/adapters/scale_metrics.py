"""What the operator says of its own scaling, as metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import FigureName, ScaleDecision
from slmpack.domain.snapshot import Key

__all__ = ["COUNTED", "ScaleMetrics"]

OF_ONE = ("namespace", "name")
FIGURES = {
    FigureName.DEMAND: (
        "slmpack_demand_requests_per_second",
        "Requests a second that must be carried: what comes, what waits, and peaks that a start would be too late for.",
    ),
    FigureName.DEMAND_TO_KEEP: (
        "slmpack_demand_to_keep_requests_per_second",
        "Requests a second that fewer replicas must carry before any ends.",
    ),
    FigureName.CAPACITY: (
        "slmpack_capacity_requests_per_second",
        "Requests a second that the present replicas carry within their bounds, by prediction.",
    ),
    FigureName.START: ("slmpack_start_seconds", "How long a start takes: the median of those measured, else assumed."),
}
"""Metric and help of each figure of a decision that is told."""
COUNTED = (
    Reason.LOAD_ROSE,
    Reason.LOAD_FELL,
    Reason.STEADY,
    Reason.HELD,
    Reason.METRICS_UNKNOWN,
    Reason.AT_MAX,
    Reason.AT_MIN,
    Reason.POWER_CEILING,
    Reason.DOES_NOT_PAY,
    Reason.IDLE,
    Reason.WOKEN,
)
"""Reasons of decisions. Their counters begin at 0 before the first: increase() does not see how a series begins."""


@dataclass(frozen=True, slots=True)
class _Last:
    """The decision that was counted last."""

    desired: int
    reason: Reason
    up: bool | None
    """Which way the number changed last; None: it has not."""
    reasons: frozenset[str]
    """Counted so far."""


class ScaleMetrics:
    """Gauges of the present decisions, and counters that go with their SLMDeployment."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._desired = Gauge("slmpack_desired_replicas", "Replicas wanted.", OF_ONE, registry=registry)
        self._wished = Gauge(
            "slmpack_wished_replicas", "Replicas that the load alone asks for.", OF_ONE, registry=registry
        )
        self._known = Gauge(
            "slmpack_metrics_known", "Whether all that a scale decision needs was measured.", OF_ONE, registry=registry
        )
        self._power = Gauge(
            "slmpack_predicted_power_watts",
            "Watts of the deployment's hottest GPU at its load, by prediction.",
            OF_ONE,
            registry=registry,
        )
        self._ceiling = Gauge(
            "slmpack_max_watts_per_gpu", "spec.scaling.maxWattsPerGPU, where there is one.", OF_ONE, registry=registry
        )
        self._figures = {
            figure: Gauge(name, help_, OF_ONE, registry=registry) for figure, (name, help_) in FIGURES.items()
        }
        self._refused = Gauge(
            "slmpack_scale_refused",
            "1 for the reason why more replicas, though wished, are not wanted.",
            (*OF_ONE, "reason"),
            registry=registry,
        )
        self._decisions = Counter(
            "slmpack_scale_decisions",
            "Scale decisions whose number or reason is another than that of the one before.",
            (*OF_ONE, "reason"),
            registry=registry,
        )
        self._reversals = Counter(
            "slmpack_scale_reversals", "Scale decisions that changed direction.", OF_ONE, registry=registry
        )
        self._last: dict[Key, _Last] = {}

    def decided(self, decisions: Mapping[Key, ScaleDecision]) -> None:
        """Take in one cycle's decisions: all there are."""
        gauges = (self._desired, self._wished, self._known, self._power, self._ceiling, self._refused)
        for gauge in (*gauges, *self._figures.values()):
            gauge.clear()
        for key in self._last.keys() - decisions.keys():
            self._forget(key)
        for key, decision in decisions.items():
            at = (key.namespace, key.name)
            self._desired.labels(*at).set(decision.desired)
            self._wished.labels(*at).set(decision.wished)
            self._known.labels(*at).set(decision.known)
            if decision.power_w is not None:
                self._power.labels(*at).set(decision.power_w.expected)
            if decision.ceiling_w is not None:
                self._ceiling.labels(*at).set(decision.ceiling_w)
            for figure in decision.figures:
                if figure.name in self._figures:
                    self._figures[figure.name].labels(*at).set(figure.value)
            if decision.refused is not None:
                self._refused.labels(*at, decision.refused.value).set(1)
            self._count(key, decision)

    def _count(self, key: Key, decision: ScaleDecision) -> None:
        last, at = self._last.get(key), (key.namespace, key.name)
        reversals = self._reversals.labels(*at)  # shown as 0 from the start, so that an increase is seen
        was = decision.current if last is None else last.desired
        up = None if last is None else last.up
        reasons = frozenset(it.value for it in COUNTED) if last is None else last.reasons
        for reason in reasons if last is None else ():
            self._decisions.labels(*at, reason)
        if decision.desired != was:
            reversals.inc(up is not None and up != (decision.desired > was))
            up = decision.desired > was
        if last is None or (decision.desired, decision.reason) != (last.desired, last.reason):
            self._decisions.labels(*at, decision.reason.value).inc()
            reasons |= {decision.reason.value}
        self._last[key] = _Last(desired=decision.desired, reason=decision.reason, up=up, reasons=reasons)

    def _forget(self, key: Key) -> None:
        for reason in self._last.pop(key).reasons:
            self._decisions.remove(key.namespace, key.name, reason)
        self._reversals.remove(key.namespace, key.name)
