"""Whole cycles: from a snapshot to actions, and what the next cycle makes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slmpack.domain.plan import ClusterPlan, DeploymentPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import (
    DeploymentView,
    Key,
    ModelUnknown,
    NodeView,
    PodPhase,
    PodView,
    Rejected,
    Taint,
)
from tests.support.builders import (
    H100,
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_node,
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

UNKNOWN = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="the model source does not answer")
REJECTED = Rejected(
    problems=(Problem(reason=Reason.INVALID_SPEC, message="bad"), Problem(reason=Reason.INVALID_SPEC, message="worse"))
)
LONG_AGO = NOW - timedelta(hours=1)


def running(count: int, *nodes: NodeView, demand: Any = None, ready: bool = True) -> tuple[PodView, ...]:
    """`count` replicas of the deployment `qwen`, made one cycle after the other."""
    pods: tuple[PodView, ...] = ()
    wanted = replace(demand or a_demand(), replicas=count)
    while len(pods) < count:
        made = creates(plan(a_snapshot(deployments=(a_deployment("qwen", wanted),), nodes=nodes, pods=pods)))
        assert made
        pods = (*pods, *(a_pod(create, ready=ready, created=LONG_AGO) for create in made))
    return pods


def cycle(demand: Any, *nodes: NodeView, pods: tuple[PodView, ...] = ()) -> tuple[ClusterPlan, DeploymentPlan]:
    result = plan(a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=nodes, pods=pods))
    return result, result.deployments[0]


def gone(result: ClusterPlan) -> list[tuple[str, Reason]]:
    return [(delete.pod.name, delete.problem.reason) for delete in deletes(result)]


def test_a_create_says_everything_that_the_pod_will_be_known_by() -> None:
    result, entry = cycle(a_demand(), mps_node("n"))
    (create,) = creates(result)
    record = create.record
    assert (create.name, create.placement.node, record.ordinal, record.attempt, record.replaces) == (
        "qwen-0",
        "n",
        0,
        1,
        "",
    )
    assert (record.deployment, record.owner_uid) == (entry.deployment.key, entry.deployment.uid)
    assert (record.share, record.resource, record.starts_alone) == ("MpsShare 1/4", "nvidia.com/gpu", True)
    assert (record.footprint, record.max_model_len) == (entry.footprint, 8192)
    assert (record.spec_hash, record.render_version, record.node) == ("spec-a", "1", "n")
    assert entry.fit is not None
    assert entry.fit.settings == create.settings
    assert record.max_num_seqs == create.settings.max_num_seqs
    assert entry.kv_tokens == max(8192, 640 * create.settings.max_num_seqs)
    assert entry.needed_bytes == record.footprint.total_bytes(entry.kv_tokens)  # type: ignore[union-attr]
    assert (entry.per_gpu, entry.fit.pays) == (1, None)


def test_shared_gpus_start_one_replica_at_a_time() -> None:
    pods: tuple[PodView, ...] = ()
    for number in range(3):
        result, entry = cycle(a_demand(replicas=3, max_per_gpu=3), mps_node("n"), pods=pods)
        assert [create.name for create in creates(result)] == [f"qwen-{number}"]
        assert [problem.reason for _, problem in entry.waiting] == [Reason.WAITING_FOR_START] * (2 - number)
        pods = (*pods, a_pod(creates(result)[0]))
        assert plan(a_snapshot(deployments=(entry.deployment,), nodes=(mps_node("n"),), pods=pods)).actions == ()
        pods = (*pods[:-1], replace(pods[-1], ready=True, was_ready=True))


def test_a_late_start_is_ended_and_the_next_one_follows() -> None:
    pods = running(1, mps_node("n"), ready=False)
    late = a_demand(replicas=2)
    result, entry = cycle(late, mps_node("n"), pods=pods)
    assert [end.pod.name for end in ends(result)] == ["qwen-0"]
    assert creates(result) == []
    (ended,) = (replace(pod, ended="NotReadyInTime", phase=PodPhase.FAILED, finished_at=NOW) for pod in pods)
    result, entry = cycle(late, mps_node("n"), pods=(ended,))
    assert [(create.name, create.record.attempt) for create in creates(result)] == [("qwen-1", 1)]
    ((_, problem),) = entry.waiting
    assert problem == Problem(reason=Reason.BACK_OFF, message="qwen-0 failed; attempt 2 starts at 12:00:10 UTC")
    later = replace(
        a_snapshot(deployments=(entry.deployment,), nodes=(mps_node("n"),), pods=(ended,)),
        now=NOW + timedelta(seconds=10),
    )
    assert [(c.name, c.record.attempt) for c in creates(plan(later))] == [("qwen-1", 1)], (
        "who has not failed goes first"
    )
    second = a_pod(creates(result)[0], ready=True)
    (retry,) = creates(plan(replace(later, pods=(ended, second))))
    assert (retry.name, retry.record.attempt, retry.record.replaces) == ("qwen-2", 2, "qwen-0")


def test_names_never_collide_with_pods_of_an_earlier_object_of_that_name() -> None:
    (orphan,) = running(1, whole_node("m"))
    assert orphan.record is not None
    orphan = replace(orphan, record=replace(orphan.record, owner_uid="uid-gone"), deleting=True)
    result, _ = cycle(a_demand(), whole_node("n"), pods=(orphan,))
    assert [create.name for create in creates(result)] == ["qwen-1"]


# rollouts

NEW = a_demand(replicas=2, spec_hash="spec-b")


def test_with_room_the_new_one_comes_first() -> None:
    pods = running(2, whole_node("n", gpus=3))
    result, entry = cycle(NEW, whole_node("n", gpus=3), pods=pods)
    assert ([create.name for create in creates(result)], gone(result)) == (["qwen-2"], [])
    assert (entry.unplaced, entry.rollout.problem.reason) == ((), Reason.ROLLING_OUT)


def test_without_room_one_old_goes_first_and_only_one() -> None:
    pods = running(2, whole_node("n", gpus=2))
    result, entry = cycle(NEW, whole_node("n", gpus=2), pods=pods)
    assert (creates(result), gone(result)) == ([], [("qwen-1", Reason.ROLLOUT)])
    assert (entry.unplaced, entry.rollout.problem.reason) == ((), Reason.ROLLING_OUT)
    leaving = (pods[0], replace(pods[1], deleting=True))
    result, _ = cycle(NEW, whole_node("n", gpus=2), pods=leaving)
    assert result.actions == (), "it waits for the Terminating one"
    result, _ = cycle(NEW, whole_node("n", gpus=2), pods=pods[:1])
    assert ([create.name for create in creates(result)], gone(result)) == (["qwen-1"], [])


def test_an_old_one_that_is_not_ready_goes_before_one_that_is() -> None:
    pods = running(2, whole_node("n", gpus=2))
    sick = replace(pods[0], ready=False)
    result, _ = cycle(NEW, whole_node("n", gpus=2), pods=(sick, pods[1]))
    assert gone(result) == [("qwen-0", Reason.ROLLOUT)]


def test_no_old_one_goes_where_that_would_not_help() -> None:
    pods = running(2, whole_node("n", gpus=2))
    picky = replace(NEW, gpu_products=frozenset({H100}))
    result, entry = cycle(picky, whole_node("n", gpus=2), pods=pods)
    assert result.actions == ()
    assert entry.rollout.problem.reason is Reason.ROLLOUT_BLOCKED
    assert (
        "0 of 2 replicas have the present spec; the next has no room: node n has NVIDIA-L4"
        in entry.rollout.problem.message
    )


def test_no_old_one_goes_from_a_node_that_is_gone() -> None:
    pods = running(1, whole_node("gone"))
    taken = a_stranger("s", "n")
    result, entry = cycle(replace(NEW, replicas=1), whole_node("n"), pods=(*pods, taken))
    assert (result.actions, entry.rollout.problem.reason) == ((), Reason.ROLLOUT_BLOCKED)


def test_no_old_one_goes_where_a_more_urgent_replica_would_take_its_place() -> None:
    pods = running(2, whole_node("n", gpus=2))
    views = (a_deployment(demand=NEW), a_deployment("first", a_demand(replicas=1)))
    result = plan_cluster(a_snapshot(deployments=views, nodes=(whole_node("n", gpus=2),), pods=pods), POLICY)
    assert result.actions == ()
    elsewhere = (views[0], a_deployment("first", a_demand(replicas=1, mode=Mode.MIG)))
    nodes = (whole_node("n", gpus=2), mig_node("m", slices={"3g.20gb": 1}))
    held = (*pods, a_stranger("s", "m", resource="nvidia.com/mig-3g.20gb"))
    result = plan_cluster(a_snapshot(deployments=elsewhere, nodes=nodes, pods=held), POLICY)
    assert gone(result) == [("qwen-1", Reason.ROLLOUT)], "what cannot use the room is not in the way"


def test_rollouts_on_a_full_cluster_go_on_side_by_side() -> None:
    node = whole_node("n", gpus=4)
    views = tuple(a_deployment(name, a_demand(replicas=2)) for name in ("a", "b"))
    made = creates(plan_cluster(a_snapshot(deployments=views, nodes=(node,)), POLICY))
    pods = tuple(a_pod(create, ready=True) for create in made)
    changed = tuple(a_deployment(name, NEW) for name in ("a", "b"))
    result = plan_cluster(a_snapshot(deployments=changed, nodes=(node,), pods=pods), POLICY)
    assert gone(result) == [("a-1", Reason.ROLLOUT), ("b-1", Reason.ROLLOUT)]
    kept = tuple(pod for pod in pods if pod.key.name not in {"a-1", "b-1"})
    result = plan_cluster(a_snapshot(deployments=changed, nodes=(node,), pods=kept), POLICY)
    assert sorted(create.name for create in creates(result)) == ["a-1", "b-1"]


def test_what_is_refused_holds_neither_a_turn_nor_room() -> None:
    first, second = a_deployment("first"), a_deployment("second", created=NOW)
    for node in (mps_node("n"), whole_node("n")):
        world = a_snapshot(deployments=(first, second), nodes=(node,))
        assert [create.name for create in creates(plan_cluster(world, POLICY))] == ["first-0"]
        problem = Problem(reason=Reason.CREATE_REFUSED, message="no such service account")
        world = replace(world, refused={(first.key, "spec-a"): problem})
        assert [create.name for create in creates(plan_cluster(world, POLICY))] == ["second-0"]


def test_names_of_pods_without_a_view_are_taken_too() -> None:
    world = replace(
        a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),)), names=frozenset({Key("llm", "qwen-0")})
    )
    assert [create.name for create in creates(plan_cluster(world, POLICY))] == ["qwen-1"]


def test_a_rollouts_extra_replica_takes_no_room_from_one_that_is_missing() -> None:
    pods = running(2, whole_node("n", gpus=3))
    views = (a_deployment(demand=NEW), a_deployment("other", a_demand(replicas=1), created=NOW))
    result = plan_cluster(a_snapshot(deployments=views, nodes=(whole_node("n", gpus=3),), pods=pods), POLICY)
    assert [create.name for create in creates(result)] == ["other-0"]


def test_scaling_up_into_the_last_room_while_rolling_ends_no_old_one() -> None:
    pods = running(2, whole_node("n", gpus=3))
    result, entry = cycle(replace(NEW, replicas=5), whole_node("n", gpus=3), pods=pods)
    assert ([create.name for create in creates(result)], gone(result)) == (["qwen-2"], [])
    assert [unplaced.count for unplaced in entry.unplaced] == [2]


def test_a_new_one_that_is_late_costs_no_second_old_one() -> None:
    pods = running(2, whole_node("n", gpus=2))
    (new,) = creates(cycle(NEW, whole_node("n", gpus=2), pods=pods[:1])[0])
    late = a_pod(new, created=NOW - timedelta(minutes=10))
    result, _ = cycle(NEW, whole_node("n", gpus=2), pods=(pods[0], late))
    assert ([end.pod.name for end in ends(result)], gone(result), creates(result)) == (["qwen-1"], [], [])
    result, _ = cycle(NEW, whole_node("n", gpus=2), pods=(pods[0], replace(late, ended="NotReadyInTime")))
    assert result.actions == ()
    result, entry = cycle(
        NEW, whole_node("n", gpus=2), pods=(pods[0], replace(late, ended="x", phase=PodPhase.FAILED, finished_at=NOW))
    )
    assert (result.actions, entry.rollout.problem.reason) == ((), Reason.ROLLOUT_STOPPED)


def test_an_old_one_on_a_shared_gpu_ends_only_when_no_neighbour_starts() -> None:
    node = mps_node("n", replicas=2)
    (old,) = running(1, node)
    other = a_deployment("other")
    snapshot = a_snapshot(deployments=(a_deployment("qwen"), other), nodes=(node,), pods=(old,))
    neighbour = a_pod(creates(plan(snapshot))[0])
    rolled = a_deployment("qwen", a_demand(spec_hash="spec-b"))
    waits = plan(a_snapshot(deployments=(rolled, other), nodes=(node,), pods=(old, neighbour)))
    assert waits.actions == ()
    done = replace(neighbour, ready=True, was_ready=True)
    assert gone(plan(a_snapshot(deployments=(rolled, other), nodes=(node,), pods=(old, done)))) == [
        ("qwen-0", Reason.ROLLOUT)
    ]


# what freezes


@pytest.mark.parametrize(
    "view",
    [
        a_deployment("qwen", REJECTED),
        a_deployment("qwen", a_demand(replicas=0), deleting=True),
        a_deployment("qwen", REJECTED, deleting=True),
    ],
    ids=["rejected", "being deleted", "both"],
)
def test_what_is_rejected_or_goes_is_left_alone(view: DeploymentView) -> None:
    pods = running(2, mps_node("n"))
    result = plan(a_snapshot(deployments=(view,), nodes=(mps_node("n"),), pods=pods))
    (entry,) = result.deployments
    assert (result.actions, entry.creates, entry.unplaced) == ((), (), ())
    assert [state.counts for state in entry.states] == [True, True]
    assert (entry.rollout.problem.reason, entry.footprint, entry.per_gpu) == (Reason.FROZEN, None, 0)
    finished = replace(pods[0], phase=PodPhase.FAILED)
    again = plan(a_snapshot(deployments=(view,), nodes=(mps_node("n"),), pods=(finished, pods[1])))
    assert [state.counts for state in again.deployments[0].states] == [False, True]


def test_an_unknown_model_freezes_what_runs() -> None:
    pods = running(2, mps_node("n"))
    unknown = a_demand(replicas=3, spec_hash="spec-b", model=UNKNOWN)
    result, entry = cycle(unknown, mps_node("n"), pods=pods)
    assert result.actions == ()
    assert [problem.reason for problem in entry.problems] == [Reason.MODEL_UNAVAILABLE]
    scaled, _ = cycle(replace(unknown, replicas=1), mps_node("n"), pods=pods)
    assert gone(scaled) == [("qwen-1", Reason.SCALED_DOWN)]


def test_an_unknown_model_does_not_keep_a_killed_pod_from_coming_back() -> None:
    pods = running(2, mps_node("n"))
    result, entry = cycle(a_demand(replicas=2, model=UNKNOWN), mps_node("n"), pods=pods[1:])
    assert [create.name for create in creates(result)] == ["qwen-0"]
    assert creates(result)[0].record.footprint == pods[0].record.footprint  # type: ignore[union-attr]
    assert entry.problems == ()


@pytest.mark.parametrize(
    "node",
    [
        replace(mps_node("n"), allocatable={"cpu": 64_000, "nvidia.com/gpu": 0}),
        replace(mps_node("n"), unschedulable=True),
        replace(mps_node("n"), ready=False),
        replace(mps_node("n"), labels={}),
        replace(mps_node("n"), taints=(Taint(key="k", value="v", effect="NoSchedule"),)),
    ],
    ids=["allocatable 0", "cordoned", "not Ready", "labels gone", "tainted"],
)
def test_a_node_that_vanishes_or_changes_ends_nothing(node: NodeView) -> None:
    pods = running(2, mps_node("n"))
    assert cycle(a_demand(replicas=2), node, pods=pods)[0].actions == ()
    assert cycle(a_demand(replicas=2), pods=pods)[0].actions == ()


def test_another_renderer_makes_replicas_outdated_and_nothing_more() -> None:
    pods = running(2, mps_node("n"))
    snapshot = a_snapshot(deployments=(a_deployment("qwen", a_demand(replicas=2)),), nodes=(mps_node("n"),), pods=pods)
    result = plan_cluster(snapshot, replace(POLICY, render_version="2"))
    assert result.actions == ()
    assert [state.outdated for state in result.deployments[0].states] == [True, True]
    assert [state.outdated for state in plan(snapshot).deployments[0].states] == [False, False]


# never


CORDONED = Taint(key="node.kubernetes.io/unschedulable", value="", effect="NoSchedule")


@pytest.mark.parametrize(
    ("node", "never"),
    [
        (whole_node("n", gpus=2), True),
        (whole_node("n", gpus=3, cpu=4_000), True),
        (replace(whole_node("n", gpus=3), unschedulable=True, taints=(CORDONED,)), False),
        (replace(whole_node("n", gpus=3), ready=False), False),
        (replace(whole_node("n", gpus=3), used_by_others={"cpu": 64_000}), False),
        (whole_node("n", gpus=0), False),
        (replace(whole_node("n", gpus=3), taints=(Taint(key="k", value="", effect="NoSchedule"),)), True),
    ],
    ids=[
        "too few GPUs",
        "too few cores",
        "cordoned",
        "not Ready",
        "cores that others use now",
        "plugin restarts",
        "tainted",
    ],
)
def test_never_is_said_only_of_what_the_cluster_could_never_hold(node: NodeView, never: bool) -> None:
    _, entry = cycle(a_demand(replicas=3), node)
    assert entry.unplaced
    assert entry.never is never


# time


@pytest.mark.parametrize(
    ("pods", "seconds"),
    [
        (lambda pod: (), None),
        (lambda pod: (replace(pod, created=NOW - timedelta(seconds=100)),), 500.0),
        (lambda pod: (replace(pod, created=NOW - timedelta(seconds=20), node=None),), 40.0),
        (lambda pod: (replace(pod, phase=PodPhase.FAILED, finished_at=NOW - timedelta(seconds=3)),), 7.0),
        (lambda pod: (replace(pod, ready=True, was_ready=True, ready_since=NOW),), None),
    ],
    ids=["nothing", "a start-up budget", "a schedule budget", "a back-off", "Ready"],
)
def test_the_next_wake_is_when_time_alone_changes_the_plan(pods: Any, seconds: float | None) -> None:
    (pod,) = running(1, whole_node("n"), ready=False)
    assert cycle(a_demand(), whole_node("n"), pods=pods(pod))[0].next_wake_seconds == seconds


def test_the_next_wake_clears_a_grave() -> None:
    (pod,) = running(1, whole_node("n", gpus=2))
    assert pod.record is not None
    grave = replace(pod, phase=PodPhase.FAILED, ready=False, finished_at=LONG_AGO)
    successor = replace(
        pod,
        key=replace(pod.key, name="qwen-1"),
        uid="successor",
        record=replace(pod.record, ordinal=1, replaces="qwen-0"),
        ready_since=NOW - timedelta(minutes=4),
    )
    assert cycle(a_demand(), whole_node("n", gpus=2), pods=(grave, successor))[0].next_wake_seconds == 360.0
    frozen = a_snapshot(deployments=(a_deployment("qwen", REJECTED),), nodes=(), pods=(grave, successor))
    assert plan(frozen).next_wake_seconds is None


def test_sticky_a_better_place_that_opens_later_moves_nothing() -> None:
    (pod,) = running(1, whole_node("n", product=H100))
    assert cycle(a_demand(mode=Mode.AUTO), whole_node("n", product=H100), a_node("a"), pods=(pod,))[0].actions == ()


@pytest.mark.parametrize(("more", "said"), [((), ""), (("node b: y",), " (and 1 more node)")])
def test_who_has_no_place_is_told_of_nodes_that_cannot_be_read(more: tuple[str, ...], said: str) -> None:
    world = a_snapshot(deployments=(a_deployment(),), nodes=())
    (plain,) = plan(world).deployments
    (entry,) = plan(replace(world, unread=("node a: x", *more))).deployments
    before, after = plain.unplaced[0].problem, entry.unplaced[0].problem
    assert after.reason is before.reason
    assert after.message == f"{before.message}; left out, as it cannot be read: node a: x{said}"
