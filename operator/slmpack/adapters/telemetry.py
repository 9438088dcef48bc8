"""The operator's own metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from slmpack.adapters.packing_metrics import PackingMetrics
from slmpack.adapters.scale_metrics import ScaleMetrics
from slmpack.domain.conditions import Verdict
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.snapshot import Key

__all__ = ["PrometheusTelemetry"]

NOTHING = ClusterPlan(deployments=(), actions=(), bars=(), next_wake_seconds=None)
TURN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class PrometheusTelemetry:
    """`ports.Telemetry`, served as text."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        of = self._registry
        self._turns = Counter("slmpack_turns", "Turns of the planner's loop.", ("result",), registry=of)
        self._seconds = Histogram("slmpack_turn_seconds", "How long a turn took.", buckets=TURN_BUCKETS, registry=of)
        self._last = Gauge("slmpack_last_turn_timestamp_seconds", "When the last turn ended.", registry=of)
        self._writes = Counter("slmpack_writes", "Writes to the API server that were done.", ("kind",), registry=of)
        self._replicas = Gauge(
            "slmpack_replicas", "Replicas of an SLMDeployment.", ("namespace", "name", "state"), registry=of
        )
        self._reasons = Gauge(
            "slmpack_reason", "1 for the reason in status.", ("namespace", "name", "reason"), registry=of
        )
        self._scaling = ScaleMetrics(of)
        self._packing = PackingMetrics(of)

    def turn(self, result: str, *, seconds: float) -> None:
        """Count a turn. A standby says nothing of what it does not decide: what it said as leader would count twice."""
        if result == "standby":
            self.judged({})
            self.planned(NOTHING)
        self._turns.labels(result).inc()
        self._seconds.observe(seconds)
        self._last.set_to_current_time()

    def wrote(self, kind: str) -> None:
        """Count a write."""
        self._writes.labels(kind).inc()

    def judged(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Replace what is said of every SLMDeployment."""
        self._replicas.clear()
        self._reasons.clear()
        for key, verdict in verdicts.items():
            at = (key.namespace, key.name)
            self._replicas.labels(*at, "existing").set(verdict.replicas)
            self._replicas.labels(*at, "ready").set(verdict.ready)
            self._replicas.labels(*at, "outdated").set(verdict.outdated)
            if verdict.desired is not None:
                self._replicas.labels(*at, "desired").set(verdict.desired)
            self._reasons.labels(*at, verdict.reason.value).set(1)
        self._scaling.decided({key: it.decision for key, it in verdicts.items() if it.decision is not None})

    def planned(self, plan: ClusterPlan) -> None:
        """Replace what is said of GPUs, nodes and what has no room."""
        self._packing.planned(plan)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
