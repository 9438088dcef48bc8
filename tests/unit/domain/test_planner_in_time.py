"""A small world runs for a while under the planner's hand: faults, scaling, changed specs; then the faults stop.

The kubelet, the scheduler and the user are played by a seeded random walk. After every plan the promises of D2, D4, D4a
and D5b are checked; when nothing goes wrong any more, the world must come to rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

import pytest

from slmpack.domain.inventory import where
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, EndPod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Demand, DeploymentView, Key, NodeView, PodPhase, PodView, Snapshot
from tests.support.builders import (
    H100,
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_pod,
    a_snapshot,
    a_stranger,
    assert_within_limits,
    mig_node,
    mps_node,
    whole_node,
)

SMALL, LARGE = a_model("Qwen/Qwen2.5-0.5B-Instruct"), a_model("facebook/opt-1.3b")
ENDS_FOR = {Reason.SCALED_DOWN, Reason.ROLLOUT}
"""D4a's reasons for a pod that runs; `pod failed` is REPLACED."""


@dataclass
class World:
    """Everything outside the planner."""

    random: Random
    now: datetime = NOW
    nodes: dict[str, NodeView] = field(default_factory=dict)
    deployments: dict[Key, DeploymentView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    broken_specs: set[str] = field(default_factory=set)
    faults: bool = True
    serial: int = 0

    def snapshot(self) -> Snapshot:
        return a_snapshot(
            deployments=tuple(self.deployments.values()),
            nodes=tuple(self.nodes.values()),
            pods=tuple(self.pods.values()),
            now=self.now,
        )

    # the API server

    def write(self, plan: ClusterPlan) -> None:
        for action in plan.actions:
            if self.faults and self.random.random() < 0.05:
                continue  # the operator died here
            match action:
                case CreatePod():
                    self.serial += 1
                    pod = replace(
                        a_pod(action, created=self.now, bound=False, phase=PodPhase.PENDING), uid=f"pod-{self.serial}"
                    )
                    self.pods[pod.uid] = pod
                case DeletePod():
                    self._change(action.uid, deleting=True)
                case EndPod():
                    self._change(action.uid, ended="NotReadyInTime")
                case SetEngines():
                    raise AssertionError("there are no packs here")

    def _change(self, uid: str, **changes: object) -> None:
        self.pods[uid] = replace(self.pods[uid], **changes)  # type: ignore[arg-type]

    # the kubelet and the scheduler

    def work(self) -> None:
        for pod in list(self.pods.values()):
            if pod.deleting:
                if not self.faults or pod.finished or self.random.random() < 0.5:
                    del self.pods[pod.uid]
            elif pod.finished or pod.record is None:
                continue
            elif pod.ended:
                self._fail(pod, "DeadlineExceeded")
            elif pod.node is None:
                self._bind(pod)
            elif not pod.ready and pod.record.spec_hash not in self.broken_specs and self._lucky(0.4):
                self._change(pod.uid, ready=True, was_ready=True, ready_since=self.now, phase=PodPhase.RUNNING)
            elif self.faults and self.random.random() < 0.03:
                self._fail(pod, "OOMKilled")
            elif self.faults and self.random.random() < 0.02:
                self._change(pod.uid, ready=False, ready_since=None)

    def _lucky(self, chance: float) -> bool:
        return not self.faults or self.random.random() < chance

    def _bind(self, pod: PodView) -> None:
        assert pod.record is not None
        if pod.record.node in self.nodes and self._lucky(0.8):
            self._change(pod.uid, node=pod.record.node, unschedulable="")
        else:
            self._change(pod.uid, unschedulable="0/3 nodes are available")

    def _fail(self, pod: PodView, reason: str) -> None:
        self._change(pod.uid, phase=PodPhase.FAILED, ready=False, ready_since=None, reason=reason, finished_at=self.now)

    # people

    def disturb(self) -> None:
        people = [self.scale, self.scale, self.new_spec, self.go_back, self.delete_pod, self.new_deployment]
        machines = [self.cordon, self.lose_node, self.new_node, self.delete_deployment, self.stranger]
        self.random.choice([*people, *machines])()

    def new_node(self) -> None:
        if len(self.nodes) >= 5:
            return
        self.serial += 1
        kind = self.random.choice(["whole", "mps", "mig"])
        name = f"{kind}-{self.serial}"
        cpu = self.random.choice([3_000, 8_000, 64_000])
        make: dict[str, Callable[[], NodeView]] = {
            "whole": lambda: whole_node(name, gpus=self.random.randint(1, 2), cpu=cpu),
            "mps": lambda: mps_node(name, product=H100, gpus=self.random.randint(1, 2), replicas=4, cpu=cpu),
            "mig": lambda: mig_node(name, cpu=cpu),
        }
        self.nodes[name] = make[kind]()

    def new_deployment(self) -> None:
        if len(self.deployments) >= 4:
            return
        self.serial += 1
        demand = a_demand(
            replicas=self.random.randint(0, 4),
            mode=self.random.choice(list(Mode)),
            model=self.random.choice([SMALL, LARGE]),
            spec_hash=f"spec-{self.serial}",
            memory=self.random.choice([4, 200]) * GIB,
            priority=self.random.choice([0, 0, 5]),
            max_per_gpu=self.random.choice([None, 2]),
            startup_budget=timedelta(minutes=3),
        )
        view = replace(a_deployment(self.random.choice("abcd"), demand, created=self.now), uid=f"slm-{self.serial}")
        self.deployments.setdefault(view.key, view)

    def _edit(self, change: Callable[[Demand], Demand]) -> None:
        if self.deployments:
            view = self.random.choice(list(self.deployments.values()))
            assert isinstance(view.demand, Demand)
            self.deployments[view.key] = replace(view, demand=change(view.demand), generation=view.generation + 1)

    def scale(self) -> None:
        self._edit(lambda demand: replace(demand, replicas=self.random.randint(0, 5)))

    def new_spec(self) -> None:
        self.serial += 1
        spec = f"spec-{self.serial}"
        if self.random.random() < 0.4:
            self.broken_specs.add(spec)
        self._edit(lambda demand: replace(demand, spec_hash=spec))

    def go_back(self) -> None:
        hashes = sorted({pod.record.spec_hash for pod in self.pods.values() if pod.record is not None})
        if hashes:
            self._edit(lambda demand: replace(demand, spec_hash=self.random.choice(hashes)))

    def delete_pod(self) -> None:
        if self.pods:
            self._change(self.random.choice(sorted(self.pods)), deleting=True)

    def cordon(self) -> None:
        if self.nodes:
            name = self.random.choice(sorted(self.nodes))
            self.nodes[name] = replace(self.nodes[name], unschedulable=not self.nodes[name].unschedulable)

    def lose_node(self) -> None:
        if self.nodes and self.random.random() < 0.3:
            name = self.random.choice(sorted(self.nodes))
            del self.nodes[name]
            for pod in list(self.pods.values()):
                if pod.node == name:
                    self._change(pod.uid, deleting=True, ready=False, ready_since=None)

    def delete_deployment(self) -> None:
        if self.deployments and self.random.random() < 0.3:
            view = self.deployments.pop(self.random.choice(sorted(self.deployments)))
            for pod in list(self.pods.values()):
                if pod.record is not None and pod.record.owner_uid == view.uid:
                    self._change(pod.uid, deleting=True)

    def stranger(self) -> None:
        whole = sorted(name for name in self.nodes if name.startswith("whole"))
        if whole and not any(where(pod) == whole[0] for pod in self.pods.values()):
            self.serial += 1
            pod = a_stranger(f"s-{self.serial}", whole[0], cpu=500)
            self.pods[pod.uid] = pod


def check_plan(world: World, plan: ClusterPlan) -> None:
    snapshot = world.snapshot()
    assert plan_cluster(snapshot, POLICY) == plan
    touched = {action.uid for action in plan.actions if not isinstance(action, CreatePod)}
    for action in plan.actions:
        if isinstance(action, CreatePod):
            key = Key(action.deployment.key.namespace, action.name)
            assert key not in {pod.key for pod in snapshot.pods}, f"{key} exists"
            continue
        pod = world.pods[action.uid]
        assert not pod.deleting, "deleted twice"
        if pod.was_ready and not pod.finished:
            assert action.problem.reason in ENDS_FOR, (pod.key, action.problem)
        if isinstance(action, DeletePod) and pod.record is not None and pod.record.starts_alone and not pod.finished:
            assert not [p for p in starting(snapshot.pods, where(pod)) if p.uid not in touched], "ends beside a start"
    for entry in plan.deployments:
        demand = entry.deployment.demand
        assert isinstance(demand, Demand)
        waits = {pod.key for pod in snapshot.pods if pod.awaits_node}
        live = [state for state in entry.states if state.counts and state.pod not in waits]
        pinned = [create for create in entry.creates if create.placement.pins is None]
        placed = len(live) + len(pinned) + len(entry.waiting) + sum(u.count for u in entry.unplaced)
        assert placed <= demand.replicas + 1, "at most one more than is wanted, for a rollout"
        if entry.creates:
            there = [state for state in entry.states if state.counts]
            assert len(there) + len(entry.creates) <= demand.replicas + 1, "whether they have a node or wait for one"


def starting(pods: tuple[PodView, ...], node: str | None) -> list[PodView]:
    return [
        pod
        for pod in pods
        if pod.record is not None and pod.record.starts_alone and where(pod) == node and node is not None
        if not (pod.was_ready or pod.deleting or pod.ended)
    ]


def check_world(world: World) -> None:
    snapshot = world.snapshot()
    for node in world.nodes:
        assert len(starting(snapshot.pods, node)) <= 1, f"two starts on {node}"
    keys = [pod.key for pod in snapshot.pods]
    assert len(keys) == len(set(keys))
    assert_within_limits(snapshot)


def turn(world: World, seconds: int) -> ClusterPlan:
    plan = plan_cluster(world.snapshot(), POLICY)
    check_plan(world, plan)
    world.write(plan)
    check_world(world)
    world.now += timedelta(seconds=seconds)
    world.work()
    return plan


def settle(world: World) -> ClusterPlan:
    """Let time pass without faults until no moment is left that would change the plan."""
    world.faults = False
    quiet = 0
    for _ in range(400):
        plan = turn(world, 15)
        quiet = 0 if plan.actions or plan.next_wake_seconds is not None else quiet + 1
        if quiet == 3:
            return plan
        world.now += timedelta(seconds=0 if plan.actions else plan.next_wake_seconds or 0)
    raise AssertionError("the world does not come to rest")


@pytest.mark.parametrize("seed", range(24))
def test_a_world_with_faults_keeps_its_promises_and_comes_to_rest(seed: int) -> None:
    world = World(random=Random(seed))
    for _ in range(3):
        world.new_node()
        world.new_deployment()
    for _ in range(60):
        if world.random.random() < 0.4:
            world.disturb()
        turn(world, world.random.choice([1, 10, 45]))
    world.broken_specs.clear()
    plan = settle(world)
    for entry in plan.deployments:
        demand = entry.deployment.demand
        assert isinstance(demand, Demand)
        ready = sum(state.ready for state in entry.states if state.counts)
        stopped = entry.rollout.problem.reason in {Reason.ROLLOUT_STOPPED, Reason.ROLLOUT_BLOCKED}
        assert stopped or ready + sum(u.count for u in entry.unplaced) == demand.replicas
        assert stopped or entry.rollout.updated == ready
