"""Where packs go: the first replica opens one, the next ones join it, and nobody opens two where one is meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.pack import PackRecord
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import Exclusive, Mode, MpsPack
from slmpack.domain.snapshot import DeploymentView, NodeView, PodPhase, PodView
from slmpack.domain.workload import Objective
from tests.support.builders import (
    A100_40,
    H100,
    L4,
    NOW,
    PACKS,
    a_demand,
    a_deployment,
    a_node,
    a_pod,
    a_snapshot,
    a_stranger,
    assert_within_limits,
    creates,
    heard,
    mig_node,
    plan,
    sets,
    whole_node,
)

MIG = "nvidia.com/mig-3g.20gb"
EARLY = NOW - timedelta(hours=3)


def packs_of(replicas: int, *, most: int | None = 2, name: str = "qwen", **changes: object) -> DeploymentView:
    demand = a_demand(replicas=replicas, mode=Mode.MPS_PACK, max_per_gpu=most, **changes)  # type: ignore[arg-type]
    return a_deployment(name, demand)


def planned(*views: DeploymentView, nodes: tuple[NodeView, ...], pods: tuple[PodView, ...] = ()) -> ClusterPlan:
    return plan(a_snapshot(deployments=views, nodes=nodes, pods=pods), PACKS)


def placed(result: ClusterPlan) -> list[tuple[str, str, str, tuple[int, ...] | None]]:
    return [
        (c.name, c.placement.node, c.record.share, c.record.pack.running if c.record.pack else None)
        for c in creates(result)
    ]


def gpus(count: int, name: str = "n", **changes: object) -> NodeView:
    return whole_node(name, product=H100, gpus=count, **changes)  # type: ignore[arg-type]


# one deployment


def test_a_create_says_what_the_pack_is_made_of_and_which_engines_run() -> None:
    (create,) = creates(planned(packs_of(2, most=3), nodes=(gpus(1),)))
    assert create.record.pack == PackRecord(engines=3, running=(0, 1))
    assert create.record.replicas == 2
    assert (create.record.share, create.record.starts_alone) == ("MpsPack of 3", False)
    assert isinstance(create.placement.share, MpsPack)
    assert create.record.resource == "nvidia.com/gpu"


def test_joiners_open_no_pod() -> None:
    result = planned(packs_of(5, most=3), nodes=(gpus(2),))
    assert placed(result) == [("qwen-0", "n", "MpsPack of 3", (0, 1, 2)), ("qwen-1", "n", "MpsPack of 3", (0, 1))]
    (entry,) = result.deployments
    assert (entry.unplaced, entry.waiting, entry.per_gpu) == ((), (), 3)


def test_a_pack_is_filled_before_the_next_one_opens_even_on_another_node() -> None:
    result = planned(packs_of(3), nodes=(gpus(1, "a"), gpus(1, "b")))
    assert placed(result) == [("qwen-0", "a", "MpsPack of 2", (0, 1)), ("qwen-1", "b", "MpsPack of 2", (0,))]


def test_for_latency_gpus_are_opened_first_and_joined_when_none_is_left() -> None:
    assert placed(planned(packs_of(3, objective=Objective.LATENCY), nodes=(gpus(2),))) == [
        ("qwen-0", "n", "MpsPack of 2", (0, 1)),
        ("qwen-1", "n", "MpsPack of 2", (0,)),
    ]
    two = packs_of(2, objective=Objective.LATENCY)
    for nodes in ((gpus(2),), (gpus(1, "a"), gpus(1, "b"))):
        assert [running for *_, running in placed(planned(two, nodes=nodes))] == [(0,), (0,)]


def test_auto_packs_what_pays_and_says_why_no_more() -> None:
    view = a_deployment(demand=a_demand(replicas=8))
    result = planned(view, nodes=(gpus(2),))
    assert [share for _, _, share, _ in placed(result)] == ["MpsPack of 2", "MpsPack of 2"]
    ((unplaced),) = result.deployments[0].unplaced
    assert (unplaced.count, unplaced.problem.reason) == (4, Reason.DOES_NOT_PAY)
    assert result.deployments[0].per_gpu == 2


def test_for_one_replica_auto_leaves_the_gpu_whole() -> None:
    (create,) = creates(planned(a_deployment(demand=a_demand(replicas=1)), nodes=(gpus(1),)))
    assert (create.record.share, create.record.pack) == ("Exclusive", None)


def test_the_cores_of_all_engines_must_be_free() -> None:
    """D6a: each of the three reserves 1.5 cores, so a node with 4 has no room for the pack."""
    (unplaced,) = planned(packs_of(3, most=3), nodes=(gpus(1, cpu=4000),)).deployments[0].unplaced
    assert (unplaced.count, unplaced.problem.reason) == (3, Reason.INSUFFICIENT_CPU)
    assert unplaced.problem.message == "node n: a pack of 3 requests 4500m CPU, 4000m are free"
    assert unplaced.problem.field == "spec.pod.resources"
    assert len(creates(planned(packs_of(3, most=3), nodes=(gpus(1, cpu=4500),)))) == 1


def test_the_host_memory_of_all_engines_must_be_free() -> None:
    node = a_node("n", product=H100, memory=9 << 30)
    (unplaced,) = planned(packs_of(3, most=3), nodes=(node,)).deployments[0].unplaced
    assert unplaced.problem.reason is Reason.INSUFFICIENT_MEMORY
    assert unplaced.problem.message == "node n: a pack of 3 requests 12.0 GiB of host memory, 9.0 GiB are free"


def test_auto_takes_the_gpu_whole_where_the_node_lacks_the_cores_for_a_pack() -> None:
    result = planned(a_deployment(demand=a_demand(replicas=2)), nodes=(gpus(1, cpu=2000),))
    assert placed(result) == [("qwen-0", "n", "Exclusive", None)]


def test_a_gpu_is_counted_once_although_it_may_be_had_in_two_ways() -> None:
    view = a_deployment(demand=a_demand(replicas=2))
    (unplaced,) = planned(view, nodes=(gpus(1),), pods=(a_stranger("s", "n"),)).deployments[0].unplaced
    assert "is taken (1 in all)" in unplaced.problem.message


# what runs already


def running(view: DeploymentView, *nodes: NodeView) -> tuple[PodView, ...]:
    made = creates(planned(view, nodes=nodes))
    return tuple(heard(a_pod(create, ready=True, created=NOW - timedelta(hours=1))) for create in made)


def test_full_packs_say_what_is_allowed_not_that_gpus_are_taken() -> None:
    pods = running(packs_of(2), gpus(1))
    (unplaced,) = planned(packs_of(3), nodes=(gpus(1),), pods=pods).deployments[0].unplaced
    assert (unplaced.count, unplaced.problem.reason) == (1, Reason.MAX_PER_GPU)
    assert unplaced.problem.message == "spec.sharing.maxPerGPU allows 2 replicas on the 1 GPU(s) of node n"


def test_a_gpu_that_somebody_else_has_is_taken() -> None:
    pods = (*running(packs_of(2), gpus(2)), a_stranger("s", "n"))
    (unplaced,) = planned(packs_of(3), nodes=(gpus(2),), pods=pods).deployments[0].unplaced
    assert unplaced.problem.reason is Reason.INSUFFICIENT_GPUS


def test_a_fuller_pack_of_an_earlier_plan_does_not_close_the_next_gpu() -> None:
    """Two a GPU are allowed by now: the pack of four stays, and the free GPU still takes two."""
    pods = running(packs_of(4, most=4), gpus(2))
    result = planned(packs_of(6), nodes=(gpus(2),), pods=pods)
    assert placed(result) == [("qwen-1", "n", "MpsPack of 2", (0, 1))]
    assert sets(result) == []


def test_idle_engines_run_before_a_pack_opens_but_not_beyond_what_is_allowed() -> None:
    pods = running(packs_of(1, most=3), gpus(2))
    result = planned(packs_of(4, most=3), nodes=(gpus(2),), pods=pods)
    assert [(s.pod.name, s.running) for s in sets(result)] == [("qwen-0", (0, 1, 2))]
    assert placed(result) == [("qwen-1", "n", "MpsPack of 3", (0,))]
    lowered = planned(packs_of(4, most=2), nodes=(gpus(2),), pods=pods)
    assert [(s.pod.name, s.running) for s in sets(lowered)] == [("qwen-0", (0, 1))]
    assert placed(lowered) == [("qwen-1", "n", "MpsPack of 2", (0, 1))]


# several deployments


def test_two_deployments_that_want_the_last_gpus_get_one_each() -> None:
    """The first replica of each comes before anybody's second (D4b), and a pack takes its GPU for its own."""
    older = replace(packs_of(4, name="b"), created=EARLY)
    result = planned(packs_of(4, name="a"), older, nodes=(gpus(2),))
    assert placed(result) == [("b-0", "n", "MpsPack of 2", (0, 1)), ("a-0", "n", "MpsPack of 2", (0, 1))]
    for entry in result.deployments:
        assert [u.count for u in entry.unplaced] == [2]


