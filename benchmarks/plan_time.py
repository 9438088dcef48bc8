"""CPU seconds of one `plan_cluster` call, from scratch and when nothing is left to do, against a plain first fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from slmpack.domain.case import World, open_cases
from slmpack.domain.inventory import free_on
from slmpack.domain.planner import plan_cluster
from slmpack.domain.snapshot import Demand, DeploymentView, NodeView, Policy, Snapshot
from tests.support.builders import (
    H100,
    L4,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    creates,
    heard,
    mig_node,
    mps_node,
    whole_node,
)

NODES = 100
DEPLOYMENTS = 100
REPLICAS = 10


def main() -> None:
    world = a_snapshot(
        deployments=tuple(a_deployment(f"slm-{n}", a_demand(replicas=REPLICAS)) for n in range(DEPLOYMENTS)),
        nodes=tuple(_node(number) for number in range(NODES)),
    )
    scratch = _seconds(lambda: plan_cluster(world, POLICY))
    naive = _seconds(lambda: _first_fit(world))
    settled = _settle(world)
    idle = _seconds(lambda: plan_cluster(settled, POLICY))
    changed = replace(settled, deployments=tuple(_changed(view) for view in settled.deployments))
    rollout = _seconds(lambda: plan_cluster(changed, POLICY))
    packed = replace(world, nodes=tuple(_node(number, whole=H100) for number in range(NODES)))
    packs = _seconds(lambda: plan_cluster(packed, PACKS))
    settled_packs = _settle(packed, PACKS)
    idle_packs = _seconds(lambda: plan_cluster(settled_packs, PACKS))
    print(f"  {NODES} nodes, {DEPLOYMENTS} SLMDeployments, {DEPLOYMENTS * REPLICAS} replicas; CPU seconds, best of 5")
    print(f"  plan from scratch       {scratch:6.3f}")
    print(f"  plan, nothing to do     {idle:6.3f}   ({len(settled.pods)} pods run)")
    print(f"  plan, every spec new    {rollout:6.3f}   (a full cluster: one old replica first, everywhere)")
    print(f"  baseline: first fit     {naive:6.3f}   (no order, no reasons, no turns)")
    print(f"  packs, from scratch     {packs:6.3f}   (whole GPUs are H100s, the operator has a supervisor image)")
    print(f"  packs, nothing to do    {idle_packs:6.3f}   ({len(settled_packs.pods)} pods run)")


def _changed(view: DeploymentView) -> DeploymentView:
    assert isinstance(view.demand, Demand)
    return replace(view, demand=replace(view.demand, spec_hash="changed"))


def _node(number: int, *, whole: str = L4) -> NodeView:
    match number % 3:
        case 0:
            return whole_node(f"n{number}", product=whole, gpus=4)
        case 1:
            return mps_node(f"n{number}", gpus=2)
        case _:
            return mig_node(f"n{number}")


def _seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(once() for _ in range(5))


def _first_fit(snapshot: Snapshot) -> int:
    world = World.read(snapshot, POLICY)
    free = {node.name: free_on(node, ()) for node in world.nodes}
    placed = 0
    for case in open_cases(world):
        assert case.room is not None
        assert case.need is not None
        for _ in range(REPLICAS):
            for candidate in case.room.candidates:
                wanted = case.need.requests(candidate.offer.resource)
                if all(free[candidate.node].get(name, 0) >= amount for name, amount in wanted.items()):
                    for name, amount in wanted.items():
                        free[candidate.node][name] -= amount
                    placed += 1
                    break
    return placed


def _settle(snapshot: Snapshot, policy: Policy = POLICY) -> Snapshot:
    while found := creates(plan_cluster(snapshot, policy)):
        made = (a_pod(create, ready=True) for create in found)
        pods = tuple(pod if pod.record is None or pod.record.pack is None else heard(pod) for pod in made)
        snapshot = replace(snapshot, pods=(*snapshot.pods, *pods))
    return snapshot
