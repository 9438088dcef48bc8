"""Replicas within pods: what scaling and a changed spec do to packs, and what supervisors are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.pack import EngineState, PackRecord, PackReport
from slmpack.domain.plan import ClusterPlan, SetEngines
from slmpack.domain.reasons import Reason
from slmpack.domain.rollout import Book, keep_book
from slmpack.domain.seats import keep_some, replicas_of, seat
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Key, PodPhase, PodView
from tests.support.builders import (
    H100,
    NOW,
    PACKS,
    a_demand,
    a_deployment,
    a_pod,
    a_report,
    a_snapshot,
    creates,
    deletes,
    ends,
    heard,
    plan,
    sets,
    whole_node,
)

EARLIER = NOW - timedelta(hours=1)
NODE = whole_node("n", product=H100, gpus=1)
(MADE,) = creates(
    plan(
        a_snapshot(deployments=(a_deployment(demand=a_demand(mode=Mode.MPS_PACK, max_per_gpu=4)),), nodes=(NODE,)),
        PACKS,
    )
)


def pack(
    ordinal: int = 0,
    *running: int,
    engines: int = 4,
    spec_hash: str = "spec-a",
    states: Mapping[int, EngineState] | None = None,
) -> PodView:
    """A Ready pack whose supervisor runs what is recorded."""
    record = replace(
        MADE.record, ordinal=ordinal, spec_hash=spec_hash, pack=PackRecord(engines=engines, running=tuple(running))
    )
    made = replace(MADE, name=f"qwen-{ordinal}", record=record)
    return heard(a_pod(made, ready=True, created=EARLIER), states)


def book(*pods: PodView, replicas: int, spec_hash: str = "spec-a", max_per_gpu: int | None = None) -> Book:
    demand = a_demand(replicas=replicas, spec_hash=spec_hash, mode=Mode.MPS_PACK, max_per_gpu=max_per_gpu)
    return keep_book(demand, pods, PACKS, now=NOW)


def told(found: Book) -> list[tuple[str, tuple[int, ...], bool, Reason]]:
    return [(s.pod.name, s.running, s.recorded, s.problem.reason) for s in found.sets]


def gone(found: Book) -> list[tuple[str, Reason]]:
    return [(d.pod.name, d.problem.reason) for d in found.deletes]


# one pack


def test_a_pack_counts_with_the_engines_that_are_to_run() -> None:
    assert replicas_of([pack(0, 0, 2), pack(1, 3)]) == 3
    stranger = replace(pack(0, 0, 1), record=None)
    assert replicas_of([stranger]) == 1
    found = book(pack(0, 0, 2), replicas=2)
    assert (found.replicas, found.missing, found.deletes, found.sets) == (2, (), (), ())


def test_one_to_three_to_two_touches_no_pod() -> None:
    up = book(pack(0, 0), replicas=3)
    assert (up.missing, up.deletes, up.replicas) == ((), (), 3)
    (action,) = up.sets
    there = pack(0, 0)
    assert action == SetEngines(
        pod=Key("llm", "qwen-0"),
        uid=there.uid,
        deployment=Key("llm", "qwen"),
        running=(0, 1, 2),
        recorded=False,
        problem=action.problem,
    )
    assert action.problem.reason is Reason.SCALED_UP
    assert action.problem.message == "more replicas are wanted, and the pack has idle engines"
    down = book(pack(0, 0, 1, 2), replicas=2)
    assert (down.missing, down.deletes) == ((), ())
    assert told(down) == [("qwen-0", (0, 1), False, Reason.SCALED_DOWN)]
    assert down.sets[0].problem.message == "fewer replicas are wanted"


def test_the_last_engine_takes_its_pod_along() -> None:
    found = book(pack(0, 0, 1), replicas=0)
    assert (gone(found), found.sets, found.live) == ([("qwen-0", Reason.SCALED_DOWN)], (), ())


def test_gaps_are_filled_from_the_lowest_index() -> None:
    assert told(book(pack(0, 1, 3), replicas=3)) == [("qwen-0", (0, 1, 3), False, Reason.SCALED_UP)]


@pytest.mark.parametrize("state", [state for state in EngineState if state is not EngineState.READY])
def test_engines_that_do_not_answer_go_first(state: EngineState) -> None:
    found = book(pack(0, 0, 1, 2, states={0: state}), replicas=2)
    assert told(found) == [("qwen-0", (1, 2), False, Reason.SCALED_DOWN)]


def test_without_a_report_the_last_engines_go() -> None:
    assert keep_some(replace(pack(0, 0, 1, 3), pack=None), 2) == (0, 1)
    assert keep_some(replace(pack(0), record=None), 2) == ()
    assert keep_some(pack(0, 0, 1, states={0: EngineState.BACKOFF, 1: EngineState.FAILED}), 1) == (0,)


def test_more_than_a_pack_holds_is_missing() -> None:
    found = book(pack(0, 0, engines=2), replicas=4)
    assert told(found) == [("qwen-0", (0, 1), False, Reason.SCALED_UP)]
    assert len(found.missing) == 2


def test_no_more_engines_run_than_are_allowed_by_now() -> None:
    found = book(pack(0, 0), replicas=4, max_per_gpu=2)
    assert told(found) == [("qwen-0", (0, 1), False, Reason.SCALED_UP)]
    assert len(found.missing) == 2
    over = book(pack(0, 0, 1, 2), replicas=4, max_per_gpu=2)
    assert (over.sets, len(over.missing)) == ((), 1), "what runs stays"


def test_a_pod_with_one_engine_has_no_seats() -> None:
    single = replace(pack(0), record=replace(MADE.record, pack=None), pack=None)
    bare = replace(single, uid="bare", record=None)
    assert seat([single, bare], 2, most=None) == ([single, bare], 0)


# several packs


def test_the_pack_with_the_fewest_replicas_goes_first_as_that_frees_its_gpu() -> None:
    found = book(pack(0, 0), pack(1, 0, 1, 2), replicas=3)
    assert (gone(found), found.sets) == ([("qwen-0", Reason.SCALED_DOWN)], ())
    more = book(pack(0, 0, 1), pack(1, 0, 1, 2), replicas=2)
    assert gone(more) == [("qwen-0", Reason.SCALED_DOWN)]
    assert told(more) == [("qwen-1", (0, 1), False, Reason.SCALED_DOWN)]
    alike = book(pack(0, 0, 1), pack(1, 0, 1), replicas=3)
    assert told(alike) == [("qwen-1", (0,), False, Reason.SCALED_DOWN)]


def test_an_engine_that_fails_goes_before_one_that_answers_in_another_pack() -> None:
    failing = pack(1, 0, 1, 2, states={1: EngineState.FAILED})
    assert told(book(pack(0, 0, 1), failing, replicas=4)) == [("qwen-1", (0, 2), False, Reason.SCALED_DOWN)]
    silent = replace(pack(1, 0, 1, 2), pack=None)
    assert told(book(pack(0, 0, 1), silent, replicas=4)) == [("qwen-0", (0,), False, Reason.SCALED_DOWN)]


def test_seats_are_taken_pack_by_pack() -> None:
    found = book(pack(0, 0, engines=2), pack(1, 0, engines=3), replicas=4)
    assert [(name, running) for name, running, *_ in told(found)] == [("qwen-0", (0, 1)), ("qwen-1", (0, 1))]


# what the supervisor is told


def but(pod: PodView, report: PackReport | None) -> PodView:
    return replace(pod, pack=report)


def test_a_supervisor_that_runs_something_else_is_told_again() -> None:
    found = book(but(pack(0, 0, 1), a_report((0,))), replicas=2)
    assert told(found) == [("qwen-0", (0, 1), True, Reason.STARTING)]
    assert found.sets[0].problem.message == "the supervisor is told again which engines run"


@pytest.mark.parametrize(
    "report", [None, a_report((0, 1)), a_report((0,), ending=True)], ids=["unknown", "as meant", "ending"]
)
def test_nobody_is_told_anything_where_that_is_not_known_to_help(report: PackReport | None) -> None:
    assert book(but(pack(0, 0, 1), report), replicas=2).sets == ()


@pytest.mark.parametrize("report", [None, a_report((0,), ending=True)], ids=["unknown", "ending"])
def test_what_is_meant_is_recorded_whatever_the_supervisor_says(report: PackReport | None) -> None:
    assert told(book(but(pack(0, 0), report), replicas=2)) == [("qwen-0", (0, 1), False, Reason.SCALED_UP)]


# a changed spec


def old(ordinal: int, *running: int, states: Mapping[int, EngineState] | None = None) -> PodView:
    return pack(ordinal, *running, spec_hash="spec-old", states=states)


def test_a_changed_spec_opens_one_more_replica() -> None:
    found = book(old(0, 0, 1), replicas=2)
    assert (len(found.missing), found.surge, found.rolling) == (1, True, True)
    assert (found.deletes, found.sets) == ((), ())
    assert found.rollout.problem.message == "0 of 2 replicas have the present spec"


def test_nothing_more_happens_while_the_new_engine_starts() -> None:
    found = book(old(0, 0, 1), pack(1, 0, states={0: EngineState.STARTING}), replicas=2)
    assert (found.missing, found.deletes, found.sets, found.rolling) == ((), (), (), False)


def test_an_old_engine_goes_when_the_new_one_answers_and_its_pod_stays() -> None:
    found = book(old(0, 0, 1), pack(1, 0), replicas=2)
    assert told(found) == [("qwen-1", (0, 1), False, Reason.SCALED_UP), ("qwen-0", (0,), False, Reason.ROLLOUT)]
    assert found.sets[1].problem.message == "the spec changed and its successor has its place"
    assert (found.deletes, found.missing, found.surge) == ((), (), True)
    assert (found.rollout.updated, found.replicas) == (2, 3)


def test_the_next_new_engine_takes_a_seat_and_no_pod() -> None:
    found = book(old(0, 0), pack(1, 0), replicas=2)
    assert told(found) == [("qwen-1", (0, 1), False, Reason.SCALED_UP)]
    assert (found.missing, found.surge) == ((), True)


def test_the_last_old_engine_takes_its_pod_along() -> None:
    found = book(old(0, 0), pack(1, 0, 1), replicas=2)
    assert (gone(found), found.sets) == ([("qwen-0", Reason.ROLLOUT)], ())
    assert found.rollout.problem.reason is Reason.UP_TO_DATE


def test_a_rollout_holds_while_nobody_says_how_the_new_engines_are() -> None:
    silent = replace(pack(1, 0, 1), pack=None)
    found = book(old(0, 0), silent, replicas=2)
    assert (found.deletes, found.sets, found.rolling) == ((), (), False)


def test_old_engines_that_do_not_answer_go_first() -> None:
    found = book(old(0, 0, 1, 2, states={0: EngineState.BACKOFF}), pack(1, 0), replicas=3)
    assert told(found)[1] == ("qwen-0", (1, 2), False, Reason.ROLLOUT)


def test_fewer_old_engines_are_wanted_while_a_rollout_goes_on() -> None:
    found = book(old(0, 0, 1, 2), pack(1, 0), replicas=2)
    assert told(found)[1:] == [("qwen-0", (0,), False, Reason.SCALED_DOWN)]


def test_a_spec_that_failed_leaves_the_old_pack_as_it_is() -> None:
    grave = replace(
        pack(1, 0), phase=PodPhase.FAILED, ready=False, was_ready=False, ended="NotReadyInTime", finished_at=NOW
    )
    found = book(old(0, 0, 1), grave, replicas=2)
    assert (found.rollout.problem.reason, found.missing, found.sets) == (Reason.ROLLOUT_STOPPED, (), ())
    assert "2 replicas keep the previous spec" in found.rollout.problem.message


# the whole plan


def planned(*pods: PodView, replicas: int, gpus: int, spec_hash: str = "spec-a") -> ClusterPlan:
    view = a_deployment(demand=a_demand(replicas=replicas, mode=Mode.MPS_PACK, max_per_gpu=4, spec_hash=spec_hash))
    node = whole_node("n", product=H100, gpus=gpus)
    return plan(a_snapshot(deployments=(view,), nodes=(node,), pods=pods), PACKS)


def test_scaling_within_a_pack_is_the_only_action() -> None:
    for wanted, running in ((3, (0, 1, 2)), (2, (0, 1))):
        there = pack(0, 0) if wanted == 3 else pack(0, 0, 1, 2)
        result = planned(there, replicas=wanted, gpus=1)
        assert [(type(action), action.running) for action in sets(result)] == [(SetEngines, running)]
        assert len(result.actions) == 1


def test_an_unchanged_world_needs_nothing() -> None:
    result = planned(pack(0, 0, 1, 2, 3), pack(1, 0, 1), replicas=6, gpus=2)
    assert (result.actions, result.next_wake_seconds) == ((), None)


def test_with_a_second_gpu_a_rollout_opens_a_pack_with_one_engine_there() -> None:
    result = planned(old(0, 0, 1), replicas=2, gpus=2)
    (create,) = creates(result)
    assert (create.name, create.record.pack) == ("qwen-1", PackRecord(engines=4, running=(0,)))
    assert (deletes(result), sets(result)) == ([], [])


def test_without_one_the_whole_old_pack_goes_and_all_its_replicas_come_back_at_once() -> None:
    there = old(0, 0, 1)
    result = planned(there, replicas=2, gpus=1)
    assert [(d.pod.name, d.problem.reason) for d in deletes(result)] == [("qwen-0", Reason.ROLLOUT)]
    assert deletes(result)[0].problem.message == "the spec changed and its successor has its place"
    (entry,) = result.deployments
    assert (entry.rollout.problem.reason, entry.unplaced) == (Reason.ROLLING_OUT, ())
    leaving = planned(replace(there, deleting=True), replicas=2, gpus=1)
    (entry,) = leaving.deployments
    assert (leaving.actions, entry.leaving) == ((), ("qwen-0",))
    assert entry.unplaced == (), "both have the room that it leaves"
    (create,) = creates(planned(replicas=2, gpus=1))
    assert create.record.pack == PackRecord(engines=4, running=(0, 1))


def test_of_several_old_packs_the_one_with_the_fewest_replicas_makes_room() -> None:
    result = planned(old(0, 0), old(1, 0, 1, 2), replicas=4, gpus=2)
    assert [d.pod.name for d in deletes(result)] == ["qwen-0"]


def test_nobody_tells_a_pack_anything_that_goes_in_the_same_cycle() -> None:
    result = planned(but(old(0, 0, 1), a_report((0,))), replicas=2, gpus=1)
    assert ([d.pod.name for d in deletes(result)], sets(result)) == (["qwen-0"], [])


def test_a_rollout_without_room_says_what_lacks() -> None:
    """The node has lost the cores for one more pack, so not even the old one's end would help."""
    view = a_deployment(demand=a_demand(replicas=2, mode=Mode.MPS_PACK, max_per_gpu=4, spec_hash="b", cpu=30_000))
    result = plan(a_snapshot(deployments=(view,), nodes=(NODE,), pods=(old(0, 0, 1),)), PACKS)
    assert result.actions == ()
    problem = result.deployments[0].rollout.problem
    assert problem.reason is Reason.ROLLOUT_BLOCKED
    assert problem.message.startswith("0 of 2 replicas have the present spec; the next has no room: ")


def test_a_pack_that_never_got_ready_is_ended_as_one() -> None:
    late = replace(pack(0, 0, 1), ready=False, was_ready=False, ready_since=None)
    result = planned(late, replicas=2, gpus=1)
    assert [end.pod.name for end in ends(result)] == ["qwen-0"]
    assert (creates(result), sets(result)) == ([], [])
