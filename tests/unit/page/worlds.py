"""Worlds for the page's tests, and their sheets."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from slmpack.domain.load import GpuReading
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import NodeView, PodView, Policy, Snapshot
from slmpack.page.gather import gather_sheet
from slmpack.page.values import Bar, Deployment, Node, Sheet
from tests.support.builders import (
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)


def sheet_of(snapshot: Snapshot, policy: Policy = POLICY, **asked: object) -> Sheet:
    return gather_sheet(plan(snapshot, policy), snapshot, policy, **asked)  # type: ignore[arg-type]


def node_of(sheet: Sheet, name: str) -> Node:
    return next(node for node in sheet.nodes if node.name == name)


def bar_of(sheet: Sheet, name: str, number: int = 0) -> Bar:
    return node_of(sheet, name).bars[number]


def deployment_of(sheet: Sheet, name: str = "llm/qwen") -> Deployment:
    return next(deployment for deployment in sheet.deployments if deployment.full == name)


def a_world(*nodes: NodeView, replicas: int = 2, pods: tuple[PodView, ...] = (), **demand: object) -> Snapshot:
    view = a_deployment("qwen", a_demand(replicas=replicas, **demand))  # type: ignore[arg-type]
    return a_snapshot(deployments=(view,), nodes=nodes, pods=pods)


def with_pods(snapshot: Snapshot, policy: Policy = POLICY, *, ready: bool = True) -> Snapshot:
    """What the plan makes now is there, and an hour old."""
    made: ClusterPlan = plan(snapshot, policy)
    pods = tuple(a_pod(create, ready=ready, created=NOW - timedelta(hours=1)) for create in creates(made))
    return replace(snapshot, pods=(*snapshot.pods, *pods))


def mixed() -> Snapshot:
    """Two SLMDeployments on every kind of node, one of them too large for what is there."""
    views = (
        a_deployment("qwen", a_demand(replicas=3, mode=Mode.MPS)),
        a_deployment("slices", a_demand(replicas=9, mode=Mode.MIG), namespace="other"),
    )
    nodes = (mig_node("a"), mps_node("b", gpus=2), whole_node("c", gpus=8))
    return a_snapshot(deployments=views, nodes=nodes)


def a_reading(node: str = "b", power_w: float | None = 300.0, **more: object) -> GpuReading:
    return GpuReading(node=node, uuid="GPU-0123456789abcdef", at=NOW, power_w=power_w, **more)  # type: ignore[arg-type]
