"""Small worlds for tests: each builder gives a valid value and takes what a test cares about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from slmpack.adapters.policy import load_policy
from slmpack.adapters.tables import bundled_config
from slmpack.domain.engine_version import EngineVersion
from slmpack.domain.inventory import read_nodes, where
from slmpack.domain.model import ModelProfile, UnknownLayout, parse_model_config
from slmpack.domain.pack import EngineReport, EngineState, PackReport
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, EndPod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Problem
from slmpack.domain.sharing import Mode, MpsShare, cuda_total_bytes, limit_bytes, replicas_in
from slmpack.domain.sizing import Need, size_replica
from slmpack.domain.snapshot import (
    Demand,
    DeploymentView,
    Key,
    ModelUnknown,
    NodeView,
    PodPhase,
    PodView,
    Policy,
    Rejected,
    Snapshot,
    Taint,
    Toleration,
)
from slmpack.domain.workload import Objective

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = load_policy()
PACKS = replace(POLICY, supervisor_image="registry.example.org/slmpack:1")
"""The policy of an operator that can make packs."""

A100_40 = "NVIDIA-A100-SXM4-40GB"
H100 = "NVIDIA-H100-80GB-HBM3"
L4 = "NVIDIA-L4"


def a_model(name: str = "Qwen/Qwen2.5-1.5B-Instruct") -> ModelProfile:
    config = bundled_config(name)
    assert config is not None, f"no bundled config for {name}"
    profile = parse_model_config(config)
    assert not isinstance(profile, UnknownLayout)
    return profile


def a_node(
    name: str,
    *,
    product: str = L4,
    resources: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
    cpu: int = 64_000,
    memory: int = 512 * GIB,
    taints: tuple[Taint, ...] = (),
    ready: bool = True,
    unschedulable: bool = False,
) -> NodeView:
    return NodeView(
        name=name,
        labels={"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": "1", **(labels or {})},
        taints=taints,
        unschedulable=unschedulable,
        ready=ready,
        allocatable={
            "cpu": cpu,
            "memory": memory,
            "pods": 110,
            **({"nvidia.com/gpu": 1} if resources is None else resources),
        },
    )


def whole_node(name: str, *, product: str = L4, gpus: int = 1, cpu: int = 64_000) -> NodeView:
    return a_node(
        name, product=product, resources={"nvidia.com/gpu": gpus}, labels={"nvidia.com/gpu.count": str(gpus)}, cpu=cpu
    )


def mps_node(name: str, *, product: str = H100, gpus: int = 1, replicas: int = 4, cpu: int = 64_000) -> NodeView:
    labels = {
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.replicas": str(replicas),
        "nvidia.com/gpu.sharing-strategy": "mps",
    }
    return a_node(
        name, product=f"{product}-SHARED", resources={"nvidia.com/gpu": gpus * replicas}, labels=labels, cpu=cpu
    )


def mig_node(
    name: str, *, product: str = A100_40, slices: Mapping[str, int] | None = None, cpu: int = 64_000
) -> NodeView:
    wanted = {"1g.5gb": 3, "3g.20gb": 1} if slices is None else slices
    return a_node(
        name,
        product=product,
        resources={f"nvidia.com/mig-{profile}": count for profile, count in wanted.items()},
        labels={"nvidia.com/mig.strategy": "mixed"},
        cpu=cpu,
    )


def a_demand(
    *,
    replicas: int = 1,
    mode: Mode = Mode.AUTO,
    model: ModelProfile | ModelUnknown | None = None,
    spec_hash: str = "spec-a",
    max_per_gpu: int | None = None,
    gpu_products: frozenset[str] = frozenset(),
    tolerations: tuple[Toleration, ...] = (),
    node_selector: Mapping[str, str] | None = None,
    max_model_len: int | None = None,
    engine_args: tuple[tuple[str, str | None], ...] = (),
    cpu: int = 1500,
    memory: int = 4 * GIB,
    priority: int = 0,
    startup_budget: timedelta = timedelta(minutes=10),
    objective: Objective = Objective.THROUGHPUT,
) -> Demand:
    return Demand(
        replicas=replicas,
        spec_hash=spec_hash,
        model_source="hf://Qwen/Qwen2.5-1.5B-Instruct",
        model=model if model is not None else a_model(),
        engine_version=EngineVersion(major=0, minor=33, patch=0),
        engine_image="vllm/vllm-openai:v0.33.0",
        engine_args=engine_args,
        max_model_len=max_model_len,
        startup_budget=startup_budget,
        mode=mode,
        max_per_gpu=max_per_gpu,
        gpu_products=gpu_products,
        tolerations=tolerations,
        node_selector=node_selector or {},
        cpu_millicores=cpu,
        memory_bytes=memory,
        priority=priority,
        objective=objective,
    )


def a_deployment(
    name: str = "qwen",
    demand: Demand | Rejected | None = None,
    *,
    namespace: str = "llm",
    created: datetime = NOW - timedelta(hours=1),
    deleting: bool = False,
    generation: int = 1,
) -> DeploymentView:
    return DeploymentView(
        key=Key(namespace, name),
        uid=f"uid-{namespace}-{name}",
        generation=generation,
        created=created,
        deleting=deleting,
        demand=demand or a_demand(),
    )


def a_pod(
    create: CreatePod,
    *,
    ready: bool = False,
    was_ready: bool | None = None,
    created: datetime = NOW,
    phase: PodPhase = PodPhase.RUNNING,
    bound: bool = True,
) -> PodView:
    """The pod that a create makes, some time later."""
    return PodView(
        key=Key(create.deployment.key.namespace, create.name),
        uid=f"pod-{create.deployment.key.namespace}-{create.name}",
        node=create.placement.node if bound else None,
        requests={
            create.placement.share.resource: 1,
            "cpu": create.demand.cpu_millicores * replicas_in(create.placement.share),
            "memory": create.demand.memory_bytes * replicas_in(create.placement.share),
        },
        phase=phase,
        created=created,
        deleting=False,
        ready=ready,
        ready_since=created if ready else None,
        was_ready=ready if was_ready is None else was_ready,
        record=create.record,
    )


def a_report(
    running: Sequence[int], states: Mapping[int, EngineState] | None = None, *, engines: int = 4, ending: bool = False
) -> PackReport:
    """A supervisor's answer: what is to run is ready and attached, the rest is stopped, but where `states` differs."""
    found = dict.fromkeys(range(engines), EngineState.STOPPED) | dict.fromkeys(running, EngineState.READY)
    return PackReport(
        running=tuple(running),
        ending=ending,
        engines=tuple(
            EngineReport(index=index, state=state, attached=state is EngineState.READY or None)
            for index, state in sorted((found | dict(states or {})).items())
        ),
    )


