"""What status says: one cause, and every condition that tools read."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slmpack.domain.conditions import Verdict, judge
from slmpack.domain.plan import DeploymentPlan, Outcome, ReplicaState, RolloutState, Unplaced
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Condition, Key, Rejected
from tests.support.builders import NOW, a_demand, a_deployment, a_snapshot, plan, whole_node

KEY = Key("llm", "qwen")
BEFORE = NOW - timedelta(hours=1)
PLACED = plan(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),))).deployments[0]


def state(number: int = 0, *, reason: Reason | None = None, message: str = "words", **changes: Any) -> ReplicaState:
    return replace(
        ReplicaState(
            pod=Key("llm", f"qwen-{number}"),
            node="n",
            resource="nvidia.com/gpu",
            share="Exclusive",
            ready=reason is None,
            counts=True,
            problem=Problem(reason=reason, message=message) if reason else None,
            outdated=False,
        ),
        **changes,
    )


def the(
    *states: ReplicaState, replicas: int = 1, rollout: Reason = Reason.UP_TO_DATE, **changes: Any
) -> DeploymentPlan:
    base = replace(
        PLACED,
        deployment=a_deployment("qwen", a_demand(replicas=replicas), generation=7),
        states=states,
        creates=(),
        rollout=RolloutState(problem=Problem(reason=rollout, message="rollout words"), updated=len(states)),
    )
    return replace(base, **changes)


def verdict(entry: DeploymentPlan, *outcomes: Outcome) -> Verdict:
    return judge(entry, outcomes=outcomes, now=NOW)


def said(found: Verdict) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in found.conditions}


NO_ROOM = Unplaced(count=2, problem=Problem(reason=Reason.INSUFFICIENT_GPUS, message="all taken"))
WAITING = (
    (PLACED.creates[0].placement, Problem(reason=Reason.BACK_OFF, message="qwen-0 failed; attempt 2 starts soon")),
)
BAD = Problem(reason=Reason.INVALID_SPEC, message="bad", field="spec.x")
REFUSED = Outcome(deployment=KEY, pod="qwen-1", problem=Problem(reason=Reason.CREATE_REFUSED, message="exceeded quota"))
CONFLICT = Outcome(
    deployment=KEY, pod="", problem=Problem(reason=Reason.NAME_CONFLICT, message="Service qwen is not ours")
)
BROKEN = (
    Reason.OOM_KILLED,
    Reason.IMAGE_PULL,
    Reason.NOT_ATTACHED,
    Reason.CRASH_LOOP,
    Reason.ENGINE_FAILED,
    Reason.EVICTED,
    Reason.POD_FAILED,
    Reason.NOT_READY_IN_TIME,
    Reason.NODE_LOST,
    Reason.UNSCHEDULABLE,
)
LOOK = "; see: kubectl describe pod -n llm qwen-"

READY: dict[str, tuple[DeploymentPlan, tuple[Outcome, ...], Reason, str]] = {
    "all Ready": (the(state()), (), Reason.ALL_READY, "the replica is Ready"),
    "scaled to zero": (the(replicas=0), (), Reason.SCALED_TO_ZERO, "no replica is wanted"),
    "created": (the(replicas=2, creates=PLACED.creates), (), Reason.STARTING, "0 of 2 replicas are Ready"),
    "starts": (
        the(state(reason=Reason.STARTING)),
        (),
        Reason.STARTING,
        "0 of 1 replicas are Ready; qwen-0 is Starting",
    ),
    "starts, others wait": (
        the(state(reason=Reason.STARTING), replicas=2, waiting=WAITING),
        (),
        Reason.STARTING,
        "0 of 2 replicas are Ready; qwen-0 is Starting; 1 wait for their turn",
    ),
    "all wait": (the(waiting=WAITING), (), Reason.BACK_OFF, "qwen-0 failed; attempt 2 starts soon"),
    "no room": (
        the(state(), replicas=3, unplaced=(NO_ROOM,)),
        (),
        Reason.INSUFFICIENT_GPUS,
        "2 replicas have no room: all taken",
    ),
    "no room for one": (
        the(replicas=1, unplaced=(replace(NO_ROOM, count=1),)),
        (),
        Reason.INSUFFICIENT_GPUS,
        "1 replica has no room: all taken",
    ),
    "rolls": (the(state(), rollout=Reason.ROLLING_OUT), (), Reason.ROLLING_OUT, "rollout words"),
    "blocked": (the(state(), rollout=Reason.ROLLOUT_BLOCKED), (), Reason.ROLLOUT_BLOCKED, "rollout words"),
    "stopped": (
        the(state(1, reason=Reason.OOM_KILLED, counts=False), rollout=Reason.ROLLOUT_STOPPED),
        (),
        Reason.ROLLOUT_STOPPED,
        "rollout words",
    ),
    "too many": (the(state(0), state(1)), (), Reason.SCALED_DOWN, "1 replicas are being ended: fewer are wanted"),
    "rejected": (the(problems=(BAD, BAD)), (), Reason.INVALID_SPEC, "bad (and 1 more problems)"),
    "refused": (the(state()), (REFUSED,), Reason.CREATE_REFUSED, f"qwen-1: exceeded quota{LOOK}1"),
    "a conflict outranks": (the(state()), (REFUSED, CONFLICT), Reason.NAME_CONFLICT, "Service qwen is not ours"),
    "the worst replica": (
        the(state(0, reason=Reason.UNSCHEDULABLE), state(1, reason=Reason.OOM_KILLED), replicas=2),
        (),
        Reason.OOM_KILLED,
        f"qwen-1: words{LOOK}1",
    ),
    "an engine of a pack": (
        the(state(0, engine=0), state(0, engine=2, reason=Reason.ENGINE_FAILED), replicas=2),
        (),
        Reason.ENGINE_FAILED,
        f"qwen-0 engine 2: words{LOOK}0",
    ),
    "an engine of a pack starts": (
        the(state(0, engine=0), state(0, engine=1, reason=Reason.STARTING), replicas=2),
        (),
        Reason.STARTING,
        "1 of 2 replicas are Ready; qwen-0 engine 1 is Starting",
    ),
    "a grave while replicas are short": (
        the(state(0, reason=Reason.OOM_KILLED, counts=False), state(1, reason=Reason.STARTING)),
        (),
        Reason.OOM_KILLED,
        f"qwen-0: words{LOOK}0",
    ),
    "a grave when none is": (
        the(state(0, reason=Reason.OOM_KILLED, counts=False), state(1)),
        (),
        Reason.ALL_READY,
        "the replica is Ready",
    ),
    **{reason.value: (the(state(reason=reason)), (), reason, f"qwen-0: words{LOOK}0") for reason in BROKEN},
}


@pytest.mark.parametrize(("entry", "outcomes", "reason", "message"), READY.values(), ids=READY)
def test_ready_names_the_worst_cause(
    entry: DeploymentPlan, outcomes: tuple[Outcome, ...], reason: Reason, message: str
) -> None:
    found = verdict(entry, *outcomes)
    assert (found.reason, found.message) == (reason, message)
    done = reason in {Reason.ALL_READY, Reason.SCALED_TO_ZERO}
    assert said(found)["Ready"] == ("True" if done else "False", reason.value)
    settled = done or reason in {Reason.ROLLOUT_STOPPED, Reason.INVALID_SPEC}
    assert said(found)["Reconciling"] == ("False" if settled else "True", reason.value)


def test_a_grave_that_is_followed_in_this_cycle_says_nothing() -> None:
    create = replace(PLACED.creates[0], record=replace(PLACED.creates[0].record, replaces="qwen-0"))
    entry = the(state(0, reason=Reason.OOM_KILLED, counts=False), creates=(create,))
    assert verdict(entry).reason is Reason.STARTING


def test_all_conditions_of_a_deployment_that_runs() -> None:
    assert said(verdict(the(state()))) == {
        "Accepted": ("True", "Accepted"),
        "Fits": ("True", "Fits"),
        "MemoryLimitEnforced": ("True", "WholeDevice"),
        "Ready": ("True", "AllReady"),
        "Reconciling": ("False", "AllReady"),
        "Scaled": ("True", "Fits"),
        "Stalled": ("False", "AllReady"),
    }


def test_all_conditions_of_one_that_is_rejected() -> None:
    rejected = the(state(), problems=(BAD,), deployment=a_deployment("qwen", Rejected(problems=(BAD,))))
    found = verdict(rejected)
    assert said(found) == {
        "Accepted": ("False", "InvalidSpec"),
        "Fits": ("Unknown", "Frozen"),
        "MemoryLimitEnforced": ("True", "WholeDevice"),
        "Ready": ("False", "InvalidSpec"),
        "Reconciling": ("False", "InvalidSpec"),
        "Scaled": ("Unknown", "Frozen"),
        "Stalled": ("True", "InvalidSpec"),
    }
    assert (found.desired, found.replicas, found.ready) == (None, 1, 1)
    broken = replace(rejected, problems=(), states=(state(reason=Reason.OOM_KILLED),))
    assert verdict(broken).reason is Reason.OOM_KILLED
    waiting = replace(rejected, problems=(), states=(state(reason=Reason.STARTING),))
    assert verdict(waiting).reason is Reason.SCALED_DOWN


@pytest.mark.parametrize(
    ("reason", "accepted", "stalled"),
    [
        (Reason.MODEL_PENDING, "Unknown", "False"),
        (Reason.MODEL_UNAVAILABLE, "Unknown", "False"),
        (Reason.MODEL_GATED, "False", "True"),
        (Reason.MODEL_NOT_FOUND, "False", "True"),
        (Reason.MODEL_LEN_TOO_LONG, "False", "True"),
        (Reason.UNKNOWN_LAYOUT, "False", "True"),
        (Reason.UNSUPPORTED_ENGINE, "False", "True"),
    ],
)
def test_which_problems_last(reason: Reason, accepted: str, stalled: str) -> None:
    found = said(verdict(the(problems=(Problem(reason=reason, message="m"),))))
    assert (found["Accepted"][0], found["Stalled"][0]) == (accepted, stalled)
    assert found["Reconciling"][0] == ("False" if stalled == "True" else "True")


def test_stalled_only_where_the_cluster_could_never_hold_it() -> None:
    entry = the(replicas=2, unplaced=(NO_ROOM,))
    assert said(verdict(entry))["Stalled"] == ("False", "InsufficientGpus")
    found = said(verdict(replace(entry, never=True)))
    assert (found["Stalled"], found["Reconciling"]) == (("True", "InsufficientGpus"), ("False", "InsufficientGpus"))
    assert (found["Fits"], found["Scaled"]) == (("False", "InsufficientGpus"), ("False", "InsufficientGpus"))


def test_scaled_names_the_cause_of_a_difference() -> None:
    assert said(verdict(the(state(0), state(1))))["Scaled"] == ("False", "ScaledDown")


def test_counts() -> None:
    entry = the(
        state(0, outdated=True),
        state(1, reason=Reason.STARTING),
        state(2, reason=Reason.OOM_KILLED, counts=False, outdated=True),
        replicas=2,
    )
    found = verdict(entry)
    assert (found.desired, found.replicas, found.ready, found.updated, found.outdated) == (2, 2, 1, 3, 1)


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    had = (
        Condition(
            type="Ready", status="True", reason="Old", message="old", observed_generation=1, last_transition=BEFORE
        ),
        Condition(
            type="Fits", status="False", reason="Old", message="old", observed_generation=1, last_transition=BEFORE
        ),
    )
    entry = the(state())
    found = verdict(replace(entry, deployment=replace(entry.deployment, conditions=had)))
    times = {condition.type: condition.last_transition for condition in found.conditions}
    assert (times["Ready"], times["Fits"], times["Scaled"]) == (BEFORE, NOW, NOW)
    assert {condition.observed_generation for condition in found.conditions} == {7}
    again = replace(entry, deployment=replace(entry.deployment, conditions=found.conditions))
    assert judge(again, outcomes=(), now=NOW + timedelta(hours=1)) == found, (
        "an unchanged world has an unchanged status"
    )
