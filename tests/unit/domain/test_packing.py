"""Where missing replicas go, in whose order, and why one has no room."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import inf

import pytest

from slmpack.domain.board import Board, Room, Want
from slmpack.domain.inventory import read_nodes
from slmpack.domain.packing import candidates_for
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import DeploymentView, Key, NodeView, PodView, Snapshot, Taint, Toleration
from slmpack.domain.workload import Objective, Workload
from tests.support.builders import (
    A100_40,
    H100,
    L4,
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_need,
    a_node,
    a_pod,
    a_snapshot,
    a_stranger,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

SMALL, LARGE = a_model("Qwen/Qwen2.5-0.5B-Instruct"), a_model("facebook/opt-1.3b")


def places(snapshot: Snapshot) -> dict[str, str]:
    """Name of each create -> node/resource."""
    return {c.name: f"{c.placement.node} {c.record.share}" for c in creates(plan(snapshot))}


def place(demand: object = None, *nodes: NodeView, pods: tuple[PodView, ...] = ()) -> dict[str, str]:
    return places(a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=nodes, pods=pods))  # type: ignore[arg-type]


# where


def test_the_ladder_joins_a_gpu_in_use_then_takes_the_smallest_then_the_first_name() -> None:
    small = a_demand(model=SMALL)
    assert place(small, whole_node("b"), whole_node("a")) == {"qwen-0": "a Exclusive"}
    assert place(small, whole_node("a", product=H100), whole_node("b", product=L4)) == {"qwen-0": "b Exclusive"}
    twenty = mig_node("a", slices={"3g.20gb": 1})
    assert place(small, twenty, mps_node("b", replicas=8), whole_node("c")) == {"qwen-0": "b MpsShare 1/8"}
    in_use = a_stranger("s", "z", resource="nvidia.com/mig-3g.20gb")
    nodes = (mig_node("y", slices={"3g.20gb": 2}), mig_node("z", slices={"3g.20gb": 2}))
    assert place(small, *nodes, pods=(in_use,)) == {"qwen-0": "z MigSlice 3g.20gb"}
    joined = a_stranger("s", "b")
    assert place(small, whole_node("a"), mps_node("b", gpus=2), pods=(joined,)) == {"qwen-0": "b MpsShare 1/4"}


def test_latency_opens_a_gpu_of_its_own_where_one_is_free() -> None:
    joined = a_stranger("s", "b")
    quick = replace(a_demand(model=SMALL), objective=Objective.LATENCY)
    nodes = (whole_node("a"), mps_node("b"))
    assert place(a_demand(model=SMALL), *nodes, pods=(joined,)) == {"qwen-0": "b MpsShare 1/4"}
    assert place(quick, *nodes, pods=(joined,)) == {"qwen-0": "a Exclusive"}
    assert place(quick, mps_node("b"), pods=(joined,)) == {"qwen-0": "b MpsShare 1/4"}


def test_energy_joins_a_gpu_in_use_then_goes_where_a_token_costs_least() -> None:
    """No GPU carries this load alone: for throughput the fastest comes first, for energy the one of fewest joules."""
    busy = replace(a_demand(model=SMALL), workload=Workload(in_flight=200))
    frugal = replace(busy, objective=Objective.ENERGY)
    nodes = (whole_node("h", product=H100), whole_node("l", product=L4))
    assert place(busy, *nodes) == {"qwen-0": "h Exclusive"}
    assert place(frugal, *nodes) == {"qwen-0": "l Exclusive"}
    joined = a_stranger("s", "m")
    assert place(frugal, *nodes, mps_node("m", product=H100), pods=(joined,))["qwen-0"] == "m MpsShare 1/4"


def test_what_cannot_be_predicted_is_never_frugal() -> None:
    room = candidates_for(a_demand(), a_need(), read_nodes((whole_node("n"),), POLICY.gpus), POLICY)
    fit = room.candidates[0].fit
    assert 0 < fit.joules_per_token < 1
    assert replace(fit, choice=None).joules_per_token == inf


def test_a_full_first_gpu_of_a_node_opens_the_next() -> None:
    """Eight shares on two GPUs, four taken: one more opens a GPU there as well, so the smaller offer wins."""
    taken = tuple(a_stranger(f"s{n}", "b") for n in range(4))
    assert place(
        a_demand(model=SMALL), mig_node("a", slices={"3g.20gb": 1}), mps_node("b", gpus=2, replicas=4), pods=taken[:3]
    )["qwen-0"].startswith("b")
    assert place(a_demand(model=SMALL), whole_node("a", product=A100_40), mps_node("b", gpus=2), pods=taken)[
        "qwen-0"
    ].startswith("b")
    assert place(a_demand(model=SMALL), mig_node("a", slices={"1g.10gb": 1}), mps_node("b", gpus=2), pods=taken)[
        "qwen-0"
    ].startswith("a")


def test_a_mode_takes_only_its_own_kind() -> None:
    nodes = (whole_node("whole"), mps_node("mps"), mig_node("mig"))
    for mode, node in ((Mode.EXCLUSIVE, "whole"), (Mode.MPS, "mps"), (Mode.MIG, "mig")):
        assert place(a_demand(mode=mode), *nodes)["qwen-0"].startswith(node)


def test_max_per_gpu_caps_the_node_by_its_gpus() -> None:
    world = (mps_node("n", gpus=2, replicas=4),)
    demand = a_demand(replicas=6, max_per_gpu=2)
    entry = plan(a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=world)).deployments[0]
    assert len(entry.creates) + len(entry.waiting) == 4
    (unplaced,) = entry.unplaced
    assert (unplaced.count, unplaced.problem.reason) == (2, Reason.MAX_PER_GPU)
    assert unplaced.problem.message == "spec.sharing.maxPerGPU allows 4 replicas on the 2 GPU(s) of node n"
    assert entry.per_gpu == 2


def test_what_fits_beside_strangers() -> None:
    assert place(a_demand(), whole_node("n"), pods=(a_stranger("s", "n"),)) == {}
    finished = replace(a_stranger("s", "n"), node=None)
    assert place(a_demand(), whole_node("n"), pods=(finished,)) == {"qwen-0": "n Exclusive"}


# in whose order


def order(*deployments: DeploymentView) -> list[str]:
    world = a_snapshot(deployments=deployments, nodes=(whole_node("n", gpus=3),))
    return [create.name for create in creates(plan(world))]


def test_first_replicas_come_before_second_ones() -> None:
    a, b = a_deployment("a", a_demand(replicas=3)), a_deployment("b", a_demand(replicas=3))
    assert order(a, b) == ["a-0", "b-0", "a-1"]


def test_priority_comes_before_everything() -> None:
    a, b = a_deployment("a", a_demand(replicas=3)), a_deployment("b", a_demand(replicas=3, priority=1))
    assert order(a, b) == ["b-0", "b-1", "b-2"]


def test_the_older_comes_first_then_the_name() -> None:
    a = a_deployment("a", a_demand(replicas=3), created=NOW)
    b = a_deployment("b", a_demand(replicas=3), created=NOW - timedelta(minutes=1))
    c = a_deployment("c", a_demand(replicas=3), created=NOW)
    assert order(a, b, c) == ["b-0", "a-0", "c-0"]


def test_what_runs_counts_for_the_order() -> None:
    a, b = a_deployment("a", a_demand(replicas=3)), a_deployment("b", a_demand(replicas=3))
    nodes = (whole_node("n", gpus=3),)
    first = creates(plan(a_snapshot(deployments=(a,), nodes=nodes)))[0]
    world = a_snapshot(deployments=(a, b), nodes=nodes, pods=(a_pod(first, ready=True),))
    assert [create.name for create in creates(plan(world))] == ["b-0", "a-1"]


# stepping aside


def only(name: str, demand_on: str | None, *, priority: int = 0, **more: object) -> DeploymentView:
    selector = {"on": demand_on} if demand_on else {}
    return a_deployment(name, a_demand(node_selector=selector, priority=priority, **more))  # type: ignore[arg-type]


def labelled(name: str, *, cpu: int = 64_000) -> NodeView:
    view = whole_node(name, cpu=cpu)
    return replace(view, labels={**view.labels, "on": name})


def test_a_replica_of_this_plan_steps_aside_for_one_that_has_no_other_place() -> None:
    world = a_snapshot(deployments=(only("a", None), only("b", "n1")), nodes=(labelled("n1"), labelled("n2")))
    assert places(world) == {"a-0": "n2 Exclusive", "b-0": "n1 Exclusive"}


def test_a_chain_of_replicas_steps_aside() -> None:
    nodes = tuple(replace(labelled(name), labels={**labelled(name).labels, **dict.fromkeys(keys, "1")})
                  for name, keys in (("n1", "xy"), ("n2", "yz"), ("n3", "z")))  # fmt: skip
    wants = [
        a_deployment(name, a_demand(node_selector={key: "1"})) for name, key in (("a", "y"), ("b", "z"), ("c", "x"))
    ]
    assert places(a_snapshot(deployments=tuple(wants), nodes=nodes)) == {
        "a-0": "n2 Exclusive",
        "b-0": "n3 Exclusive",
        "c-0": "n1 Exclusive",
    }


def test_nobody_steps_aside_in_vain() -> None:
    world = a_snapshot(deployments=(only("a", "n1"), only("b", "n1")), nodes=(labelled("n1"), labelled("n2")))
    assert places(world) == {"a-0": "n1 Exclusive"}
    tight = (labelled("n1", cpu=2_000), labelled("n2", cpu=2_000))
    hungry = a_snapshot(deployments=(only("a", None), only("b", "n1", cpu=2_500)), nodes=tight)
    assert places(hungry) == {"a-0": "n1 Exclusive"}


def test_another_slice_of_a_gpu_in_use_opens_no_gpu() -> None:
    nodes = tuple(mig_node(name, slices={"1g.5gb": 1, "3g.20gb": 1}) for name in "yz")
    in_use = a_stranger("s", "z", resource="nvidia.com/mig-1g.5gb")
    assert place(a_demand(), *nodes, pods=(in_use,)) == {"qwen-0": "z MigSlice 3g.20gb"}


def test_the_last_in_order_steps_aside_first() -> None:
    shared = replace(mps_node("n1", replicas=2), labels={**mps_node("n1", replicas=2).labels, "on": "n1"})
    wants = (only("a", None), only("b", None), only("c", "n1"))
    entries = plan(a_snapshot(deployments=wants, nodes=(shared, whole_node("n2", product=A100_40)))).deployments
    spots = {
        e.deployment.key.name: [c.placement.node for c in e.creates] or [p.node for p, _ in e.waiting] for e in entries
    }
    assert spots == {"a": ["n1"], "b": ["n2"], "c": ["n1"]}


def test_a_search_in_vain_leaves_everybody_in_place() -> None:
    nodes = (labelled("n1", cpu=2_000), labelled("n2", cpu=2_000), whole_node("n3", product=H100))
    pair = {"gpu_products": frozenset({L4})}
    wants = (
        only("a", None, priority=9, **pair),
        only("b", "n2", priority=8, **pair),
        only("c", "n1", priority=7, cpu=2_500, **pair),
        only("d", "n1", priority=6, **pair),
        a_deployment("e", a_demand(replicas=0)),  # n3 is open, to nobody who wants a place
    )
    assert places(a_snapshot(deployments=wants, nodes=nodes)) == {"a-0": "n1 Exclusive", "b-0": "n2 Exclusive"}


def test_what_runs_never_steps_aside() -> None:
    nodes = (labelled("n1"), labelled("n2"))
    (first,) = creates(plan(a_snapshot(deployments=(only("a", None),), nodes=nodes)))
    world = a_snapshot(
        deployments=(only("a", None), only("b", "n1", priority=9)), nodes=nodes, pods=(a_pod(first, ready=True),)
    )
    assert plan(world).actions == ()


def test_cores_that_a_move_left_behind_are_given_out() -> None:
    """c1 and c2 leave n1 for hosts' memory's sake one by one; the cores they leave are enough for `a` at last."""
    n1 = replace(mps_node("n1", cpu=6_000), labels={**mps_node("n1").labels, "on": "n1"})
    n1 = replace(n1, allocatable={**n1.allocatable, "memory": 100 * GIB})
    wants = (
        a_deployment("c1", a_demand(priority=9, cpu=3_000, memory=45 * GIB, model=SMALL)),
        a_deployment("c2", a_demand(priority=8, cpu=3_000, memory=45 * GIB, model=SMALL)),
        only("d", "n1", priority=7, cpu=5_000, memory=GIB, model=SMALL),
        only("e1", "n1", priority=6, cpu=100, memory=40 * GIB, model=SMALL),
        only("e2", "n1", priority=5, cpu=100, memory=40 * GIB, model=SMALL),
    )
    spare = replace(mps_node("n2", cpu=64_000), labels={**mps_node("n2").labels, "nvidia.com/gpu.memory": "81559"})
    entries = plan(a_snapshot(deployments=wants, nodes=(n1, spare))).deployments
    for entry in entries:
        assert len(entry.creates) + len(entry.waiting) + len(entry.unplaced) == 1


def test_a_chain_through_hundreds_of_deployments_does_not_end_the_stack() -> None:
    count = 150
    nodes = (*(whole_node(f"n{n:03}") for n in range(count)), whole_node("z", cpu=100))
    wants = tuple(a_deployment(f"d{n:03}") for n in range(count + 1))
    entries = plan(a_snapshot(deployments=wants, nodes=nodes)).deployments
    assert sum(len(entry.creates) for entry in entries) == count


# why not


TAINT = Taint(key="team", value="red", effect="NoSchedule")
FITS = "would hold a replica (4.5 GiB)"
NEAREST = f"a 1g.5gb slice of a100-sxm4-40gb (4.8 GiB) or a whole a16 (14.7 GiB) {FITS}"

WHY = {
    "no GPU nodes": ({}, (), Reason.NO_GPU_NODES, f"the cluster has no node with NVIDIA GPUs; {NEAREST}", ""),
    "too small": (
        {"max_model_len": 32_000},
        (mig_node("n", slices={"1g.5gb": 7}),),
        Reason.INSUFFICIENT_GPU_MEMORY,
        "a replica needs 5.1 GiB of GPU memory; MigSlice 1g.5gb on node n gives it 4.7 GiB of 4.8 GiB; a 1g.6gb slice",
        "",
    ),
    "another kind": (
        {"mode": Mode.MIG},
        (whole_node("n"),),
        Reason.NO_MATCHING_GPU,
        f"node n offers Exclusive; spec.sharing.mode asks for MIG; {NEAREST}",
        "spec.sharing.mode",
    ),
    "another product": (
        {"gpu_products": frozenset({H100, A100_40})},
        (whole_node("n"),),
        Reason.NO_MATCHING_GPU,
        f"node n has {L4}; spec.sharing.gpuProducts allows {A100_40}, {H100}; {NEAREST}",
        "spec.sharing.gpuProducts",
    ),
    "no product at all": (
        {"gpu_products": frozenset({H100})},
        (replace(whole_node("n"), labels={}),),
        Reason.NO_MATCHING_GPU,
        f"node n has no labelled GPU; spec.sharing.gpuProducts allows {H100}; {NEAREST}",
        "spec.sharing.gpuProducts",
    ),
    "a selector": (
        {"node_selector": {"zone": "a", "disk": "ssd"}},
        (whole_node("n"),),
        Reason.SELECTOR_MISMATCH,
        f"node n lacks disk=ssd, zone=a of spec.pod.nodeSelector; {NEAREST}",
        "spec.pod.nodeSelector",
    ),
    "a taint": (
        {},
        (a_node("n", taints=(TAINT,)),),
        Reason.UNTOLERATED_TAINT,
        f"node n has the taint team=red:NoSchedule, which spec.sharing.tolerations does not tolerate; {NEAREST}",
        "spec.sharing.tolerations",
    ),
    "a taint without a value": (
        {},
        (a_node("n", taints=(replace(TAINT, value=""),)),),
        Reason.UNTOLERATED_TAINT,
        "node n has the taint team:NoSchedule, ",
        "spec.sharing.tolerations",
    ),
    "cordoned": (
        {},
        (
            a_node(
                "n",
                unschedulable=True,
                taints=(Taint(key="node.kubernetes.io/unschedulable", value="", effect="NoSchedule"),),
            ),
        ),
        Reason.NODE_UNAVAILABLE,
        f"node n is cordoned; {NEAREST}",
        "",
    ),
    "not Ready": (
        {},
        (a_node("n", ready=False, taints=(Taint(key="node.kubernetes.io/not-ready", value="", effect="NoExecute"),)),),
        Reason.NODE_UNAVAILABLE,
        "node n is not Ready;",
        "",
    ),
    "under pressure": (
        {},
        (a_node("n", taints=(Taint(key="node.kubernetes.io/disk-pressure", value="", effect="NoSchedule"),)),),
        Reason.NODE_UNAVAILABLE,
        "node n is tainted node.kubernetes.io/disk-pressure;",
        "",
    ),
    "time-sliced": (
        {},
        (a_node("n", product=f"{L4}-SHARED"),),
        Reason.TIME_SLICED,
        "node n: nvidia.com/gpu is shared by time-slicing, which bounds nothing; use MPS or MIG;",
        "",
    ),
    "the one that came nearest is named, the others are counted": (
        {"max_model_len": 32_000},
        (a_node("a", taints=(TAINT,)), mig_node("b", slices={"1g.5gb": 1}), a_node("c", unschedulable=True)),
        Reason.INSUFFICIENT_GPU_MEMORY,
        "MigSlice 1g.5gb on node b gives it 4.7 GiB of 4.8 GiB (and 2 more offers that do not suit);",
        "",
    ),
    "all taken": (
        {"replicas": 3},
        (whole_node("n", gpus=2),),
        Reason.INSUFFICIENT_GPUS,
        "every GPU or share that holds the 4.5 GiB that a replica needs at least is taken (2 in all); each needs one more: Exclusive (22.0 GiB) or larger",
        "",
    ),
    "cores": (
        {},
        (whole_node("n", cpu=1_000),),
        Reason.INSUFFICIENT_CPU,
        "node n: a replica requests 1500m CPU, 1000m are free",
        "spec.pod.resources",
    ),
    "cores that others took": (
        {},
        (replace(whole_node("n", cpu=1_000), used_by_others={"cpu": 2_000}),),
        Reason.INSUFFICIENT_CPU,
        "node n: a replica requests 1500m CPU, 0m are free",
        "spec.pod.resources",
    ),
    "host memory": (
        {"memory": 600 * GIB},
        (whole_node("n"),),
        Reason.INSUFFICIENT_MEMORY,
        "node n: a replica requests 600.0 GiB of host memory, 512.0 GiB are free",
        "spec.pod.resources",
    ),
    "pods": (
        {},
        (replace(whole_node("n"), used_by_others={"pods": 110}),),
        Reason.INSUFFICIENT_PODS,
        "node n has no room for another pod",
        "",
    ),
}


@pytest.mark.parametrize(("demand", "nodes", "reason", "message", "field"), WHY.values(), ids=WHY)
def test_why_a_replica_has_no_room(
    demand: dict[str, object], nodes: tuple[NodeView, ...], reason: Reason, message: str, field: str
) -> None:
    world = a_snapshot(deployments=(a_deployment("qwen", a_demand(**demand)),), nodes=nodes)  # type: ignore[arg-type]
    (entry,) = plan(world).deployments
    (unplaced,) = entry.unplaced
    problem: Problem = unplaced.problem
    assert (unplaced.count, problem.reason, problem.field) == (1, reason, field)
    assert message in problem.message


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration(key="team", value="red"), True),
        (Toleration(key="team", value="red", effect="NoSchedule"), True),
        (Toleration(key="team", operator="Exists"), True),
        (Toleration(operator="Exists"), True),
        (Toleration(key="team", value="blue"), False),
        (Toleration(key="other", operator="Exists"), False),
        (Toleration(key="team", value="red", effect="NoExecute"), False),
        (Toleration(value="red"), False),
    ],
)
def test_tolerations_mean_what_core_v1_says(toleration: Toleration, tolerated: bool) -> None:
    node = a_node("n", taints=(TAINT,))
    assert bool(place(a_demand(tolerations=(toleration,)), node)) is tolerated


@pytest.mark.parametrize(
    "taint",
    [Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule"), replace(TAINT, effect="PreferNoSchedule")],
    ids=["the GPU taint", "a preference"],
)
def test_taints_that_keep_nobody_away(taint: Taint) -> None:
    assert place(a_demand(), a_node("n", taints=(taint,))) == {"qwen-0": "n Exclusive"}


def test_thousands_of_replicas_without_room_are_explained_once() -> None:
    world = a_snapshot(deployments=(a_deployment("qwen", a_demand(replicas=5_000)),), nodes=())
    assert [entry.count for entry in plan(world).deployments[0].unplaced] == [5_000]


def test_large_models_take_what_holds_them() -> None:
    assert place(a_demand(model=LARGE), mig_node("n"))["qwen-0"] == "n MigSlice 3g.20gb"


def test_an_offer_with_room_blocks_nobody() -> None:
    nodes, key = read_nodes((whole_node("n"),), POLICY.gpus), Key("llm", "qwen")
    room: Room = candidates_for(a_demand(), a_need(), nodes, POLICY)
    board = Board(rooms={key: room}, nodes=nodes, pods=())
    want = Want(id=0, deployment=key, need=a_need())
    assert board.blocker(want, room.candidates[0]) is None
    assert board.place(want)
    problem = board.blocker(want, room.candidates[0])
    assert problem is not None
    assert problem.message == "node n: every nvidia.com/gpu is taken"