def heard(pod: PodView, states: Mapping[int, EngineState] | None = None, *, ending: bool = False) -> PodView:
    """The pack with a report that fits its record, but where `states` differs."""
    assert pod.record is not None
    assert pod.record.pack is not None
    pack = pod.record.pack
    return replace(pod, pack=a_report(pack.running, states, engines=pack.engines, ending=ending))


def a_stranger(name: str, node: str, *, resource: str = "nvidia.com/gpu", count: int = 1, cpu: int = 0) -> PodView:
    return PodView(
        key=Key("other", name),
        uid=f"stranger-{name}",
        node=node,
        requests={resource: count, "cpu": cpu},
        phase=PodPhase.RUNNING,
        created=NOW - timedelta(hours=2),
        deleting=False,
        ready=True,
        ready_since=NOW - timedelta(hours=2),
        was_ready=True,
    )


def a_snapshot(
    *,
    deployments: tuple[DeploymentView, ...] = (),
    nodes: tuple[NodeView, ...] = (),
    pods: tuple[PodView, ...] = (),
    now: datetime = NOW,
) -> Snapshot:
    return Snapshot(now=now, deployments=deployments, nodes=nodes, pods=pods)


def a_need(demand: Demand | None = None) -> Need:
    need = size_replica(demand or a_demand(), POLICY, ())
    assert not isinstance(need, Problem), need
    return need


def plan(snapshot: Snapshot, policy: Policy = POLICY) -> ClusterPlan:
    return plan_cluster(snapshot, policy)


def creates(plan: ClusterPlan) -> list[CreatePod]:
    return [action for action in plan.actions if isinstance(action, CreatePod)]


def deletes(plan: ClusterPlan) -> list[DeletePod]:
    return [action for action in plan.actions if isinstance(action, DeletePod)]


def sets(plan: ClusterPlan) -> list[SetEngines]:
    return [action for action in plan.actions if isinstance(action, SetEngines)]


def ends(plan: ClusterPlan) -> list[EndPod]:
    return [action for action in plan.actions if isinstance(action, EndPod)]


def assert_within_limits(snapshot: Snapshot) -> None:
    """No node gives more than it has, unless strangers alone took it; shares of a GPU sum up to at most the GPU."""
    for node in read_nodes(snapshot.nodes, POLICY.gpus):
        there = [pod for pod in snapshot.pods if where(pod) == node.name]
        for name, amount in node.view.allocatable.items():
            used = len(there) if name == "pods" else sum(pod.requests.get(name, 0) for pod in there)
            ours = any(pod.record is not None for pod in there)
            assert used <= amount or not ours, (node.name, name)
        for offer in node.offers:
            if isinstance(offer.share, MpsShare):
                assert offer.share.replicas * limit_bytes(offer.share) <= cuda_total_bytes(offer.share)
