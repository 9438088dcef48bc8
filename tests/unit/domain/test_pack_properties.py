"""Packs in random worlds that change: nothing is over-committed, doubled or ended without a reason, and all settles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.domain.pack import EngineReport, EngineState, PackReport
from slmpack.domain.plan import ClusterPlan, CreatePod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Reason
from slmpack.domain.seats import replicas_of
from slmpack.domain.sharing import Mode, MpsPack, cuda_total_bytes, limit_bytes
from slmpack.domain.snapshot import Demand, DeploymentView, Key, NodeView, PodPhase, PodView, Snapshot
from slmpack.domain.workload import Objective
from tests.support.builders import (
    H100,
    L4,
    NOW,
    PACKS,
    a_demand,
    a_deployment,
    a_model,
    a_pod,
    a_report,
    a_snapshot,
    a_stranger,
    assert_within_limits,
    creates,
    deletes,
    mig_node,
    mps_node,
    sets,
    whole_node,
)

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct")
STEP = timedelta(seconds=60)
CYCLES = 80


# worlds


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeView, ...]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        cpu = draw(st.sampled_from([3_000, 8_000, 64_000]))
        match draw(st.sampled_from(["whole", "whole", "whole", "mig", "mps"])):
            case "whole":
                product = draw(st.sampled_from([L4, H100, H100]))
                node = whole_node(f"n{number}", product=product, gpus=draw(st.integers(1, 3)), cpu=cpu)
            case "mig":
                node = mig_node(f"n{number}", slices={"3g.20gb": draw(st.integers(1, 2))}, cpu=cpu)
            case _:
                node = mps_node(f"n{number}", replicas=draw(st.sampled_from([2, 4])), cpu=cpu)
        found.append(node)
    return tuple(found)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    return a_demand(
        replicas=draw(st.integers(0, 6)),
        mode=draw(st.sampled_from([Mode.MPS_PACK, Mode.MPS_PACK, Mode.AUTO, Mode.AUTO, Mode.EXCLUSIVE, Mode.MIG])),
        model=a_model(draw(st.sampled_from(MODELS))),
        spec_hash=draw(st.sampled_from(["spec-a", "spec-b"])),
        max_per_gpu=draw(st.sampled_from([None, None, 1, 2, 3])),
        priority=draw(st.sampled_from([0, 0, 10])),
        objective=draw(st.sampled_from([Objective.THROUGHPUT, Objective.THROUGHPUT, Objective.LATENCY])),
    )


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    there = draw(nodes())
    views = tuple(
        a_deployment(f"slm-{number}", draw(demands()), created=NOW - timedelta(minutes=draw(st.integers(0, 2))))
        for number in range(draw(st.integers(1, 3)))
    )
    strangers = tuple(
        a_stranger(f"s{number}", node.name)
        for number, node in enumerate(there)
        if "nvidia.com/gpu" in node.allocatable and draw(st.integers(0, 3)) == 0
    )
    return a_snapshot(deployments=views, nodes=there, pods=strangers)


# what the cluster and the supervisors do


def step(world: Snapshot, plan: ClusterPlan) -> Snapshot:
    """One cycle later: the plan is written, what was ending is gone, and in each pack the next engine is ready."""
    gone = {delete.uid for delete in deletes(plan)}
    told = {action.uid: action for action in sets(plan)}
    pods = [_later(pod, told.get(pod.uid), gone, world) for pod in world.pods if not pod.deleting]
    pods.extend(_new(create, world) for create in creates(plan))
    return replace(world, pods=tuple(pods), now=world.now + STEP)


def _new(create: CreatePod, world: Snapshot) -> PodView:
    pod = replace(a_pod(create, created=world.now), uid=f"{create.name} of {world.now:%H:%M}")
    pack = create.record.pack
    if pack is None:
        return pod
    report = a_report(pack.running, dict.fromkeys(pack.running, EngineState.WAITING), engines=pack.engines)
    return replace(pod, pack=report)


def _later(pod: PodView, told: SetEngines | None, gone: set[str], world: Snapshot) -> PodView:
    if pod.uid in gone:
        return replace(pod, deleting=True)
    record = pod.record
    if record is None or pod.finished:
        return pod
    if record.pack is None:
        return pod if pod.ready else replace(pod, ready=True, was_ready=True, ready_since=world.now)
    running = record.pack.running if told is None else told.running
    report = _work(pod.pack, running, record.pack.engines) if pod.pack is not None or told is not None else None
    ready = pod.ready if report is None else bool(report.ready(running))
    return replace(
        pod,
        record=replace(record, pack=replace(record.pack, running=running)),
        pack=report,
        ready=ready,
        was_ready=pod.was_ready or ready,
        ready_since=(pod.ready_since or world.now) if ready else None,
    )


def _work(report: PackReport | None, running: tuple[int, ...], engines: int) -> PackReport:
    """What is not meant to run stops; of the rest the first that does not answer is ready next."""
    ready = set(report.ready(running)) if report is not None else set()
    ready.update([index for index in running if index not in ready][:1])
    states = {index: EngineState.READY if index in ready else EngineState.WAITING for index in running}
    return a_report(running, states, engines=engines)


def lapsed(plan: ClusterPlan) -> bool:
    """Whether there is nothing to do, nor will time bring something."""
    return not plan.actions and plan.next_wake_seconds is None


def settle(world: Snapshot, check: Callable[[Snapshot, ClusterPlan], None] | None = None) -> Snapshot:
    """Plan and let the cluster work until nothing is left to do."""
    for _ in range(CYCLES):
        plan = plan_cluster(world, PACKS)
        if check is not None:
            check(world, plan)
        if lapsed(plan) and not any(pod.deleting or (ours(pod) and not whole(pod)) for pod in world.pods):
            return world
        world = step(world, plan)
    raise AssertionError("the plan never comes to rest")


def ours(pod: PodView) -> bool:
    return pod.record is not None and not pod.finished


def whole(pod: PodView) -> bool:
    return pod.ready_replicas == replicas_of([pod])


def live(world: Snapshot, view: DeploymentView) -> list[PodView]:
    return [p for p in world.pods if p.record and p.record.owner_uid == view.uid and ours(p) and not p.deleting]


# what must always hold


def demand_of(view: DeploymentView) -> Demand:
    assert isinstance(view.demand, Demand)
    return view.demand


def checking(before: Snapshot | None = None) -> Callable[[Snapshot, ClusterPlan], None]:
    """A check of each cycle; `before` is the world that changed, which may have run more replicas than are wanted."""
    views = before.deployments if before is not None else ()
    ran = {view.key: replicas_of(live(before, view)) for view in views} if before is not None else {}
    return lambda world, plan: check_always(world, plan, ran)


def check_always(world: Snapshot, plan: ClusterPlan, ran: Mapping[Key, int]) -> None:
    assert_within_limits(world)
    names = [str(pod.key) for pod in world.pods]
    assert len(names) == len(set(names))
    for pod in world.pods:
        if pod.record is not None and pod.record.pack is not None:
            running, engines = pod.record.pack.running, pod.record.pack.engines
            assert running, "a pod without an engine holds a GPU for nothing"
            assert list(running) == sorted(set(running))
            assert 0 <= running[0] <= running[-1] < engines
    for view in world.deployments:
        meant = replicas_of(live(world, view))
        assert meant <= max(demand_of(view).replicas + 1, ran.get(view.key, 0)), "one more while a rollout goes on"
    check_new(plan)
    check_ends(world, plan)


def check_new(plan: ClusterPlan) -> None:
    for create in creates(plan):
        share, pack = create.placement.share, create.record.pack
        assert isinstance(share, MpsPack) == (pack is not None)
        if pack is None or not isinstance(share, MpsPack):
            continue
        assert pack.engines == len(share.limits_bytes)
        assert pack.running == tuple(range(len(pack.running)))
        assert 1 <= len(pack.running) <= pack.engines
        assert sum(share.limits_bytes) < share.gpu_memory_bytes
        footprint = create.record.footprint
        assert footprint is not None
        budget = create.settings.gpu_memory_utilization * cuda_total_bytes(share)
        assert budget + footprint.outside_bytes <= limit_bytes(share)


def check_ends(world: Snapshot, plan: ClusterPlan) -> None:
    """D4a: what answers ends only where more are meant to run than are wanted, or because its spec is not the present
    one."""
    views = {view.key: view for view in world.deployments}
    there = {pod.uid: pod for pod in world.pods}
    for delete in deletes(plan):
        pod, demand = there[delete.uid], demand_of(views[delete.deployment])
        assert pod.record is not None
        if not pod.was_ready or pod.finished:
            continue
        more = replicas_of(live(world, views[delete.deployment])) > demand.replicas
        old = pod.record.spec_hash != demand.spec_hash
        reason = delete.problem.reason
        assert (reason is Reason.SCALED_DOWN and more) or (reason is Reason.ROLLOUT and old)
    for action in sets(plan):
        pod, demand = there[action.uid], demand_of(views[action.deployment])
        assert pod.record is not None
        assert pod.record.pack is not None
        lost = set(pod.record.pack.running) - set(action.running)
        assert not (lost and set(action.running) - set(pod.record.pack.running)), "no engine for another"
        assert max(action.running) < pod.record.pack.engines
        if lost:
            assert replicas_of(live(world, views[action.deployment])) > demand.replicas
            assert action.problem.reason in {Reason.SCALED_DOWN, Reason.ROLLOUT}
        assert action.recorded == (pod.record.pack.running == action.running)
    touched = Counter([action.uid for action in sets(plan)] + [delete.uid for delete in deletes(plan)])
    assert not touched or max(touched.values()) == 1


def check_settled(world: Snapshot) -> None:
    plan = plan_cluster(world, PACKS)
    assert plan.actions == ()
    for entry in plan.deployments:
        view = entry.deployment
        demand, pods = demand_of(view), live(world, view)
        meant = replicas_of(pods)
        assert meant + sum(u.count for u in entry.unplaced) == demand.replicas
        assert sum(state.counts for state in entry.states) == meant
        assert all(u.problem.message for u in entry.unplaced)
        for pod in pods:
            pack = pod.record.pack if pod.record is not None else None
            if entry.unplaced and pack is not None and pod.record and pod.record.spec_hash == demand.spec_hash:
                room = min(pack.engines, demand.max_per_gpu or pack.engines)
                assert len(pack.running) >= room, "idle engines run before a replica is left out"


# the properties


@given(worlds())
@settings(max_examples=100)
def test_a_new_world_settles_within_its_limits(world: Snapshot) -> None:
    check_settled(settle(world, checking()))


@given(worlds(), st.data())
@settings(max_examples=100)
def test_scaling_and_new_specs_settle_and_end_nothing_without_a_reason(world: Snapshot, data: st.DataObject) -> None:
    done = settle(world)
    changed = tuple(replace(view, demand=_again(data, demand_of(view))) for view in done.deployments)
    check_settled(settle(replace(done, deployments=changed), checking(done)))


def _again(data: st.DataObject, demand: Demand) -> Demand:
    return replace(
        demand,
        replicas=data.draw(st.integers(0, 6)),
        spec_hash=data.draw(st.sampled_from([demand.spec_hash, "spec-c"])),
        max_per_gpu=data.draw(st.sampled_from([demand.max_per_gpu, 1, 3])),
    )


@given(worlds(), st.data())
@settings(max_examples=80)
def test_scaling_inside_a_pack_touches_no_pod(world: Snapshot, data: st.DataObject) -> None:
    """Where the packs of a deployment have the room, a change of its replicas makes no pod and ends none but idle
    ones."""
    done = settle(world)
    view = data.draw(st.sampled_from(done.deployments))
    pods, demand = live(done, view), demand_of(view)
    packs = [p.record.pack for p in pods if p.record is not None and p.record.pack is not None]
    allowed = sum(min(pack.engines, demand.max_per_gpu or pack.engines) for pack in packs)
    if not packs or len(packs) < len(pods):
        return
    wanted = data.draw(st.integers(replicas_of(pods), max(allowed, replicas_of(pods))))
    scaled = replace(view, demand=replace(demand, replicas=wanted))
    others = tuple(v for v in done.deployments if v.key != view.key)
    plan = plan_cluster(replace(done, deployments=(*others, scaled)), PACKS)
    assert all(isinstance(action, SetEngines) for action in plan.actions)
    assert replicas_of(live(step(replace(done, deployments=(*others, scaled)), plan), view)) == wanted


@given(worlds(), st.data())
@settings(max_examples=80)
def test_whatever_fails_comes_back(world: Snapshot, data: st.DataObject) -> None:
    """Engines crash, supervisors fall silent or restart with other engines, pods fail; then all is as it was."""
    done = settle(world)
    broken = replace(done, pods=tuple(_break(data, pod, done) for pod in done.pods))
    again = settle(broken, checking())
    check_settled(again)
    for view in done.deployments:
        assert replicas_of(live(again, view)) >= replicas_of(live(done, view))


def _break(data: st.DataObject, pod: PodView, world: Snapshot) -> PodView:
    if pod.record is None:
        return pod
    report = pod.pack
    match data.draw(st.sampled_from(["fine", "fine", "fails", "crash", "told wrong", "ending"])):
        case "fails":
            return replace(pod, phase=PodPhase.FAILED, ready=False, ready_since=None, finished_at=world.now, pack=None)
        case "crash" if report is not None:
            hurt = data.draw(st.sampled_from(report.engines))
            engines = tuple(_crashed(engine) if engine is hurt else engine for engine in report.engines)
            return replace(pod, pack=replace(report, engines=engines))
        case "told wrong" if report is not None:
            return replace(pod, pack=a_report((), engines=len(report.engines)), ready=False, ready_since=None)
        case "ending" if report is not None:
            return replace(pod, pack=replace(report, ending=True))
        case _:
            return pod


def _crashed(engine: EngineReport) -> EngineReport:
    return replace(engine, state=EngineState.BACKOFF) if engine.state is EngineState.READY else engine


@given(worlds(), st.integers(0, 4))
@settings(max_examples=60)
def test_while_nobody_hears_the_supervisors_nothing_changes(world: Snapshot, cycles: int) -> None:
    for _ in range(cycles):
        world = step(world, plan_cluster(world, PACKS))
    silent = replace(world, pods=tuple(replace(pod, pack=None) for pod in world.pods))
    told = sets(plan_cluster(silent, PACKS))
    assert not any(action.recorded for action in told), "no answer is no wrong answer"
    done = settle(world)
    mute = replace(done, pods=tuple(replace(pod, pack=None) for pod in done.pods))
    assert plan_cluster(mute, PACKS).actions == ()


@given(worlds(), st.randoms(use_true_random=False), st.integers(0, 3))
@settings(max_examples=60)
def test_the_order_of_the_snapshot_does_not_matter(world: Snapshot, random: Any, cycles: int) -> None:
    for _ in range(cycles):
        world = step(world, plan_cluster(world, PACKS))

    def shuffled(items: Sequence[Any]) -> tuple[Any, ...]:
        mixed = list(items)
        random.shuffle(mixed)
        return tuple(mixed)

    mixed = replace(
        world, nodes=shuffled(world.nodes), pods=shuffled(world.pods), deployments=shuffled(world.deployments)
    )
    assert plan_cluster(mixed, PACKS) == plan_cluster(world, PACKS)
