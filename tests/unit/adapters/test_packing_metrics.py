"""The operator's metrics of its own packing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry

from slmpack.adapters.packing_metrics import PackingMetrics
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Rejected
from slmpack.domain.workload import Bounds
from tests.support.builders import (
    H100,
    L4,
    a_demand,
    a_deployment,
    a_node,
    a_pod,
    a_snapshot,
    a_stranger,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)


class Scene:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = PackingMetrics(self.registry)

    def planned(self, found: ClusterPlan) -> None:
        self.metrics.planned(found)

    def gpus(self, node: str, product: str, unit: str = "gpu") -> dict[str, float | None]:
        at = {"node": node, "product": product, "unit": unit}
        found = {state: self.value("slmpack_gpus", state=state, **at) for state in ("used", "held", "free")}
        return {state: count for state, count in found.items() if count}

    def value(self, metric: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(metric, labels)


def one(name: str = "qwen", **demand: Any) -> Any:
    return a_deployment(name, a_demand(**demand))


def test_gpus_are_used_held_or_free() -> None:
    scene, nodes = Scene(), (whole_node("a", gpus=3), whole_node("b"))
    view = one(replicas=1)
    first = plan(a_snapshot(deployments=(view,), nodes=nodes))
    scene.planned(first)
    assert scene.gpus("a", L4) == {"held": 1, "free": 2}, "planned, not there yet"
    pod = a_pod(creates(first)[0], ready=True)
    scene.planned(plan(a_snapshot(deployments=(view,), nodes=nodes, pods=(pod, a_stranger("s", "b")))))
    assert scene.gpus("a", L4) == {"used": 1, "free": 2}
    assert scene.gpus("b", L4) == {"held": 1}
    assert scene.value("slmpack_gpus", node="b", product=L4, unit="gpu", state="used") == 0, "none is a number"
    assert scene.value("slmpack_node_replicas", node="a", state="ready") == 1
    assert scene.value("slmpack_node_replicas", node="b", state="foreign") == 1
    scene.planned(plan(a_snapshot(deployments=(view,), nodes=nodes, pods=(replace(pod, deleting=True),))))
    assert scene.value("slmpack_node_replicas", node="a", state="ending") == 1
    assert scene.gpus("a", L4)["held"] >= 1  # type: ignore[operator]


def test_slices_are_not_gpus() -> None:
    scene = Scene()
    scene.planned(plan(a_snapshot(nodes=(mig_node("m", slices={"1g.5gb": 3, "3g.20gb": 1}),))))
    assert scene.gpus("m", "NVIDIA-A100-SXM4-40GB", "slice") == {"free": 4}
    assert scene.gpus("m", "NVIDIA-A100-SXM4-40GB") == {}


def test_what_is_not_offered_is_no_gpu_and_gives_its_reason() -> None:
    scene = Scene()
    labels = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}
    node = a_node("t", product=f"{L4}-SHARED", labels=labels, resources={"nvidia.com/gpu": 4})
    scene.planned(plan(a_snapshot(nodes=(node,))))
    assert scene.value("slmpack_node_refused", node="t", reason="TimeSliced") == 1
    assert scene.gpus("t", L4) == {}


def test_what_has_no_room_is_counted_by_reason() -> None:
    scene = Scene()
    scene.planned(plan(a_snapshot(deployments=(one(replicas=7, mode=Mode.MPS),), nodes=(mps_node("n", replicas=4),))))
    at = {"namespace": "llm", "name": "qwen"}
    samples = [it for metric in scene.registry.collect() for it in metric.samples]
    unplaced = {it.labels["reason"]: it.value for it in samples if it.name == "slmpack_unplaced_replicas"}
    assert sum(unplaced.values()) >= 3
    assert set(unplaced) <= {"DoesNotPay", "InsufficientGpus"}
    assert scene.value("slmpack_replicas_per_gpu", **at) == 7 - sum(unplaced.values())
    assert scene.value("slmpack_node_replicas", node="n", state="planned") == 1
    scene.planned(plan(a_snapshot(nodes=(mps_node("n", product=H100),))))
    assert scene.value("slmpack_replicas_per_gpu", **at) is None
    assert [it for m in scene.registry.collect() for it in m.samples if "qwen" in it.labels.values()] == []


def test_a_bound_is_that_of_scaling_else_of_the_spec() -> None:
    scene = Scene()

    def bound(of: str, name: str) -> float | None:
        return scene.value("slmpack_latency_bound_seconds", namespace="llm", name=name, of=of)

    bounds = Bounds(ttft_s=2.0, itl_s=0.05)
    fixed = a_deployment("fixed", replace(a_demand(), bounds=bounds))
    scaled = a_deployment(
        "scaled", replace(a_demand(), bounds=bounds, scaling=ScalingSpec(least=1, most=2, ttft_s=1.0))
    )
    rejected = a_deployment("rejected", Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message=""),)))
    free = a_deployment("free", a_demand())
    scene.planned(plan(a_snapshot(deployments=(fixed, scaled, rejected, free), nodes=(whole_node("n", gpus=4),))))
    assert (bound("ttft", "fixed"), bound("itl", "fixed")) == (2.0, 0.05)
    assert (bound("ttft", "scaled"), bound("itl", "scaled")) == (1.0, 0.05)
    assert bound("ttft", "rejected") is None
    assert bound("itl", "free") is None