def test_the_older_one_gets_the_only_gpu() -> None:
    older = replace(packs_of(2, name="b"), created=EARLY)
    result = planned(packs_of(1, name="a"), older, nodes=(gpus(1),))
    assert placed(result) == [("b-0", "n", "MpsPack of 2", (0, 1))]
    (unplaced,) = result.deployments[0].unplaced
    assert unplaced.problem.reason is Reason.INSUFFICIENT_GPUS


def test_a_replica_steps_aside_for_the_one_that_opens_a_pack() -> None:
    """The older Auto one would take the whole GPU (a slice of a GPU in use comes first only for the sake of size)."""
    auto = a_deployment("a", a_demand(replicas=1), created=EARLY)
    nodes = (mig_node("m", product="NVIDIA-H200", slices={"7g.141gb": 1}), gpus(1, "w"))
    assert [(name, node) for name, node, *_ in placed(planned(auto, nodes=nodes))] == [("a-0", "w")]
    result = planned(auto, packs_of(2, name="p"), nodes=nodes)
    assert placed(result) == [("a-0", "m", "MigSlice 7g.141gb", None), ("p-0", "w", "MpsPack of 2", (0, 1))]
    assert all(entry.unplaced == () for entry in result.deployments)


def test_a_search_in_vain_leaves_the_replica_of_another_deployment_where_it_was() -> None:
    """No GPU holds the pack's cores, so the one that was moved aside for the try is put back."""
    auto = a_deployment("a", a_demand(replicas=1), created=EARLY)
    nodes = (mig_node("m", product="NVIDIA-H200", slices={"7g.141gb": 1}), gpus(1, "w", cpu=2000))
    result = planned(auto, packs_of(2, name="p"), nodes=nodes)
    assert placed(result) == [("a-0", "w", "Exclusive", None)]
    assert [u.problem.reason for u in result.deployments[1].unplaced] == [Reason.INSUFFICIENT_GPUS]


