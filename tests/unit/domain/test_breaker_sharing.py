"""Odd turns of events around packs and shares: nothing is lost for them, and nothing more is claimed than is so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.conditions import judge
from slmpack.domain.pack import EngineReport, EngineState, PackRecord, PackReport
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import DeploymentView, Key, NodeView, PodView, Rejected
from tests.support.builders import (
    H100,
    NOW,
    PACKS,
    a_demand,
    a_deployment,
    a_pod,
    a_report,
    a_snapshot,
    a_stranger,
    creates,
    deletes,
    heard,
    mps_node,
    plan,
    sets,
    whole_node,
)

ONE = whole_node("n", product=H100)
TWO = whole_node("n", product=H100, gpus=2)
BAD = Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message="spec.model: no"),), replicas=3)


def wants(replicas: int, *, mode: Mode = Mode.MPS_PACK, most: int = 3, spec_hash: str = "spec-a") -> DeploymentView:
    return a_deployment(demand=a_demand(replicas=replicas, mode=mode, max_per_gpu=most, spec_hash=spec_hash))


def planned(view: DeploymentView, node: NodeView, *pods: PodView) -> ClusterPlan:
    return plan(a_snapshot(deployments=(view,), nodes=(node,), pods=pods), PACKS)


def pack(ordinal: int = 0, *running: int) -> PodView:
    """A pack of three, Ready, whose supervisor runs what is recorded."""
    (made,) = creates(planned(wants(3), ONE))
    record = replace(made.record, ordinal=ordinal, pack=PackRecord(engines=3, running=running))
    made = replace(made, name=f"qwen-{ordinal}", record=record)
    return heard(a_pod(made, ready=True, created=NOW - timedelta(hours=1)))


def told(found: ClusterPlan) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(action.pod.name, action.running, action.recorded) for action in sets(found)]


# a whole GPU holds one replica, whatever else the node runs


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.EXCLUSIVE])
def test_a_full_pack_is_not_ended_for_a_replica_that_has_a_free_gpu(mode: Mode) -> None:
    found = planned(wants(3, mode=mode, most=1, spec_hash="spec-b"), TWO, pack(0, 0, 1, 2))
    assert [create.record.share for create in creates(found)] == ["Exclusive"]
    assert deletes(found) == []


def test_a_free_gpu_is_not_refused_for_the_engines_of_a_pack_on_another() -> None:
    found = planned(wants(4, mode=Mode.AUTO, most=1), TWO, pack(0, 0, 1, 2))
    assert [create.record.share for create in creates(found)] == ["Exclusive"]


# what a pack's annotation says is what its supervisor is told, whatever the spec has become


def test_a_restarted_supervisor_is_told_again_while_the_spec_is_rejected() -> None:
    restarted = replace(pack(0, 0, 1, 2), pack=a_report([0], engines=3))
    found = planned(replace(wants(3), demand=BAD), ONE, restarted)
    assert told(found) == [("qwen-0", (0, 1, 2), True)]
    assert list(found.actions) == sets(found)


@pytest.mark.parametrize(("deleting", "ended"), [(True, ""), (False, "NotReadyInTime")])
def test_a_supervisor_that_ends_is_told_nothing(deleting: bool, ended: str) -> None:
    going = replace(pack(0, 0, 1, 2), pack=a_report([0], engines=3), deleting=deleting, ended=ended)
    assert planned(replace(wants(3), demand=BAD), ONE, going).actions == ()


def test_the_packs_of_a_deployment_that_is_deleted_are_left_alone() -> None:
    restarted = replace(pack(0, 0, 1, 2), pack=a_report([0], engines=3))
    assert planned(replace(wants(3), deleting=True), ONE, restarted).actions == ()


# seats


def test_a_pod_that_is_refused_keeps_no_idle_engine_from_running() -> None:
    view = wants(5)
    world = a_snapshot(deployments=(view,), nodes=(TWO,), pods=(pack(0, 0),))
    quota = Problem(reason=Reason.CREATE_REFUSED, message="exceeded quota")
    found = plan_cluster(replace(world, refused={(view.key, "spec-a"): quota}), PACKS)
    assert told(found) == [("qwen-0", (0, 1, 2), False)]
    assert creates(found) == []


def test_an_engine_starts_in_a_pack_that_answers_rather_than_in_one_that_does_not() -> None:
    silent = replace(pack(0, 0), ready=False, ready_since=None, pack=None)
    other = replace(pack(1, 0), uid="other")
    assert told(planned(wants(3), TWO, silent, other)) == [("qwen-1", (0, 1), False)]


@pytest.mark.parametrize("replicas", [0, 3])
def test_a_pack_that_runs_no_engine_holds_no_gpu(replicas: int) -> None:
    # by hand only: the annotation was set to "none"
    others = [pack(0, 0, 1, 2)] if replicas else []
    empty = replace(pack(1), uid="empty")
    found = planned(wants(replicas), TWO, *others, empty)
    assert [(action.pod, action.problem.reason) for action in deletes(found)] == [
        (Key("llm", "qwen-1"), Reason.SCALED_DOWN)
    ]
    assert (sets(found), creates(found)) == ([], [])


def test_a_pack_that_runs_no_engine_runs_one_again_where_that_is_missing() -> None:
    found = planned(wants(1), TWO, pack(0))
    assert told(found) == [("qwen-0", (0,), False)]
    assert list(found.actions) == sets(found)


# what is said


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.MPS_PACK])
def test_who_wants_more_than_a_pack_was_made_for_is_told_which_pod_to_delete(mode: Mode) -> None:
    there = pack(0, 0, 1, 2)
    assert there.record is not None
    old = replace(there, record=replace(there.record, pack=PackRecord(engines=2, running=(0, 1))))
    (entry,) = planned(wants(3, mode=mode), ONE, old, a_stranger("s", "n", count=0)).deployments
    (unplaced,) = entry.unplaced
    assert (unplaced.count, unplaced.problem.reason) == (1, Reason.INSUFFICIENT_GPUS)
    words = "; pod qwen-0 was made for 2, and one made now could be for 3: kubectl delete pod -n llm qwen-0, which"
    assert words in unplaced.problem.message


def test_nobody_is_told_to_delete_what_would_come_back_alike() -> None:
    (entry,) = planned(wants(4), ONE, pack(0, 0, 1, 2)).deployments
    assert "kubectl" not in entry.unplaced[0].problem.message


@pytest.mark.parametrize(("replicas", "never"), [(6, False), (7, True)])
def test_whether_the_cluster_could_ever_hold_them_is_counted_over_all_nodes(replicas: int, never: bool) -> None:
    nodes = (ONE, whole_node("m", product=H100), mps_node("shares"))
    taken = a_stranger("s", "n")
    (entry,) = plan(a_snapshot(deployments=(wants(replicas),), nodes=nodes, pods=(taken,)), PACKS).deployments
    assert (bool(entry.unplaced), entry.never) == (True, never)


# what status claims


@pytest.mark.parametrize("state", [EngineState.BACKOFF, EngineState.FAILED, EngineState.STARTING, EngineState.WAITING])
def test_the_limit_of_an_engine_that_does_not_run_is_not_called_seen(state: EngineState) -> None:
    engines = (
        EngineReport(index=0, state=EngineState.READY, attached=True),
        EngineReport(index=1, state=state, attached=True, attached_message="process 7 was a client"),
    )
    there = replace(pack(0, 0, 1), pack=PackReport(running=(0, 1), ending=False, engines=engines))
    (entry,) = planned(wants(2), ONE, there).deployments
    (said,) = [c for c in judge(entry, outcomes=(), now=NOW).conditions if c.type == "MemoryLimitEnforced"]
    assert (said.status, said.reason) == ("Unknown", "NotVerified")
    assert said.message == "the MPS limits of 1 of 2 engines were seen from inside"
