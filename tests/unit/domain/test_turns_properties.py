"""Over random worlds and orders of events: no start beside another start or stop on an MPS node, and all start at last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.domain.inventory import where
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, EndPod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Demand, DeploymentView, Key, NodeView, PodPhase, PodView, Snapshot
from tests.support.builders import NOW, POLICY, a_demand, a_deployment, a_model, a_pod, a_snapshot, mps_node

BUDGET = timedelta(minutes=3)
WELL = ("turn", "dies", "time", "late", "work", "step", "step", "step", "scale", "scale", "roll")
ILL = ("fail", "reboot", "plugin", "lost")
BROKEN = "broken"
"""Name of the deployment whose replicas never become Ready."""

Event = tuple[str, int]


@dataclass
class World:
    """MPS nodes, pods on them, and a clock. Events are whatever may happen in whatever order."""

    nodes: dict[str, NodeView]
    deployments: dict[Key, DeploymentView]
    now: datetime = NOW
    pods: dict[str, PodView] = field(default_factory=dict)
    whole: dict[str, NodeView] = field(default_factory=dict)
    serial: int = 0

    def snapshot(self) -> Snapshot:
        return a_snapshot(
            deployments=tuple(self.deployments.values()),
            nodes=tuple(self.nodes.values()),
            pods=tuple(self.pods.values()),
            now=self.now,
        )

    # what the operator does

    def turn(self, *, dies_after: int | None = None) -> None:
        """Plan and write; of an operator that dies, the first writes only. Each write keeps the promise."""
        plan: ClusterPlan = plan_cluster(self.snapshot(), POLICY)
        for action in plan.actions[:dies_after]:
            match action:
                case CreatePod():
                    self.serial += 1
                    uid = f"pod-{self.serial}"
                    made = a_pod(action, created=self.now, bound=False, phase=PodPhase.PENDING)
                    self.pods[uid] = replace(made, uid=uid)
                case DeletePod():
                    self.change(action.uid, deleting=True)
                case EndPod():
                    self.change(action.uid, ended="NotReadyInTime")
                case SetEngines():
                    raise AssertionError("no packs here")
            assert_one_at_a_time(self.pods.values())

    def change(self, uid: str, **changes: object) -> None:
        self.pods[uid] = replace(self.pods[uid], **changes)  # type: ignore[arg-type]

    # what kubelet, scheduler and hardware do

    def work(self, pod: PodView) -> None:
        """One step of one pod's life."""
        assert pod.record is not None
        node = self.nodes[pod.record.node]
        if pod.finished and pod.deleting:
            del self.pods[pod.uid]
        elif pod.finished or (pod.node is not None and not node.ready):
            return
        elif pod.deleting:
            del self.pods[pod.uid]
        elif pod.ended:
            self.fail(pod, "DeadlineExceeded")
        elif pod.node is None:
            room = node.ready and node.allocatable["nvidia.com/gpu"] > 0
            self.change(pod.uid, node=node.name if room else None, unschedulable="" if room else "Insufficient")
        elif pod.record.deployment.name != BROKEN:
            self.change(pod.uid, ready=True, was_ready=True, ready_since=self.now, phase=PodPhase.RUNNING)

    def fail(self, pod: PodView, reason: str) -> None:
        if pod.deleting:
            del self.pods[pod.uid]
        elif not pod.finished:
            failed = {"phase": PodPhase.FAILED, "ready": False, "ready_since": None, "finished_at": self.now}
            self.change(pod.uid, reason=reason, **failed)

    def fail_all(self, node: str) -> None:
        for pod in list(self.pods.values()):
            if pod.node == node:
                self.fail(pod, "Error")

    def step(self) -> None:
        """Everything goes on a little."""
        self.turn()
        for pod in list(self.pods.values()):
            self.work(pod)
        self.now += timedelta(seconds=20)

    def happen(self, event: Event) -> None:
        kind, number = event
        match kind:
            case "turn":
                self.turn()
            case "dies":
                self.turn(dies_after=number % 3)
            case "step":
                self.step()
            case "time":
                self.now += timedelta(seconds=number)
            case "late":  # the operator was down for longer than any budget
                self.now += 2 * BUDGET
            case "scale" | "roll":
                self.edit(kind, number)
            case _:
                self.play(kind, number)

    def play(self, kind: str, number: int) -> None:
        """One pod's or one node's part."""
        names, pods = sorted(self.nodes), sorted(self.pods)
        node = self.nodes[names[number % len(names)]]
        pod = self.pods[pods[number % len(pods)]] if pods else None
        match kind:
            case "work" if pod is not None:
                self.work(pod)
            case "fail" if pod is not None and pod.node is not None and self.nodes[pod.node].ready:
                self.fail(pod, "OOMKilled")
            case "reboot" | "plugin":
                self.fail_all(node.name)
                away = node.allocatable["nvidia.com/gpu"] == 0
                if kind == "plugin":
                    gpus = self.whole[node.name].allocatable["nvidia.com/gpu"] if away else 0
                    self.nodes[node.name] = replace(node, allocatable={**node.allocatable, "nvidia.com/gpu": gpus})
            case "lost":
                self.nodes[node.name] = replace(node, ready=not node.ready)
                for lost in list(self.pods.values()):
                    if lost.node == node.name and lost.ready and node.ready:
                        self.change(lost.uid, ready=False, ready_since=None)
            case _:
                pass

    def edit(self, kind: str, number: int) -> None:
        keys = sorted(self.deployments)
        view = self.deployments[keys[number % len(keys)]]
        assert isinstance(view.demand, Demand)
        scaled, rolled = replace(view.demand, replicas=number % 4), replace(view.demand, spec_hash=f"spec-{number}")
        demand = scaled if kind == "scale" else rolled
        self.deployments[view.key] = replace(view, demand=demand, generation=view.generation + 1)


