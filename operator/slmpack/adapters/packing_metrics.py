"""What the operator says of its packing, as metrics: what is on GPUs and nodes, and what has found no room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from slmpack.domain.picture import BarState, bar_state
from slmpack.domain.plan import ClusterPlan, DeploymentPlan, GpuBar
from slmpack.domain.snapshot import Rejected

__all__ = ["PackingMetrics"]

OF_ONE = ("namespace", "name")


class PackingMetrics:
    """Gauges of the present plan; each call of `planned` replaces all of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gpus = Gauge(
            "slmpack_gpus",
            "GPUs, or MIG slices (unit), of a node: used (a replica runs or starts on it), held (by others, by what"
            " ends, or for what starts later) or free.",
            ("node", "product", "unit", "state"),
            registry=registry,
        )
        self._node = Gauge(
            "slmpack_node_replicas",
            "Replicas on a node: ready, starting, planned, waiting for their turn, ending, idle (of a pack), or foreign"
            " (others' shares).",
            ("node", "state"),
            registry=registry,
        )
        self._refused = Gauge(
            "slmpack_node_refused",
            "1 for each reason why GPUs of a node are not offered.",
            ("node", "reason"),
            registry=registry,
        )
        self._per_gpu = Gauge(
            "slmpack_replicas_per_gpu",
            "Replicas that fit and pay on one GPU of the kind in use, by prediction.",
            OF_ONE,
            registry=registry,
        )
        self._unplaced = Gauge(
            "slmpack_unplaced_replicas",
            "Replicas that are wanted and have no room.",
            (*OF_ONE, "reason"),
            registry=registry,
        )
        self._bound = Gauge(
            "slmpack_latency_bound_seconds",
            "The bound to keep: ttft at its 95th percentile, itl at its mean.",
            (*OF_ONE, "of"),
            registry=registry,
        )

    def planned(self, plan: ClusterPlan) -> None:
        """Take in one cycle's plan."""
        for gauge in (self._gpus, self._node, self._refused, self._per_gpu, self._unplaced, self._bound):
            gauge.clear()
        self._draw(plan.bars)
        for part in plan.deployments:
            self._tell(part)

    def _draw(self, bars: Iterable[GpuBar]) -> None:
        gpus: Counter[tuple[str, ...]] = Counter()
        replicas: Counter[tuple[str, str]] = Counter()
        for bar in bars:
            if bar.refusal is not None:
                self._refused.labels(bar.node, bar.refusal.value).set(1)
                continue
            unit, now = "slice" if bar.is_slice else "gpu", bar_state(bar)
            for state in BarState:  # each a series from the start: none is a number, too
                gpus[bar.node, bar.product, unit, state] += state is now
            replicas.update((bar.node, block.state) for block in bar.blocks)
        for labels, count in gpus.items():
            self._gpus.labels(*labels).set(count)
        for at, count in replicas.items():
            self._node.labels(*at).set(count)

    def _tell(self, part: DeploymentPlan) -> None:
        at = (part.deployment.key.namespace, part.deployment.key.name)
        if part.per_gpu:
            self._per_gpu.labels(*at).set(part.per_gpu)
        for entry in part.unplaced:
            self._unplaced.labels(*at, entry.problem.reason.value).inc(entry.count)
        demand = part.deployment.demand
        if isinstance(demand, Rejected):
            return
        for name, bound in (("ttft", demand.kept_bounds.ttft_s), ("itl", demand.kept_bounds.itl_s)):
            if bound is not None:
                self._bound.labels(*at, name).set(bound)