@pytest.mark.parametrize("spare", [False, True], ids=["every GPU is taken", "a GPU is free that suits neither"])
def test_a_replica_that_steps_aside_may_join_the_pack_of_a_later_one(spare: bool) -> None:
    """b's first takes a slice beside the stranger's, its second opens a pack; a's second needs the slice."""
    b = a_deployment("b", a_demand(replicas=2, gpu_products=frozenset({A100_40, H100})), created=EARLY)
    a = a_deployment("a", a_demand(replicas=2, mode=Mode.MIG))
    c = a_deployment("c", a_demand(replicas=0, mode=Mode.EXCLUSIVE))
    nodes = (mig_node("m", slices={"3g.20gb": 3}), gpus(1, "w"), whole_node("x", product=L4, gpus=int(spare)))
    taken = (a_stranger("s", "m", resource=MIG),)
    result = planned(a, b, c, nodes=nodes, pods=taken)
    assert sorted(placed(result)) == [
        ("a-0", "m", "MigSlice 3g.20gb", None),
        ("a-1", "m", "MigSlice 3g.20gb", None),
        ("b-0", "w", "MpsPack of 2", (0, 1)),
    ]
    assert all((entry.unplaced, entry.waiting) == ((), ()) for entry in result.deployments)
    assert_within_limits(a_snapshot(nodes=nodes, pods=(*taken, *(a_pod(c) for c in creates(result)))))


HERE = replace(gpus(1, "a"), labels={**gpus(1, "a").labels, "here": "yes"})
"""A node that the replicas of `bound` need."""


def bound(replicas: int = 1, *, priority: int = 0) -> DeploymentView:
    demand = a_demand(replicas=replicas, mode=Mode.EXCLUSIVE, node_selector={"here": "yes"}, priority=priority)
    return a_deployment("q", demand)


@pytest.mark.parametrize("most", [1, 3])
def test_a_pack_that_nobody_has_joined_steps_aside(most: int) -> None:
    """p may go to either GPU, q only to that of a; q's first replica comes before p's second."""
    older = replace(packs_of(2, most=most, name="p"), created=EARLY)
    result = planned(older, bound(), nodes=(HERE, gpus(1, "b")))
    running = tuple(range(min(2, most)))
    assert sorted(placed(result)) == [("p-0", "b", f"MpsPack of {most}", running), ("q-0", "a", "Exclusive", None)]
    assert isinstance(creates(result)[1].placement.share, Exclusive)


def test_a_pack_that_others_have_joined_stays() -> None:
    older = replace(packs_of(2, name="p", priority=10), created=EARLY)
    result = planned(older, bound(), nodes=(HERE, gpus(1, "b")))
    assert placed(result) == [("p-0", "a", "MpsPack of 2", (0, 1))]
    (unplaced,) = result.deployments[1].unplaced
    assert unplaced.problem.reason is Reason.INSUFFICIENT_GPUS


def test_of_two_packs_the_one_without_company_steps_aside() -> None:
    """Three of p fill one pack and open another; q, of lesser priority, gets the GPU of that."""
    older = replace(packs_of(3, name="p", priority=10), created=EARLY)
    two = replace(HERE, allocatable={**HERE.allocatable, "nvidia.com/gpu": 2})
    two = replace(two, labels={**two.labels, "nvidia.com/gpu.count": "2"})
    result = planned(older, bound(2), nodes=(two, gpus(1, "b")))
    assert sorted(placed(result)) == [
        ("p-0", "a", "MpsPack of 2", (0, 1)),
        ("p-1", "b", "MpsPack of 2", (0,)),
        ("q-0", "a", "Exclusive", None),
    ]


