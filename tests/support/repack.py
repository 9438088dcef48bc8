"""Snapshots in which some GPUs are half empty, for what advises a repack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Key
from tests.support.builders import POLICY, a_demand, a_deployment, a_model, a_pod, a_snapshot, creates, mps_node, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slmpack.domain.plan import ClusterPlan
    from slmpack.domain.snapshot import DeploymentView, NodeView, PodView, Policy, Snapshot

__all__ = ["SMALL", "filled", "ready", "run", "shared", "spread"]

SMALL = a_model("Qwen/Qwen2.5-0.5B-Instruct")


def shared(name: str = "web", **asked: Any) -> DeploymentView:
    return a_deployment(name, a_demand(**{"mode": Mode.MPS, "max_per_gpu": 4, "model": SMALL, **asked}))


def ready(answer: ClusterPlan) -> tuple[PodView, ...]:
    return tuple(a_pod(create, ready=True) for create in creates(answer))


def run(snapshot: Snapshot, policy: Policy = POLICY) -> Snapshot:
    """Until every pod that is planned is Ready."""
    for _ in range(50):
        made = ready(plan(snapshot, policy))
        if not made:
            return snapshot
        snapshot = replace(snapshot, pods=(*snapshot.pods, *made))
    raise AssertionError("the plan does not come to rest")


def filled(view: DeploymentView, nodes: Sequence[NodeView], policy: Policy = POLICY) -> tuple[PodView, ...]:
    """Its pods, all Ready, on these nodes."""
    return run(a_snapshot(deployments=(view,), nodes=tuple(nodes)), policy).pods


def spread(*counts: int, gpus: int = 1, **asked: Any) -> Snapshot:
    """One deployment over nodes n1, n2, ... with so many replicas each."""
    view = shared(replicas=sum(counts), **asked)
    nodes = tuple(mps_node(f"n{n}", gpus=gpus) for n in range(1, len(counts) + 1))
    pods: list[PodView] = []
    for node, count in zip(nodes, counts, strict=True):
        for pod in filled(shared(replicas=count, **{**asked, "max_per_gpu": 4}), [node]):
            key = Key("llm", f"web-{len(pods)}")
            assert pod.record is not None
            record = replace(pod.record, ordinal=len(pods))
            pods.append(replace(pod, key=key, uid=f"pod-{key}", record=record))
    return a_snapshot(deployments=(view,), nodes=nodes, pods=tuple(pods))
