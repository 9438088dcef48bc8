"""The small world of test_planner_in_time where replicas without room wait for nodes, and a scheduler binds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import pytest
from typing_extensions import override

from slmpack.domain.inventory import free_on, read_nodes, where
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.sharing import WhenFull
from slmpack.domain.snapshot import Demand, NodeView, PodView
from tests.support.builders import POLICY
from tests.unit.domain.test_planner_in_time import World, settle, turn

PRODUCTS = [frozenset({"NVIDIA-L4"}), frozenset({"NVIDIA-L4", "NVIDIA-H100-80GB-HBM3"}), frozenset()]


@dataclass
class Autoscaled(World):
    """Most deployments ask for nodes, and every node that suits a waiting pod's selector is the scheduler's to use."""

    bound: int = 0
    waited: int = 0

    @override
    def new_deployment(self) -> None:
        before = set(self.deployments)
        super().new_deployment()
        for key in set(self.deployments) - before:
            view = self.deployments[key]
            assert isinstance(view.demand, Demand)
            when_full = self.random.choice([WhenFull.PENDING, WhenFull.PENDING, WhenFull.REPORT])
            demand = replace(view.demand, when_full=when_full, gpu_products=self.random.choice(PRODUCTS))
            self.deployments[key] = replace(view, demand=demand)

    @override
    def _bind(self, pod: PodView) -> None:
        assert pod.record is not None
        if not pod.awaits_node:
            super()._bind(pod)
            return
        self.waited += 1
        node = next((node for node in self.nodes.values() if self._takes(node, pod)), None)
        if node is None:
            self._change(pod.uid, unschedulable="0/3 nodes are available")
        elif self._lucky(0.8):
            self.bound += 1
            self._change(pod.uid, node=node.name, unschedulable="", bound_at=self.now)

    def _takes(self, node: NodeView, pod: PodView) -> bool:
        """As the scheduler filters."""
        assert pod.record is not None
        assert pod.record.pins is not None
        suits = all(node.labels.get(key) == value for key, value in pod.record.pins.labels)
        if node.unschedulable or not node.ready or not suits:
            return False
        (read,) = read_nodes((node,), POLICY.gpus)
        free = free_on(read, tuple(other for other in self.pods.values() if where(other) == node.name))
        return all(free.get(name, 0) >= amount for name, amount in {**pod.requests, "pods": 1}.items())


def _play(seed: int) -> tuple[Autoscaled, ClusterPlan]:
    world = Autoscaled(random=Random(seed))
    for _ in range(3):
        world.new_node()
        world.new_deployment()
    for _ in range(60):
        if world.random.random() < 0.4:
            world.disturb()
        turn(world, world.random.choice([1, 10, 45]))
    world.broken_specs.clear()
    return world, settle(world)


@pytest.mark.parametrize("seed", range(100, 116))
def test_pods_that_wait_break_no_promise_and_the_world_comes_to_rest(seed: int) -> None:
    world, plan = _play(seed)
    for entry in plan.deployments:
        demand = entry.deployment.demand
        assert isinstance(demand, Demand)
        assert not entry.pending or demand.when_full is WhenFull.PENDING
        assert len(entry.pending) <= sum(one.count for one in entry.unplaced)
    assert {pod.key.name for pod in world.pods.values() if pod.awaits_node} == {
        name for entry in plan.deployments for name in entry.pending
    }


def test_pods_do_wait_and_are_bound_in_such_worlds() -> None:
    worlds = [_play(seed)[0] for seed in range(100, 106)]
    assert sum(world.waited for world in worlds) > 0
    assert sum(world.bound for world in worlds) > 0