def test_a_pack_takes_the_gpu_where_most_of_the_missing_find_room() -> None:
    """A second replica does not pay on an L4, which one alone would take as the smaller one."""
    nodes = (whole_node("a", product=L4), gpus(1, "b"))
    assert placed(planned(a_deployment(demand=a_demand(replicas=1)), nodes=nodes))[0][1] == "a"
    assert placed(planned(a_deployment(demand=a_demand(replicas=2)), nodes=nodes)) == [
        ("qwen-0", "b", "MpsPack of 2", (0, 1))
    ]


@pytest.mark.parametrize("slices", [("NVIDIA-B200", "3g.90gb", "4g.90gb"), (A100_40, "3g.20gb", "4g.20gb")])
def test_a_seat_is_taken_before_a_slice_of_a_gpu_in_use(slices: tuple[str, str, str]) -> None:
    """By the time of b's second replica a's has opened the MIG GPU, whose other slice, larger or smaller, is free."""
    product, first, second = slices
    b = a_deployment("b", a_demand(replicas=2), created=EARLY)
    a = a_deployment("a", a_demand(replicas=1, mode=Mode.MIG))
    mig = mig_node("m", product=product, slices={first: 1, second: 1})
    result = planned(a, b, nodes=(mig, gpus(2, "w")))
    assert [(name, node) for name, node, *_ in placed(result)] == [("b-0", "w"), ("a-0", "m")]


# back-off


def grave(pod: PodView, *, attempt: int = 1) -> PodView:
    assert pod.record is not None
    return replace(
        pod,
        phase=PodPhase.FAILED,
        ready=False,
        was_ready=False,
        ready_since=None,
        created=NOW - timedelta(minutes=5),
        finished_at=NOW - timedelta(seconds=2),
        record=replace(pod.record, attempt=attempt),
        pack=None,
    )


def test_who_joins_a_pack_waits_with_it() -> None:
    """A pack of three failed two seconds ago: nobody opens a second one meanwhile, and its successor has all three."""
    view = packs_of(3, most=3)
    dead = grave(running(view, gpus(2))[0])
    result = planned(view, nodes=(gpus(2),), pods=(dead,))
    assert result.actions == ()
    (entry,) = result.deployments
    assert {problem.message for _, problem in entry.waiting} == {"qwen-0 failed; attempt 2 starts at 12:00:08 UTC"}
    assert len(entry.waiting) == 3
    assert [[b.label for b in bar.blocks] for bar in result.bars] == [
        ["llm/qwen-* engine 0", "llm/qwen-* engine 1", "llm/qwen-* engine 2"],
        [],
    ]
    assert result.next_wake_seconds == pytest.approx(8)
    later = plan(a_snapshot(deployments=(view,), nodes=(gpus(2),), pods=(dead,), now=NOW + timedelta(seconds=8)), PACKS)
    (create,) = creates(later)
    assert (create.name, create.record.attempt, create.record.replaces) == ("qwen-1", 2, "qwen-0")
    assert create.record.pack == PackRecord(engines=3, running=(0, 1, 2))


def test_each_failed_pack_is_followed_by_one_with_its_attempts() -> None:
    view = packs_of(4)
    first, second = running(view, gpus(2))
    dead = (grave(first), grave(second, attempt=3))
    result = planned(view, nodes=(gpus(2),), pods=dead)
    assert (creates(result), len(result.deployments[0].waiting)) == ([], 4)
    soon = NOW + timedelta(seconds=8)
    late = NOW + timedelta(seconds=38)
    assert [
        (c.record.replaces, c.record.attempt, c.record.replicas)
        for c in creates(plan(a_snapshot(deployments=(view,), nodes=(gpus(2),), pods=dead, now=soon), PACKS))
    ] == [("qwen-0", 2, 2)]
    assert [
        (c.record.replaces, c.record.attempt, c.record.replicas)
        for c in creates(plan(a_snapshot(deployments=(view,), nodes=(gpus(2),), pods=dead, now=late), PACKS))
    ] == [("qwen-0", 2, 2), ("qwen-1", 4, 2)]


def test_who_finds_a_seat_in_a_pack_that_starts_need_not_wait() -> None:
    """Three are missing, one pack waits its back-off out; the third replica's pack starts and takes the joiner."""
    view = packs_of(3)
    dead = grave(running(view, gpus(2))[0])
    result = planned(view, nodes=(gpus(2),), pods=(dead,))
    assert placed(result) == [("qwen-1", "n", "MpsPack of 2", (0, 1))]
    assert len(result.deployments[0].waiting) == 1
