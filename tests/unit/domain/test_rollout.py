"""What ends, what is missing, and how a changed spec comes: one deployment's pods against its demand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slmpack.domain.plan import DeletePod
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.rollout import Book, Missing, keep_book, lowest_free_ordinals, start_problem
from slmpack.domain.snapshot import Demand, Key, PodPhase, PodView
from tests.support.builders import NOW, POLICY, a_demand, a_deployment, a_pod, a_snapshot, creates, plan, whole_node

(MADE,) = creates(plan(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),))))
LONG_AGO = NOW - timedelta(hours=1)
RECORD = {"ordinal", "spec_hash", "attempt", "replaces"}


def pod(ordinal: int = 0, **changes: Any) -> PodView:
    """A Ready pod; changes of the view and of its record."""
    assert MADE.record is not None
    record = replace(MADE.record, ordinal=ordinal, **{k: v for k, v in changes.items() if k in RECORD})
    view = replace(
        a_pod(MADE, ready=True, created=LONG_AGO),
        key=Key("llm", f"qwen-{ordinal}"),
        uid=f"pod-{ordinal}",
        record=record,
    )
    return replace(view, **{k: v for k, v in changes.items() if k not in RECORD})


def starting(ordinal: int = 0, **changes: Any) -> PodView:
    return pod(
        ordinal,
        **{"ready": False, "ready_since": None, "was_ready": False, "created": NOW - timedelta(minutes=1)} | changes,
    )


def failed(ordinal: int = 0, **changes: Any) -> PodView:
    defaults = {"phase": PodPhase.FAILED, "finished_at": NOW - timedelta(seconds=5), "reason": "Error", "exit_code": 1}
    return starting(ordinal, **defaults | changes)


def book(*pods: PodView, replicas: int = 1, **demand: Any) -> Book:
    return keep_book(a_demand(replicas=replicas, **demand), pods, POLICY, now=NOW)


def names(deletes: tuple[DeletePod, ...]) -> list[tuple[str, Reason]]:
    return [(delete.pod.name, delete.problem.reason) for delete in deletes]


FRESH = Missing(attempt=1, replaces="", not_before=None)


def test_nothing_runs_yet() -> None:
    there = book(replicas=3)
    assert there.missing == (FRESH, FRESH, FRESH)
    assert (there.deletes, there.ends, there.surge, there.rolling) == ((), (), False, False)
    assert there.rollout.problem.reason is Reason.UP_TO_DATE


def test_all_run() -> None:
    there = book(pod(0), pod(1), replicas=2)
    assert (there.missing, there.deletes, there.ends, len(there.live)) == ((), (), (), 2)


@pytest.mark.parametrize(
    ("pods", "replicas", "gone"),
    [
        ((pod(0), pod(1), pod(2)), 1, ["qwen-2", "qwen-1"]),
        ((pod(0), starting(1), pod(2)), 2, ["qwen-1"]),
        ((pod(0), pod(1, ready=False), pod(2)), 2, ["qwen-1"]),
        ((pod(0, ready=False), starting(1)), 1, ["qwen-1"]),
        ((pod(0), pod(1)), 0, ["qwen-1", "qwen-0"]),
        ((pod(0), pod(1, deleting=True)), 1, []),
    ],
    ids=[
        "highest ordinal first",
        "never Ready first",
        "not Ready first",
        "never Ready before not Ready",
        "to zero",
        "Terminating",
    ],
)
def test_scaling_down_ends_what_costs_least(pods: tuple[PodView, ...], replicas: int, gone: list[str]) -> None:
    assert names(book(*pods, replicas=replicas).deletes) == [(name, Reason.SCALED_DOWN) for name in gone]


def test_a_killed_pod_is_missed_at_once() -> None:
    assert book(pod(0), pod(1, deleting=True), replicas=2).missing == (FRESH,)


# budgets


def test_a_start_that_takes_too_long_is_ended_and_nothing_follows_before_it_is_over() -> None:
    late = starting(created=NOW - timedelta(minutes=10))
    there = book(late)
    (end,) = there.ends
    assert (end.pod, end.problem.reason) == (late.key, Reason.NOT_READY_IN_TIME)
    assert end.problem.message == "not Ready within 600 s (spec.engine.startupTimeoutSeconds)"
    assert (there.missing, there.deletes, there.live) == ((), (), ())
    ending = book(replace(late, ended="NotReadyInTime"))
    assert (ending.ends, ending.missing, ending.deletes) == ((), (), ())
    over = book(failed(ended="NotReadyInTime"))
    assert [missing.attempt for missing in over.missing] == [2]


@pytest.mark.parametrize(
    "view",
    [
        starting(created=NOW - timedelta(minutes=10) + timedelta(seconds=1)),
        pod(ready=False, created=LONG_AGO),
        starting(created=LONG_AGO, deleting=True),
        starting(node=None, unschedulable="no", created=NOW - timedelta(seconds=59)),
        starting(node=None, created=LONG_AGO),
    ],
    ids=[
        "in time",
        "was Ready once",
        "goes already",
        "the scheduler may still find room",
        "the scheduler said nothing",
    ],
)
def test_what_no_budget_ends(view: PodView) -> None:
    there = book(view)
    assert (there.ends, there.deletes) == ((), ())


def test_a_pod_that_cannot_be_scheduled_is_deleted_and_its_successor_waits_a_turn() -> None:
    there = book(starting(node=None, unschedulable="0/3 nodes", created=NOW - timedelta(seconds=60)))
    assert [(d.pod.name, d.problem.reason, d.problem.message) for d in there.deletes] == [
        ("qwen-0", Reason.UNSCHEDULABLE, "the scheduler could not bind it: 0/3 nodes")
    ]
    assert (there.ends, there.missing) == ((), ())


REFUSED = Problem(reason=Reason.CREATE_REFUSED, message="exceeded quota")


def test_what_is_refused_is_not_missing_until_it_is_to_be_tried_again() -> None:
    assert keep_book(a_demand(replicas=2), (), POLICY, now=NOW).missing == (FRESH, FRESH)
    there = keep_book(a_demand(replicas=2), (), POLICY, now=NOW, refused=REFUSED)
    assert (there.missing, there.rollout.problem.reason) == ((), Reason.UP_TO_DATE)


def test_a_rollout_whose_pods_are_refused_stops_and_says_how_to_go_back() -> None:
    there = keep_book(a_demand(replicas=1, spec_hash="b"), (pod(),), POLICY, now=NOW, refused=REFUSED)
    assert (there.missing, there.rolling, there.rollout.problem.reason) == ((), False, Reason.ROLLOUT_STOPPED)
    assert "refused (exceeded quota); 1 replicas keep" in there.rollout.problem.message
    assert "apply the previous one to go back" in there.rollout.problem.message


# failures and their graves


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (40, 300)])
def test_the_back_off_doubles_up_to_five_minutes(attempt: int, seconds: int) -> None:
    grave = failed(attempt=attempt)
    assert grave.finished_at is not None
    expected = Missing(
        attempt=attempt + 1, replaces="qwen-0", not_before=grave.finished_at + timedelta(seconds=seconds)
    )
    assert book(grave).missing == (expected,)
    assert book(grave).deletes == ()


def test_without_a_moment_of_failure_the_back_off_runs_from_the_start() -> None:
    grave = failed(finished_at=None)
    assert book(grave).missing[0].not_before == grave.created + timedelta(seconds=10)


@pytest.mark.parametrize(("lived", "attempt"), [(timedelta(minutes=11), 1), (timedelta(minutes=9), 5)])
def test_a_replica_that_ran_well_starts_counting_anew(lived: timedelta, attempt: int) -> None:
    grave = failed(attempt=4, was_ready=True, created=NOW - lived, finished_at=NOW)
    assert [missing.attempt for missing in book(grave).missing] == [attempt]


def test_graves_hold_names_but_count_for_nothing() -> None:
    there = book(pod(0), failed(1), replicas=2)
    assert [view.key.name for view in there.live] == ["qwen-0"]
    assert [missing.replaces for missing in there.missing] == ["qwen-1"]


@pytest.mark.parametrize(
    ("pods", "replicas", "cleared"),
    [
        ((failed(0), starting(1, replaces="qwen-0")), 1, []),
        ((failed(0, created=LONG_AGO), pod(1, replaces="qwen-0", ready_since=NOW - timedelta(minutes=9))), 1, []),
        (
            (failed(0, created=LONG_AGO), pod(1, replaces="qwen-0", ready_since=NOW - timedelta(minutes=10))),
            1,
            ["qwen-0"],
        ),
        ((failed(0, created=LONG_AGO), failed(1, replaces="qwen-0")), 1, ["qwen-0"]),
        ((failed(0, created=LONG_AGO), starting(1, replaces="qwen-0", ended="x")), 1, []),
        ((failed(0), failed(1, finished_at=NOW)), 1, ["qwen-0"]),
        ((failed(0),), 0, ["qwen-0"]),
        ((failed(0), pod(1)), 1, ["qwen-0"]),
        ((failed(0, spec_hash="old"),), 1, ["qwen-0"]),
        ((failed(0, deleting=True),), 1, []),
    ],
    ids=[
        "its successor starts",
        "its successor has been Ready for 9 minutes",
        "its successor has been Ready for 10 minutes",
        "its successor failed too",
        "its successor is being ended",
        "the newest is kept",
        "no replica is wanted",
        "no replica is missing",
        "an earlier spec's",
        "it goes already",
    ],
)
def test_when_a_grave_is_cleared(pods: tuple[PodView, ...], replicas: int, cleared: list[str]) -> None:
    assert names(book(*pods, replicas=replicas).deletes) == [(name, Reason.REPLACED) for name in cleared]


def test_a_name_that_comes_back_is_not_taken_for_its_predecessor() -> None:
    """qwen-1 followed an earlier qwen-0 long ago; the qwen-0 of today crashes and must wait its back-off out."""
    veteran = pod(1, replaces="qwen-0", ready_since=LONG_AGO, created=LONG_AGO)
    there = book(failed(0), veteran, replicas=2)
    assert there.deletes == ()
    assert [(missing.attempt, missing.replaces) for missing in there.missing] == [(2, "qwen-0")]


def test_a_grave_whose_successor_was_killed_is_followed_again() -> None:
    there = book(failed(0, attempt=2), starting(1, replaces="qwen-0", deleting=True))
    assert [(missing.attempt, missing.replaces) for missing in there.missing] == [(3, "qwen-0")]


# rollouts


def old(ordinal: int, **changes: Any) -> PodView:
    return pod(ordinal, spec_hash="spec-old", **changes)


def test_a_changed_spec_wants_one_more() -> None:
    there = book(old(0), old(1), replicas=2)
    assert (there.missing, there.deletes, there.surge, there.rolling) == ((FRESH,), (), True, True)
    assert there.rollout.problem.reason is Reason.ROLLING_OUT
    assert there.rollout.problem.message == "0 of 2 replicas have the present spec"


@pytest.mark.parametrize(
    "newcomer",
    [starting(2), starting(2, ended="x"), starting(2, created=LONG_AGO), pod(2, ready=False)],
    ids=["starts", "is being ended", "is late", "is not Ready any more"],
)
def test_a_rollout_waits_for_the_new_one(newcomer: PodView) -> None:
    there = book(old(0), old(1), newcomer, replicas=2)
    assert (there.missing, there.deletes, there.surge, there.rolling) == ((), (), False, False)


def test_the_old_one_ends_once_the_new_one_is_ready() -> None:
    there = book(old(0), old(1), pod(2), replicas=2)
    assert names(there.deletes) == [("qwen-1", Reason.ROLLOUT)]
    assert [(p.key.name) for p in there.live] == ["qwen-2", "qwen-0"]
    assert there.surge, "and the next one is wanted"


def test_the_last_old_one_ends() -> None:
    there = book(old(0), pod(1), replicas=1)
    assert names(there.deletes) == [("qwen-0", Reason.ROLLOUT)]
    assert (there.missing, there.surge, there.rollout.problem.reason) == ((), False, Reason.UP_TO_DATE)


def test_scaling_while_rolling() -> None:
    up = book(old(0), pod(1), replicas=4)
    assert (len(up.missing), up.surge, up.rolling, up.deletes) == (2, False, True, ())
    down = book(old(0), old(1), old(2), starting(3), replicas=1)
    assert names(down.deletes) == [("qwen-2", Reason.SCALED_DOWN), ("qwen-1", Reason.SCALED_DOWN)]
    zero = book(old(0), starting(1), replicas=0)
    assert names(zero.deletes) == [("qwen-0", Reason.SCALED_DOWN)]


@pytest.mark.parametrize(
    "grave",
    [failed(2, attempt=3), failed(2, attempt=1, ended="NotReadyInTime")],
    ids=["three attempts", "out of its budget"],
)
def test_a_failed_new_spec_stops_the_rollout(grave: PodView) -> None:
    there = book(old(0), old(1), grave, replicas=2)
    assert (there.missing, there.deletes, there.rolling, there.surge) == ((), (), False, False)
    assert there.rollout.problem.reason is Reason.ROLLOUT_STOPPED
    for part in (
        "pod qwen-2 of the new spec",
        "2 replicas keep the previous spec",
        "apply the previous one",
        "delete pod qwen-2",
    ):
        assert part in there.rollout.problem.message
    assert book(old(0), grave, replicas=2).missing == (), "what is missing stays missing: the previous spec is unknown"


@pytest.mark.parametrize(
    "grave",
    [failed(2, attempt=2), failed(2, attempt=3, was_ready=True), failed(2, attempt=3, spec_hash="spec-older")],
    ids=["two attempts", "it was Ready once", "of another spec"],
)
def test_what_does_not_stop_a_rollout(grave: PodView) -> None:
    there = book(old(0), old(1), grave, replicas=2)
    assert there.rollout.problem.reason is Reason.ROLLING_OUT
    assert len(there.missing) == 1


def test_applying_the_old_spec_again_goes_back() -> None:
    there = book(old(0), failed(1, attempt=3), replicas=2, spec_hash="spec-old")
    assert names(there.deletes) == [("qwen-1", Reason.REPLACED)]
    assert there.missing == (FRESH,)
    assert there.rollout.problem.reason is Reason.UP_TO_DATE


def test_deleting_the_failed_pod_tries_the_new_spec_again() -> None:
    assert book(old(0), failed(1, attempt=3, deleting=True)).missing == (FRESH,)


def test_when_no_old_one_is_left_the_new_spec_goes_on_trying() -> None:
    assert [missing.attempt for missing in book(failed(0, attempt=7)).missing] == [8]


# words


CAUSES: dict[str, tuple[PodView, Reason | None, str]] = {
    "Ready": (pod(), None, ""),
    "ended": (
        failed(ended="NotReadyInTime", message="boom"),
        Reason.NOT_READY_IN_TIME,
        "it was ended: NotReadyInTime. Error boom (exit code 1)",
    ),
    "OOM": (failed(reason="OOMKilled", exit_code=137), Reason.OOM_KILLED, "OOMKilled (exit code 137)"),
    "evicted": (failed(reason="Evicted", message="disk", exit_code=None), Reason.EVICTED, "Evicted disk"),
    "image": (starting(reason="ErrImagePull", message="no such tag"), Reason.IMAGE_PULL, "ErrImagePull no such tag"),
    "crash loop": (starting(reason="CrashLoopBackOff"), Reason.CRASH_LOOP, "CrashLoopBackOff"),
    "node lost": (pod(ready=False, reason="NodeLost"), Reason.NODE_LOST, "NodeLost"),
    "failed": (failed(), Reason.POD_FAILED, "Error (exit code 1)"),
    "failed without a word": (
        failed(reason="", exit_code=None),
        Reason.POD_FAILED,
        "no message; see kubectl logs -n llm qwen-0",
    ),
    "vLLM's core has died": (
        failed(phase=PodPhase.SUCCEEDED, reason="", exit_code=None),
        Reason.POD_FAILED,
        "the engine ended by itself (exit code 0), as vLLM does when its core dies; see kubectl logs -n llm qwen-0",
    ),
    "vLLM could not start": (
        failed(message="RuntimeError: Engine core initialization failed. See root cause above."),
        Reason.POD_FAILED,
        (
            "Error RuntimeError: Engine core initialization failed. See root cause above. (exit code 1); the cause stands "
            "further up: see kubectl logs -n llm qwen-0"
        ),
    ),
    "unknown": (pod(ready=False, phase=PodPhase.UNKNOWN), Reason.NODE_LOST, "node n does not answer"),
    "unschedulable": (starting(node=None, unschedulable="0/3 nodes"), Reason.UNSCHEDULABLE, "0/3 nodes"),
    "restarted": (starting(restarts=2, reason="Error"), Reason.CRASH_LOOP, "restarted 2 times. Error"),
    "starting": (starting(), Reason.STARTING, "starting for 60 s of at most 600 s"),
    "not Ready any more": (pod(ready=False), Reason.STARTING, "not Ready any more"),
}


@pytest.mark.parametrize(("view", "reason", "message"), CAUSES.values(), ids=CAUSES)
def test_what_keeps_a_pod_from_being_ready(view: PodView, reason: Reason | None, message: str) -> None:
    problem = start_problem(view, a_demand(), NOW)
    assert (problem and problem.reason, problem.message if problem else "") == (reason, message)


def test_a_start_without_a_demand_has_no_budget_to_name() -> None:
    problem = start_problem(starting(), None, NOW)
    assert problem is not None
    assert problem.message == "starting for 60 s"


def test_ordinals_are_the_lowest_that_no_pod_of_the_namespace_holds() -> None:
    names = {"llm/qwen-0", "llm/qwen-2", "other/qwen-1", "llm/qwen-1-0"}
    assert lowest_free_ordinals(Key("llm", "qwen"), names, count=3) == (1, 3, 4)
    assert lowest_free_ordinals(Key("llm", "qwen"), set(), count=0) == ()


def test_the_demand_is_only_read() -> None:
    demand: Demand = a_demand()
    assert keep_book(demand, (), POLICY, now=NOW) == keep_book(demand, (), POLICY, now=NOW)
