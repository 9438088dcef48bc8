"""Repack advice: what it frees, what it leaves alone, and that the planner then does what it says."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.domain.case import World
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.inventory import where
from slmpack.domain.power import loaded_idle_w
from slmpack.domain.repack import Freed, Move, Repack, advise_repack
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Key, Rejected
from slmpack.domain.workload import Objective, Workload
from tests.support.builders import (
    A100_40,
    H100,
    L4,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_snapshot,
    a_stranger,
    heard,
    mig_node,
    mps_node,
    plan,
    sets,
    whole_node,
)
from tests.support.repack import SMALL, filled, ready, run, shared, spread

if TYPE_CHECKING:
    from slmpack.domain.plan import ClusterPlan
    from slmpack.domain.snapshot import DeploymentView, PodView, Policy, Snapshot


def advice(snapshot: Snapshot, policy: Policy = POLICY, **more: Any) -> Repack | None:
    return advise_repack(plan(snapshot, policy), World.read(snapshot, policy), **more)


def given(snapshot: Snapshot, policy: Policy = POLICY, **more: Any) -> Repack:
    found = advice(snapshot, policy, **more)
    assert found is not None
    return found


def followed(snapshot: Snapshot, repack: Repack, policy: Policy = POLICY) -> Snapshot:
    """As a user does it: the nodes cordoned, one pod deleted after the other, the nodes uncordoned."""
    names = {freed.node for freed in repack.freed}
    nodes = tuple(replace(node, unschedulable=node.name in names) for node in snapshot.nodes)
    world = replace(snapshot, nodes=nodes)
    for move in repack.moves:
        world = replace(world, pods=tuple(pod for pod in world.pods if pod.key != move.pod))
        answer = plan(world, policy)
        assert not [one for part in answer.deployments for one in part.unplaced], move
        world = run(_told(world, answer), policy)
    return replace(world, nodes=snapshot.nodes)


def _told(world: Snapshot, answer: ClusterPlan) -> Snapshot:
    """Packs run the engines that they are told to."""
    told = {action.uid: action.running for action in sets(answer)}
    pods = []
    for pod in world.pods:
        if pod.uid in told and pod.record is not None and pod.record.pack is not None:
            pack = replace(pod.record.pack, running=told[pod.uid])
            pods.append(heard(replace(pod, record=replace(pod.record, pack=pack))))
        else:
            pods.append(pod)
    return replace(world, pods=tuple(pods))


def test_the_fewest_pods_are_moved_that_free_a_gpu() -> None:
    snapshot = spread(2, 1)
    found = given(snapshot)
    assert found.moves == (Move(pod=Key("llm", "web-2"), deployment=Key("llm", "web"), node="n2", to=("n1",)),)
    (freed,) = found.freed
    assert (freed.node, freed.product, freed.gpus) == ("n2", H100, 1)
    after = followed(snapshot, found)
    assert {where(pod) for pod in after.pods} == {"n1"}
    assert plan(after).actions == ()
    assert advice(after) is None


def test_what_the_gpu_draws_without_work_is_saved() -> None:
    gpu = POLICY.gpus.by_product(H100)
    assert gpu is not None
    assert gpu.idle_w is not None
    least, most = loaded_idle_w(gpu, POLICY.performance.generations[-1][1].power)
    found = given(spread(1, 1)).power_w
    assert found is not None
    assert found.low == max(0.0, least - gpu.idle_w[1])
    assert found.high == most - gpu.idle_w[0]
    assert found.low <= found.expected <= found.high
    assert found.basis is Basis.ASSUMED


@pytest.mark.parametrize(
    ("freed", "said"),
    [
        (
            [(1, Interval.exactly(90.4, Basis.ASSUMED)), (1, None)],
            "moving 2 pods would free 2 GPUs (about 90 W, estimated); see slmpack plan --repack",
        ),
        ([(1, None)], "moving 2 pods would free 1 GPU; see slmpack plan --repack"),
    ],
)
def test_the_sentence_for_status(freed: list[tuple[int, Interval | None]], said: str) -> None:
    move = Move(pod=Key("llm", "a-0"), deployment=Key("llm", "a"), node="n1", to=("n2",))
    gpus = tuple(Freed(node=f"n{n}", product=L4, gpus=one, power_w=power) for n, (one, power) in enumerate(freed))
    assert Repack(moves=(move, move), freed=gpus).sentence == said


def test_one_pod_is_one_pod() -> None:
    move = Move(pod=Key("llm", "a-0"), deployment=Key("llm", "a"), node="n1", to=("n2",))
    freed = Freed(node="n1", product=L4, gpus=1, power_w=None)
    assert Repack(moves=(move,), freed=(freed,)).sentence.startswith("moving 1 pod would free 1 GPU;")


def test_all_gpus_that_can_come_free_do() -> None:
    snapshot = spread(1, 1, 1)
    found = given(snapshot)
    assert found.gpus == 2
    assert len(found.moves) == 2
    assert len({where(pod) for pod in followed(snapshot, found).pods}) == 1


def test_where_there_are_many_sources_they_are_tried_one_after_another() -> None:
    snapshot = spread(2, 2, 1, 1, 1)
    found = given(snapshot, tries=4)
    assert found.gpus >= 2
    assert {where(pod) for pod in followed(snapshot, found).pods}.isdisjoint({freed.node for freed in found.freed})
    assert given(snapshot).gpus == 3, "with every set tried"


@pytest.mark.parametrize("counts", [(4, 4), (4, 3), (3, 2)])
def test_full_gpus_free_nothing(counts: tuple[int, ...]) -> None:
    assert advice(spread(*counts)) is None


def test_bounds_on_a_gpu_hold() -> None:
    assert advice(spread(1, 1, max_per_gpu=1)) is None


def test_what_does_not_pay_is_not_advised() -> None:
    snapshot = spread(1, 1)
    (view,) = snapshot.deployments
    little = {"max_per_gpu": None, "workload": Workload(in_flight=1)}
    capped = replace(view, demand=replace(view.demand, **little))  # type: ignore[arg-type]
    answer = plan(replace(snapshot, deployments=(capped,)))
    assert answer.deployments[0].per_gpu == 1
    assert advice(replace(snapshot, deployments=(capped,))) is None


def test_who_wants_gpus_apart_keeps_them_apart() -> None:
    assert advice(spread(1, 1, objective=Objective.LATENCY)) is None


def test_strangers_are_no_source_but_keep_a_gpu_in_use() -> None:
    snapshot = spread(1, 1)
    stranger = a_stranger("s", "n1")
    found = given(replace(snapshot, pods=(*snapshot.pods, stranger)))
    assert [move.node for move in found.moves] == ["n2"]
    both = (*snapshot.pods, stranger, a_stranger("t", "n2"))
    assert advice(replace(snapshot, pods=both)) is None


def test_a_plan_with_work_to_do_gives_no_advice() -> None:
    snapshot = spread(1, 1)
    starting = replace(snapshot.pods[1], ready=False, was_ready=False, ready_since=None)
    assert advice(replace(snapshot, pods=(snapshot.pods[0], starting))) is None
    assert advice(replace(snapshot, pods=snapshot.pods[:1])) is None


def test_replicas_that_find_no_room_anywhere_stand_in_nobodys_way() -> None:
    snapshot = spread(1, 1)
    huge = a_deployment("huge", a_demand(mode=Mode.MIG))
    found = given(replace(snapshot, deployments=(*snapshot.deployments, huge)))
    assert found.gpus == 1


def test_frozen_replicas_stay() -> None:
    snapshot = spread(1, 1)
    (view,) = snapshot.deployments
    frozen = replace(view, demand=Rejected(problems=()))
    assert advice(replace(snapshot, deployments=(frozen,))) is None


def test_a_whole_gpu_is_left_for_a_share_of_one_in_use() -> None:
    whole, mps = whole_node("n1", product=H100), mps_node("n2")
    auto = a_deployment("auto", a_demand(model=SMALL, max_per_gpu=4))
    pods = (*filled(auto, [whole]), *filled(shared(), [mps]))
    snapshot = a_snapshot(deployments=(auto, shared()), nodes=(whole, mps), pods=pods)
    found = given(snapshot)
    assert [(move.pod.name, move.to) for move in found.moves] == [("auto-0", ("n2",))]
    assert {where(pod) for pod in followed(snapshot, found).pods} == {"n2"}


def test_whole_gpus_of_one_node_are_counted_together() -> None:
    whole, mps = whole_node("n1", product=H100, gpus=2), mps_node("n2")
    auto = a_deployment("auto", a_demand(model=SMALL, max_per_gpu=4, replicas=2, objective=Objective.THROUGHPUT))
    pods = (*filled(auto, [whole]), *filled(shared(), [mps]))
    alone, stranger = whole_node("n3"), a_stranger("s", "n3")
    found = given(a_snapshot(deployments=(auto, shared()), nodes=(whole, mps, alone), pods=(*pods, stranger)))
    (freed,) = found.freed
    assert (freed.node, freed.gpus) == ("n1", 2)


def test_nothing_moves_to_a_node_that_is_cordoned_for_the_move() -> None:
    """Its slices would do, and its name comes first."""
    slices, resource = {"1g.5gb": 7}, "nvidia.com/mig-1g.5gb"
    cut, whole = mig_node("n1", slices=slices), whole_node("n1", product=A100_40)
    mixed = replace(
        cut,
        labels={**cut.labels, "nvidia.com/gpu.count": "2"},
        allocatable={**cut.allocatable, "nvidia.com/gpu": 1},
    )
    auto = a_deployment("auto", a_demand(model=SMALL))
    strangers = tuple(a_stranger(f"s-{name}", name, resource=resource) for name in ("n1", "n2"))
    nodes = (mixed, mig_node("n2", slices=slices))
    found = given(a_snapshot(deployments=(auto,), nodes=nodes, pods=(*filled(auto, [whole]), *strangers)))
    assert [(move.node, move.to) for move in found.moves] == [("n1", ("n2",))]


def test_slices_of_the_last_gpu_are_freed_together() -> None:
    nodes = [mig_node("n1", slices={"1g.5gb": 3}), mig_node("n2", slices={"1g.5gb": 3})]
    one, two = (a_deployment(name, a_demand(mode=Mode.MIG, model=SMALL)) for name in ("one", "two"))
    pods = (*filled(one, nodes[:1]), *filled(two, nodes[1:]))
    found = given(a_snapshot(deployments=(one, two), nodes=tuple(nodes), pods=pods))
    assert (found.gpus, len(found.moves)) == (1, 1)


def test_an_instance_that_anothers_claim_holds_keeps_its_gpu() -> None:
    nodes = [mig_node("n1", slices={"1g.5gb": 3}), mig_node("n2", slices={"1g.5gb": 3})]
    claimed = [replace(node, used_by_others={"nvidia.com/mig-1g.5gb": 1}) for node in nodes]
    one, two = (a_deployment(name, a_demand(mode=Mode.MIG, model=SMALL)) for name in ("one", "two"))
    pods = (*filled(one, nodes[:1]), *filled(two, nodes[1:]))
    assert advice(a_snapshot(deployments=(one, two), nodes=tuple(claimed), pods=pods)) is None


def test_an_idle_engine_of_a_pack_is_taken() -> None:
    nodes = (whole_node("n1", product=H100), whole_node("n2", product=H100))
    demand = a_demand(mode=Mode.MPS_PACK, model=SMALL, max_per_gpu=2, replicas=4)
    pods = [heard(pod) for pod in filled(a_deployment("web", demand), nodes, PACKS)]
    assert len(pods) == 2
    halves = []
    for pod in pods:
        assert pod.record is not None
        assert pod.record.pack is not None
        halves.append(heard(replace(pod, record=replace(pod.record, pack=replace(pod.record.pack, running=(0,))))))
    view = a_deployment("web", replace(demand, replicas=2))
    snapshot = a_snapshot(deployments=(view,), nodes=nodes, pods=tuple(halves))
    found = given(snapshot, PACKS)
    assert [(move.pod.name, move.to) for move in found.moves] == [("web-0", ("llm/web-1",))]
    assert [pod.key.name for pod in followed(snapshot, found, PACKS).pods] == ["web-1"]


@pytest.mark.parametrize(("counts", "gpus"), [((5, 1), 1), ((4, 1), 0), ((1, 1), 0)])
def test_where_nobody_knows_the_gpu_only_what_is_certain_is_promised(counts: tuple[int, int], gpus: int) -> None:
    """Two GPUs of four shares: with four taken one of them may be empty, with five both are in use."""
    found = advice(spread(*counts, gpus=2))
    assert (found.gpus if found is not None else 0) == gpus


def test_mixed_slices_on_several_gpus_are_no_target() -> None:
    labels = {"nvidia.com/mig.strategy": "mixed", "nvidia.com/gpu.count": "2"}
    nodes = [replace(mig_node(f"n{n}"), labels={**mig_node("x").labels, **labels}) for n in (1, 2)]
    nodes = [
        replace(n, allocatable={**n.allocatable, "nvidia.com/mig-1g.5gb": 6, "nvidia.com/mig-3g.20gb": 2})
        for n in nodes
    ]
    one, two = (a_deployment(name, a_demand(mode=Mode.MIG, model=SMALL)) for name in ("one", "two"))
    pods = (*filled(one, nodes[:1]), *filled(two, nodes[1:]))
    assert advice(a_snapshot(deployments=(one, two), nodes=tuple(nodes), pods=pods)) is None


def test_without_a_captured_idle_power_no_watts_are_said() -> None:
    gpus = replace(POLICY.gpus, models=tuple(replace(gpu, idle_w=None) for gpu in POLICY.gpus.models))
    assert given(spread(1, 1), replace(POLICY, gpus=gpus)).power_w is None


@pytest.mark.parametrize("seed", range(12))
def test_the_plan_does_as_advised(seed: int) -> None:
    """Random packings: after the advised moves nothing is unplaced, and the promised GPUs are empty."""
    random = Random(seed)
    nodes = tuple(
        mps_node(f"n{n}", replicas=random.choice((2, 4)), cpu=random.choice((8_000, 64_000)))
        for n in range(random.randint(2, 6))
    )
    views: list[DeploymentView] = []
    pods: list[PodView] = []
    for name in ("a", "b", "c"):
        count = random.randint(1, 3)
        views.append(
            shared(name, replicas=count, max_per_gpu=random.choice((1, 2, 4)), cpu=random.choice((1500, 3000)))
        )
        for index in range(count):
            node = random.choice(nodes)
            there = a_snapshot(deployments=(shared(name),), nodes=(node,), pods=tuple(pods))
            there = replace(there, pods=tuple(replace(pod, record=None) for pod in there.pods))
            for made in ready(plan(there)):
                assert made.record is not None
                key = Key("llm", f"{name}-{index}")
                spec = views[-1].demand
                record = replace(made.record, ordinal=index, spec_hash=spec.spec_hash)  # type: ignore[union-attr]
                pods.append(replace(made, key=key, uid=f"pod-{key}", record=record))
    snapshot = run(a_snapshot(deployments=tuple(views), nodes=nodes, pods=tuple(pods)))
    before = {part.deployment.key: sum(one.count for one in part.unplaced) for part in plan(snapshot).deployments}
    found = advice(snapshot)
    if found is None:
        return
    after = followed_among(snapshot, found)
    assert {where(pod) for pod in after.pods}.isdisjoint({freed.node for freed in found.freed})
    for part in plan(replace(after, nodes=snapshot.nodes)).deployments:
        assert sum(one.count for one in part.unplaced) <= before[part.deployment.key]


def followed_among(snapshot: Snapshot, repack: Repack) -> Snapshot:
    """The same where some replicas had no room before, and have none now."""
    names = {freed.node for freed in repack.freed}
    nodes = tuple(replace(node, unschedulable=node.name in names) for node in snapshot.nodes)
    world = replace(snapshot, nodes=nodes)
    for move in repack.moves:
        world = replace(world, pods=tuple(pod for pod in world.pods if pod.key != move.pod))
        world = run(world)
    assert len(world.pods) == len(snapshot.pods)
    return world
