"""whenFull: Pending: which pods are made for a node that is yet to come, which go, and how one is adopted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.domain.conditions import judge
from slmpack.domain.pending import Asked
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.sharing import MigSlice, Mode, MpsPack, MpsShare, WhenFull
from slmpack.domain.snapshot import Key, ModelUnknown, NodePins, NodeTerm, PodPhase, Rejected, Taint
from tests.support.builders import (
    H100,
    L4,
    NOW,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    a_stranger,
    creates,
    deletes,
    ends,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

if TYPE_CHECKING:
    from slmpack.domain.plan import ClusterPlan, CreatePod
    from slmpack.domain.snapshot import Demand, DeploymentView, NodeView, PodView, Policy

PRODUCT = "nvidia.com/gpu.product"
ONLY_L4 = frozenset({L4})


def wants(*, when_full: WhenFull = WhenFull.PENDING, scaling: ScalingSpec | None = None, **asked: Any) -> Demand:
    return replace(
        a_demand(**{"mode": Mode.EXCLUSIVE, "gpu_products": ONLY_L4, **asked}), when_full=when_full, scaling=scaling
    )


def waiting(create: CreatePod, *, uid: str = "") -> PodView:
    """The pod as it is once the scheduler found no node for it."""
    pod = a_pod(create, bound=False, phase=PodPhase.PENDING)
    return replace(pod, uid=uid or pod.uid, unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


def bound(pod: PodView, node: str, *, ready: bool = False) -> PodView:
    return replace(
        pod,
        node=node,
        bound_at=NOW,
        unschedulable="",
        phase=PodPhase.RUNNING,
        ready=ready,
        was_ready=ready,
        ready_since=NOW if ready else None,
    )


def planned(
    *deployments: DeploymentView,
    nodes: tuple[NodeView, ...] = (),
    pods: tuple[PodView, ...] = (),
    policy: Policy = POLICY,
    **more: Any,
) -> ClusterPlan:
    return plan(replace(a_snapshot(deployments=deployments, nodes=nodes, pods=pods), **more), policy)


def the_pins(create: CreatePod) -> NodePins:
    assert create.placement.pins is not None
    assert create.record.pins == create.placement.pins
    assert create.placement.node == create.record.node == ""
    return create.placement.pins


def unplaced(answer: ClusterPlan) -> str:
    return "; ".join(one.problem.message for one in answer.deployments[0].unplaced)


def test_by_default_no_pod_is_made_without_room() -> None:
    answer = planned(a_deployment("web", wants(when_full=WhenFull.REPORT)))
    assert answer.actions == ()
    assert answer.deployments[0].pending == ()
    assert "waits for a node" not in unplaced(answer)


def test_in_an_empty_cluster_a_whole_gpu_of_the_named_product_is_asked_for() -> None:
    answer = planned(a_deployment("web", wants(replicas=2, node_selector={"zone": "b"})))
    made = creates(answer)
    assert [create.name for create in made] == ["web-0", "web-1"]
    assert the_pins(made[0]) == NodePins(labels=((PRODUCT, L4),))
    assert made[0].record.share == "Exclusive"
    assert made[0].placement.where == "a node that is yet to come"
    part = answer.deployments[0]
    assert part.pending == ("web-0", "web-1")
    assert part.unplaced[0].count == 2
    assert part.unplaced[0].problem.reason is Reason.NO_GPU_NODES
    assert part.unplaced[0].problem.message.endswith("; web-0, web-1 wait for a node to come")
    assert not part.never


@pytest.mark.parametrize(
    ("products", "best"),
    [({"NVIDIA-L4", "NVIDIA-H200"}, "NVIDIA-L4"), ({"NVIDIA-H200"}, "NVIDIA-H200")],
)
def test_the_kind_that_the_planner_would_choose_is_asked_for(products: set[str], best: str) -> None:
    (made,) = creates(planned(a_deployment("web", wants(gpu_products=frozenset(products)))))
    assert the_pins(made).labels == ((PRODUCT, best),)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"gpu_products": frozenset()}, "spec.sharing.gpuProducts names no GPU to ask for"),
        ({"gpu_products": frozenset({"NVIDIA-Nothing"})}, "no whole GPU of spec.sharing.gpuProducts suits"),
        ({"mode": Mode.MIG}, "shows how MIG shares look"),
        ({"mode": Mode.DRA}, "shows how DRA shares look"),
    ],
)
def test_nothing_is_asked_for_that_no_settings_can_be_made_for(asked: dict[str, Any], why: str) -> None:
    answer = planned(a_deployment("web", wants(**asked)))
    assert answer.actions == ()
    assert why in unplaced(answer)


def test_the_nodes_that_the_operator_packs_are_asked_for() -> None:
    terms = (NodeTerm(key="pool", operator="In", values=("slm",)),)
    (made,) = creates(planned(a_deployment("web", wants()), policy=replace(POLICY, node_terms=terms)))
    assert made.placement.terms == terms
    assert the_pins(made).labels == ((PRODUCT, L4),)


def test_a_full_node_shows_the_kind_and_is_not_kept_off() -> None:
    full = whole_node("n1")
    answer = planned(a_deployment("web", wants(gpu_products=frozenset())), nodes=(full,), pods=(a_stranger("s", "n1"),))
    (made,) = creates(answer)
    assert the_pins(made) == NodePins(labels=((PRODUCT, L4),))


def test_a_node_is_filled_before_a_further_one_is_asked_for() -> None:
    view, nodes = a_deployment("web", wants(replicas=2)), (whole_node("n1"),)
    answer = planned(view, nodes=nodes)
    (first,) = creates(answer)
    assert first.placement.node == "n1"
    assert unplaced(answer).endswith("no pod waits for a node while a share is free on n1")
    (second,) = creates(planned(view, nodes=nodes, pods=(a_pod(first, bound=False),)))
    assert the_pins(second).labels == ((PRODUCT, L4),)


def test_free_gpus_of_another_kind_are_nobodys_business() -> None:
    nodes = (whole_node("n1"), whole_node("n2", product=H100))
    (made,) = creates(planned(a_deployment("web", wants()), nodes=nodes, pods=(a_stranger("s", "n1"),)))
    assert the_pins(made).labels == ((PRODUCT, L4),)


@pytest.mark.parametrize("hindered", [{"unschedulable": True}, {"ready": False}])
def test_a_node_that_is_out_of_service_shows_its_kind_too(hindered: dict[str, Any]) -> None:
    node = replace(whole_node("n1"), **hindered)
    (made,) = creates(planned(a_deployment("web", wants(gpu_products=frozenset())), nodes=(node,)))
    assert the_pins(made) == NodePins(labels=((PRODUCT, L4),)), "the scheduler gives none of its GPUs"


def test_cpu_of_the_nodes_that_are_there_does_not_bound_what_is_asked_for() -> None:
    answer = planned(a_deployment("web", wants()), nodes=(whole_node("n1", cpu=500),))
    assert len(creates(answer)) == 1, "its GPU is free, but not to be had"
    assert answer.deployments[0].unplaced[0].problem.reason is Reason.INSUFFICIENT_CPU


def test_an_untolerated_taint_hides_a_kind() -> None:
    node = replace(whole_node("n1"), taints=(Taint(key="team", value="x", effect="NoSchedule"),))
    answer = planned(a_deployment("web", wants(gpu_products=frozenset())), nodes=(node,))
    assert answer.actions == ()


def test_shares_are_pinned_by_what_the_device_plugin_labels() -> None:
    node = mps_node("n1", replicas=4)
    taken = a_stranger("s", "n1", count=4)
    (made,) = creates(
        planned(a_deployment("web", wants(mode=Mode.MPS, gpu_products=frozenset())), nodes=(node,), pods=(taken,))
    )
    labels = ((PRODUCT, f"{H100}-SHARED"), ("nvidia.com/gpu.replicas", "4"), ("nvidia.com/gpu.sharing-strategy", "mps"))
    assert the_pins(made) == NodePins(labels=labels)
    assert isinstance(made.placement.share, MpsShare)
    assert made.record.starts_alone


def test_a_slice_is_pinned_by_its_resource_and_the_product() -> None:
    node = mig_node("n1", slices={"1g.5gb": 1})
    taken = a_stranger("s", "n1", resource="nvidia.com/mig-1g.5gb")
    (made,) = creates(
        planned(a_deployment("web", wants(mode=Mode.MIG, gpu_products=frozenset())), nodes=(node,), pods=(taken,))
    )
    assert the_pins(made).labels == ((PRODUCT, node.labels[PRODUCT]),)
    assert isinstance(made.placement.share, MigSlice)
    assert made.record.resource == "nvidia.com/mig-1g.5gb"


def test_a_pack_is_asked_for_with_the_replicas_that_it_is_for() -> None:
    demand = wants(mode=Mode.MPS_PACK, replicas=5, max_per_gpu=3, gpu_products=frozenset({H100}))
    made = creates(planned(a_deployment("web", demand), policy=PACKS))
    assert [create.record.pack and create.record.pack.running for create in made] == [(0, 1, 2), (0, 1)]
    assert all(isinstance(create.placement.share, MpsPack) for create in made)


def test_kinds_are_judged_for_the_most_replicas_as_offers_are() -> None:
    scaling = ScalingSpec(least=1, most=8)
    demand = wants(mode=Mode.MPS_PACK, replicas=8, gpu_products=frozenset({H100}), scaling=scaling)
    (made,) = creates(planned(a_deployment("web", demand), policy=PACKS))
    assert made.record.pack is not None
    assert made.record.pack.running == (0,)
    assert made.record.pack.engines > 1


def test_an_unchanged_world_asks_for_nothing_more() -> None:
    view = a_deployment("web", wants(replicas=2))
    made = creates(planned(view))
    answer = planned(view, pods=tuple(waiting(create) for create in made))
    assert answer.actions == ()
    assert answer.next_wake_seconds is None, "no budget runs: it waits by design"
    assert answer.deployments[0].pending == ("web-0", "web-1")


def test_it_waits_as_long_as_it_takes() -> None:
    view = a_deployment("web", wants())
    pod = replace(waiting(creates(planned(view))[0]), created=NOW - timedelta(hours=5))
    assert planned(view, pods=(pod,)).actions == ()
    assert pod.record is not None
    named = replace(pod, record=replace(pod.record, node="n1", pins=None))
    assert [d.problem.reason for d in deletes(planned(view, pods=(named,)))] == [Reason.UNSCHEDULABLE]


def test_status_says_what_the_scheduler_says() -> None:
    view = a_deployment("web", wants())
    pod = waiting(creates(planned(view))[0])
    verdict = judge(planned(view, pods=(pod,)).deployments[0], outcomes=(), now=NOW)
    assert verdict.reason is Reason.UNSCHEDULABLE
    assert "waits for a node to come" in verdict.message
    assert "1 Insufficient nvidia.com/gpu." in verdict.message
    found = {condition.type: (condition.status, condition.reason) for condition in verdict.conditions}
    assert found["Fits"] == ("False", "NoGpuNodes")
    assert found["Scaled"] == ("True", "Fits"), "its pods exist"
    assert found["Stalled"][0] == "False"
    silent = judge(planned(view, pods=(replace(pod, unschedulable=""),)).deployments[0], outcomes=(), now=NOW)
    assert silent.message.startswith("web-0: it waits for a node to come (spec.sharing.whenFull: Pending); see:")


def test_a_pod_is_adopted_where_it_lands() -> None:
    view = a_deployment("web", wants())
    pod = bound(waiting(creates(planned(view))[0]), "n9")
    node = whole_node("n9")
    answer = planned(view, nodes=(node,), pods=(pod,))
    assert answer.actions == ()
    (state,) = answer.deployments[0].states
    assert (state.node, state.counts) == ("n9", True)
    assert answer.deployments[0].unplaced == ()
    (bar,) = answer.bars
    assert [block.label for block in bar.blocks] == ["llm/web-0"]


def test_a_start_is_counted_from_when_it_had_a_node() -> None:
    view = a_deployment("web", wants(startup_budget=timedelta(minutes=10)))
    long_ago = replace(waiting(creates(planned(view))[0]), created=NOW - timedelta(hours=2))
    node = whole_node("n9")
    assert planned(view, nodes=(node,), pods=(bound(long_ago, "n9"),)).actions == ()
    late = replace(bound(long_ago, "n9"), bound_at=NOW - timedelta(minutes=11))
    assert [end.pod.name for end in ends(planned(view, nodes=(node,), pods=(late,)))] == ["web-0"]


def test_room_takes_the_waiting_pods_place_one_cycle_later() -> None:
    view = a_deployment("web", wants())
    pod = waiting(creates(planned(view))[0])
    node = whole_node("n9")
    answer = planned(view, nodes=(node,), pods=(pod,))
    assert [(d.pod.name, d.problem.reason) for d in deletes(answer)] == [("web-0", Reason.REPLACED)]
    assert creates(answer) == [], "it may be bound at any moment"
    ((placement, why),) = answer.deployments[0].waiting
    assert placement.node == "n9"
    assert why.message == "web-0, which waited for a node to come, goes first"
    (made,) = creates(planned(view, nodes=(node,)))
    assert made.placement.node == "n9"
    assert made.placement.pins is None


def test_fewer_replicas_end_those_that_wait() -> None:
    view = a_deployment("web", wants(replicas=3))
    pods = tuple(waiting(create) for create in creates(planned(view)))
    fewer = a_deployment("web", wants(replicas=1))
    answer = planned(fewer, pods=pods)
    assert [(d.pod.name, d.problem.reason) for d in deletes(answer)] == [
        ("web-1", Reason.SCALED_DOWN),
        ("web-2", Reason.SCALED_DOWN),
    ]
    assert answer.deployments[0].pending == ("web-0",)


def test_report_ends_what_waits() -> None:
    pod = waiting(creates(planned(a_deployment("web", wants())))[0])
    answer = planned(a_deployment("web", wants(when_full=WhenFull.REPORT)), pods=(pod,))
    assert [d.pod.name for d in deletes(answer)] == ["web-0"]


def test_a_changed_spec_asks_anew() -> None:
    pod = waiting(creates(planned(a_deployment("web", wants())))[0])
    view = a_deployment("web", wants(spec_hash="spec-b"))
    answer = planned(view, pods=(pod,))
    assert [d.problem.reason for d in deletes(answer)] == [Reason.ROLLOUT]
    assert creates(answer) == []
    assert [create.record.spec_hash for create in creates(planned(view))] == ["spec-b"]


def test_what_suits_no_more_is_asked_for_anew() -> None:
    pod = waiting(creates(planned(a_deployment("web", wants())))[0])
    other = replace(wants(gpu_products=frozenset({H100})))
    assert [d.problem.reason for d in deletes(planned(a_deployment("web", other), pods=(pod,)))] == [Reason.REPLACED]
    assert pod.record is not None
    stale = replace(pod, record=replace(pod.record, pins=NodePins(labels=())))
    assert len(deletes(planned(a_deployment("web", wants()), pods=(stale,)))) == 1


def test_no_pod_waits_while_a_gpu_is_kept_for_another() -> None:
    """Its own replica waits out a back-off, and the GPU that it will have is free meanwhile."""
    node = whole_node("n1")
    (first,) = creates(planned(a_deployment("web", wants(replicas=1)), nodes=(node,)))
    grave = replace(a_pod(first, phase=PodPhase.FAILED), finished_at=NOW, requests={})
    view = a_deployment("web", wants(replicas=2))
    answer = planned(view, nodes=(node,), pods=(grave,))
    assert len(answer.deployments[0].waiting) == 1
    assert creates(answer) == []
    other = waiting(creates(planned(a_deployment("web", wants(replicas=2))))[1])
    assert [d.pod.name for d in deletes(planned(view, nodes=(node,), pods=(grave, other)))] == ["web-1"]


def test_no_pod_waits_where_a_share_is_free_that_does_not_pay() -> None:
    """The scheduler would put it there; where another kind would do, that is asked for."""
    node, full = mps_node("n1", replicas=4), whole_node("n2", product=H100)
    demand = wants(mode=Mode.MPS, replicas=2, max_per_gpu=1, gpu_products=frozenset())
    runs = a_pod(creates(planned(a_deployment("web", demand), nodes=(node,)))[0], ready=True)
    answer = planned(a_deployment("web", demand), nodes=(node,), pods=(runs,))
    assert creates(answer) == []
    assert "the scheduler would put it on n1, where a share is free" in unplaced(answer)
    auto = a_deployment("web", replace(demand, mode=Mode.AUTO))
    (made,) = creates(planned(auto, nodes=(node, full), pods=(runs, a_stranger("s", "n2"))))
    assert made.record.share == "Exclusive"


def test_no_pod_waits_while_another_leaves_such_a_share() -> None:
    nodes = (whole_node("n1"),)
    other = a_deployment("old", wants(when_full=WhenFull.REPORT))
    (made,) = creates(planned(other, nodes=nodes))
    runs = a_pod(made, ready=True)
    view = a_deployment("web", wants())
    pod = waiting(creates(planned(other, view, nodes=nodes, pods=(runs,)))[0])
    leaving = planned(other, view, nodes=nodes, pods=(replace(runs, deleting=True), pod))
    assert [d.pod.name for d in deletes(leaving)] == ["web-0"]
    assert "while llm/old-0 leaves on n1" in leaving.deployments[1].unplaced[0].problem.message
    changed = a_deployment("old", wants(when_full=WhenFull.REPORT, spec_hash="spec-b"))
    rolling = planned(changed, view, nodes=nodes, pods=(runs, pod))
    assert {d.pod.name for d in deletes(rolling)} == {"old-0", "web-0"}, "its successor is to have its GPU"


def test_of_shares_that_start_in_turns_one_pod_waits_at_a_time() -> None:
    node = mps_node("n1", replicas=4)
    full = a_stranger("s", "n1", count=4)
    demand = wants(mode=Mode.MPS, replicas=3, gpu_products=frozenset(), max_per_gpu=4)
    first, second = a_deployment("a", demand), a_deployment("b", demand)
    answer = planned(first, second, nodes=(node,), pods=(full,))
    (made,) = creates(answer)
    assert made.deployment.key.name == "a"
    assert "one at a time" in answer.deployments[1].unplaced[0].problem.message
    again = planned(first, second, nodes=(node,), pods=(full, waiting(made)))
    assert again.actions == ()


def test_of_shares_that_start_in_turns_none_waits_beside_a_start() -> None:
    node = mps_node("n1", replicas=2)
    demand = wants(mode=Mode.MPS, gpu_products=frozenset(), max_per_gpu=4, replicas=3)
    view = a_deployment("a", demand)
    pods: tuple[PodView, ...] = ()
    for _ in range(2):
        (made,) = creates(planned(view, nodes=(node,), pods=pods))
        assert made.placement.node == "n1"
        starting = planned(view, nodes=(node,), pods=(*pods, a_pod(made)))
        assert creates(starting) == []
        pods = (*pods, a_pod(made, ready=True))
    assert "while llm/a-1 starts on n1" in unplaced(starting)
    (asked,) = creates(planned(view, nodes=(node,), pods=pods))
    assert asked.placement.pins is not None


def test_of_shares_that_start_in_turns_none_waits_before_a_start() -> None:
    """Host memory keeps it off the node for now; what it lacks may come free while the other starts."""
    node = mps_node("n1", replicas=4)
    large = wants(mode=Mode.MPS, gpu_products=frozenset(), max_per_gpu=4, memory=1024 * GIB)
    (made,) = creates(planned(a_deployment("a", large), nodes=(node,)))
    assert made.placement.pins is not None
    small = a_deployment("b", wants(mode=Mode.MPS, gpu_products=frozenset(), max_per_gpu=4))
    both = planned(a_deployment("a", large), small, nodes=(node,))
    assert [create.deployment.key.name for create in creates(both)] == ["b"]
    assert "while another replica is to start on MpsShare 1/4" in unplaced(both)
    beside = planned(a_deployment("a", large), small, nodes=(node,), pods=(waiting(made),))
    assert [d.pod.name for d in deletes(beside)] == ["a-0"]
    assert creates(beside) == []


def test_nobody_starts_where_a_pod_that_is_to_go_might_land() -> None:
    """A new node comes: the waiting pod goes first, and nobody starts beside it."""
    old, new = mps_node("n1", replicas=4), mps_node("n2", replicas=4)
    full = a_stranger("s", "n1", count=4)
    demand = wants(mode=Mode.MPS, gpu_products=frozenset(), max_per_gpu=4)
    first, second = a_deployment("a", demand), a_deployment("b", demand)
    (made,) = creates(planned(first, nodes=(old,), pods=(full,)))
    pod = waiting(made)
    answer = planned(first, second, nodes=(old, new), pods=(full, pod))
    assert [d.pod.name for d in deletes(answer)] == ["a-0"]
    assert creates(answer) == []
    (_, why) = answer.deployments[1].waiting[0]
    assert why.message == "llm/a-0, which waited for a node to come, goes first"
    landed = planned(first, second, nodes=(old, new), pods=(full, bound(pod, "n2")))
    assert landed.actions == (), "it starts alone where it landed"
    assert landed.deployments[1].waiting[0][1].reason is Reason.WAITING_FOR_START


def test_a_refused_pod_does_not_end_those_that_wait() -> None:
    view = a_deployment("web", wants(replicas=2))
    pod = waiting(creates(planned(view))[0])
    refused = {(Key("llm", "web"), "spec-a"): Problem(reason=Reason.CREATE_REFUSED, message="quota")}
    answer = planned(view, pods=(pod,), refused=refused)
    assert answer.actions == ()
    assert answer.deployments[0].pending == ("web-0",)


def test_a_failed_start_counts_and_backs_off() -> None:
    node = whole_node("n9")
    view = a_deployment("web", wants())
    pod = bound(waiting(creates(planned(view))[0]), "n9")
    failed = replace(pod, phase=PodPhase.FAILED, finished_at=NOW, requests={})
    taken = a_stranger("s", "n9")
    assert creates(planned(view, nodes=(node,), pods=(failed, taken))) == [], "it waits out its back-off"
    later = planned(view, nodes=(node,), pods=(failed, taken), now=NOW + timedelta(seconds=11))
    (made,) = creates(later)
    assert (made.record.attempt, made.record.replaces) == (2, "web-0")
    again = planned(view, nodes=(node,), pods=(failed, taken, waiting(made)), now=NOW + timedelta(seconds=12))
    assert again.actions == ()


def test_one_that_waits_follows_the_start_that_failed_and_the_next_one_does_not() -> None:
    node, taken = whole_node("n9"), a_stranger("s", "n9")
    view = a_deployment("web", wants(replicas=1))
    pod = bound(waiting(creates(planned(view))[0]), "n9")
    failed = replace(pod, phase=PodPhase.FAILED, finished_at=NOW, requests={})
    there, later = (failed, taken), NOW + timedelta(seconds=11)
    (second,) = creates(planned(view, nodes=(node,), pods=there, now=later))
    both = a_deployment("web", wants(replicas=2))
    (third,) = creates(planned(both, nodes=(node,), pods=(*there, waiting(second)), now=later))
    assert [(one.record.attempt, one.record.replaces) for one in (second, third)] == [(2, "web-0"), (1, "")]


def test_what_is_frozen_goes_on_waiting() -> None:
    pod = waiting(creates(planned(a_deployment("web", wants())))[0])
    unknown = wants(model=ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="no way to the Hub"))
    assert pod.record is not None
    bare = replace(pod, record=replace(pod.record, footprint=None, max_model_len=None, max_num_seqs=None))
    for view in (a_deployment("web", unknown), a_deployment("web", Rejected(problems=()))):
        answer = planned(view, pods=(bare,))
        assert answer.actions == ()
        assert answer.deployments[0].pending == ()


def test_a_rollouts_extra_replica_asks_for_no_node() -> None:
    nodes = (whole_node("n1"), whole_node("n2"))
    before = a_deployment("web", wants(replicas=2))
    pods = tuple(a_pod(create, ready=True) for create in creates(planned(before, nodes=nodes)))
    after = a_deployment("web", wants(replicas=2, spec_hash="spec-b"))
    answer = planned(after, nodes=nodes, pods=pods)
    assert creates(answer) == []
    assert len(deletes(answer)) == 1, "one goes first instead"


def test_a_device_without_a_product_label_is_not_asked_for() -> None:
    full = whole_node("n1")
    dra = replace(full, labels={key: value for key, value in full.labels.items() if key != PRODUCT})
    answer = planned(a_deployment("web", wants(gpu_products=frozenset())), nodes=(dra,))
    assert answer.actions == ()


def test_the_values_say_nothing_by_themselves() -> None:
    assert Asked() == Asked(kept=(), withdrawn=(), new=(), problem="")