def assert_one_at_a_time(pods: Iterable[PodView]) -> None:
    """On each node at most one start, and none beside a stop."""
    starting: dict[str, list[str]] = {}
    stopping: dict[str, list[str]] = {}
    for pod in pods:
        node = where(pod)
        if node is not None and (pod.deleting or pod.ended):
            stopping.setdefault(node, []).append(pod.key.name)
        elif node is not None and not pod.was_ready:
            starting.setdefault(node, []).append(pod.key.name)
    for node, names in starting.items():
        assert len(names) == 1, (node, names)
        assert node not in stopping, (node, names, stopping[node])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 2))
    nodes = {f"n{n}": mps_node(f"n{n}", gpus=2, replicas=4, cpu=640_000) for n in range(count)}  # room for all, on each
    views = [
        a_deployment(
            name,
            a_demand(
                replicas=draw(st.integers(0, 3)),
                mode=Mode.MPS,
                model=a_model("Qwen/Qwen2.5-0.5B-Instruct"),
                max_per_gpu=4,
                memory=4 * GIB,
                startup_budget=BUDGET,
            ),
        )
        for name in draw(st.sampled_from([("a",), ("a", "b"), ("a", BROKEN)]))
    ]
    return World(nodes=nodes, whole=dict(nodes), deployments={view.key: view for view in views})


def is_served(world: World, view: DeploymentView) -> bool:
    """As many replicas of the present spec are Ready as are wanted, and no more live; or its rollout is stopped (D4)."""
    assert isinstance(view.demand, Demand)
    (entry,) = [e for e in plan_cluster(world.snapshot(), POLICY).deployments if e.deployment.key == view.key]
    if entry.rollout.problem.reason is Reason.ROLLOUT_STOPPED:
        return True
    live = [
        pod
        for pod in world.pods.values()
        if pod.record is not None and pod.record.deployment == view.key and not (pod.finished or pod.deleting)
    ]
    present = [pod for pod in live if pod.record is not None and pod.record.spec_hash == view.demand.spec_hash]
    return len(live) == len(present) == sum(pod.ready for pod in present) == view.demand.replicas


def calm_down(world: World) -> None:
    """Nodes are well again and nothing fails any more, but for the replicas that never become Ready."""
    for name, node in world.whole.items():
        world.nodes[name] = node
        for pod in list(world.pods.values()):
            if pod.node == name and pod.was_ready and not pod.finished:
                world.change(pod.uid, ready=True, ready_since=world.now)


@given(worlds(), st.lists(st.tuples(st.sampled_from(WELL * 3 + ILL), st.integers(0, 60)), min_size=25, max_size=45))
@settings(max_examples=50)
def test_starts_are_serial_and_every_replica_starts_at_last(world: World, events: list[Event]) -> None:
    for event in events:
        world.happen(event)
        assert_one_at_a_time(world.pods.values())
    calm_down(world)
    healthy = [view for view in world.deployments.values() if view.key.name != BROKEN]
    for _ in range(150):
        if all(is_served(world, view) for view in healthy):
            return
        world.step()
    raise AssertionError([(str(pod.key), pod.phase, pod.ready, pod.reason) for pod in world.pods.values()])


def test_a_broken_neighbour_is_tried_again_and_again_without_keeping_the_turn() -> None:
    """Its three replicas outlast the longest back-off: in D4b's order alone the third of the other never has a turn."""
    node = mps_node("n", gpus=2, replicas=4)
    demand = a_demand(mode=Mode.MPS, max_per_gpu=4, startup_budget=BUDGET)
    views = [a_deployment(name, replace(demand, replicas=3)) for name in (BROKEN, "well")]
    world = World(nodes={"n": node}, whole={"n": node}, deployments={view.key: view for view in views})
    for _ in range(120):
        world.step()
    assert is_served(world, views[1])
    assert world.serial > 6, "the broken one had several turns"
