"""From a plan and what became of its writes to the conditions and counts of status (D10, D12).

Ready, and kstatus' Reconciling and Stalled, plus Accepted, Fits, Scaled and MemoryLimitEnforced. An unchanged condition
keeps its transition time, so that an unchanged world gives an unchanged status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from slmpack.domain.memory_limit import memory_limit, replica_name
from slmpack.domain.plan import DeploymentPlan, Outcome, ReplicaState
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScaleDecision
from slmpack.domain.scale_news import Told, frozen, scaling_facts, tell
from slmpack.domain.snapshot import Condition, Rejected
from slmpack.domain.wording import number_of

__all__ = ["Verdict", "judge"]

_Fact = tuple[str, str, Reason, str]
"""Type, status, reason and message of a condition."""

_WORST_FIRST = (
    Reason.INTERNAL,
    Reason.NAME_CONFLICT,
    Reason.CREATE_REFUSED,
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
    Reason.SUPERVISOR_UNREACHABLE,
)
"""Causes on a pod, as Ready ranks them; what merely waits comes last."""

_PERMANENT = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.UNSUPPORTED_ENGINE,
        Reason.UNKNOWN_LAYOUT,
        Reason.MODEL_GATED,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_LEN_TOO_LONG,
        Reason.WORKLOAD_TOO_LONG,
    }
)
"""Problems that only a change of the spec (or of the operator's access) ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What status says about one SLMDeployment."""

    conditions: tuple[Condition, ...]
    desired: int | None
    """None while the spec is rejected."""
    replicas: int
    ready: int
    updated: int
    outdated: int
    share: str
    reason: Reason
    message: str
    scaling: Told | None = None
    """What is said of scaling; None without spec.scaling."""
    decision: ScaleDecision | None = None
    """This cycle's, of which `scaling` tells the news."""


def judge(plan: DeploymentPlan, *, outcomes: Sequence[Outcome], now: datetime) -> Verdict:
    """The verdict on one deployment; `outcomes` are the refused writes of this cycle that concern it."""
    counted = [state for state in plan.states if state.counts]
    ready = sum(state.ready for state in counted)
    demand = plan.deployment.demand
    desired = demand.replicas
    told = _told(plan, now)
    cause = _cause(plan, counted, outcomes, desired)
    stalled = _stalled(plan)
    done = cause.reason in {Reason.ALL_READY, Reason.SCALED_TO_ZERO}
    settled = done or stalled is not None or cause.reason is Reason.ROLLOUT_STOPPED
    facts: tuple[_Fact, ...] = (
        _accepted(plan),
        _fits(plan),
        ("MemoryLimitEnforced", *memory_limit(counted)),
        ("Ready", "True" if done else "False", cause.reason, cause.message),
        ("Reconciling", "False" if settled else "True", cause.reason, cause.message),
        _scaled(plan, len(counted), desired, cause),
        ("Stalled", "True" if stalled else "False", *_said(stalled or cause)),
        *(scaling_facts(told.note) if told is not None else ()),
    )
    return Verdict(
        conditions=tuple(_condition(plan, now, fact) for fact in facts),
        desired=desired,
        replicas=len(counted),
        ready=ready,
        updated=plan.rollout.updated,
        outdated=sum(state.outdated for state in counted),
        share=", ".join(sorted({state.share for state in counted})),
        reason=cause.reason,
        message=cause.message,
        scaling=told,
        decision=plan.scale,
    )


def _told(plan: DeploymentPlan, now: datetime) -> Told | None:
    demand = plan.deployment.demand
    if isinstance(demand, Rejected):
        return frozen(plan.deployment)
    if plan.scale is None or demand.scaling is None:
        return None
    return tell(plan.deployment, plan.scale, demand.scaling, now=now)


def _said(problem: Problem) -> tuple[Reason, str]:
    return problem.reason, problem.message


def _cause(
    plan: DeploymentPlan, counted: Sequence[ReplicaState], outcomes: Sequence[Outcome], desired: int | None
) -> Problem:
    """Why Ready is what it is: the worst replica's cause, and the kubectl line to look further."""
    if plan.problems:
        return _first(plan.problems)
    if plan.rollout.problem.reason is Reason.ROLLOUT_STOPPED:
        return plan.rollout.problem
    broken = _broken(plan, outcomes)
    if broken is not None:
        return broken
    if plan.unplaced:
        return _unplaced(plan)
    if plan.rollout.problem.reason in {Reason.ROLLING_OUT, Reason.ROLLOUT_BLOCKED}:
        return plan.rollout.problem
    ready = sum(state.ready for state in counted)
    if ready < (desired or 0):
        return _on_the_way(plan, counted, ready)
    if len(counted) > (desired or 0):
        message = f"{len(counted) - (desired or 0)} replicas are being ended: fewer are wanted"
        return Problem(reason=Reason.SCALED_DOWN, message=message)
    if desired == 0:
        return Problem(reason=Reason.SCALED_TO_ZERO, message="no replica is wanted")
    return Problem(
        reason=Reason.ALL_READY, message="the replica is Ready" if desired == 1 else f"{desired} replicas are Ready"
    )


def _first(problems: Sequence[Problem]) -> Problem:
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return Problem(reason=problems[0].reason, field=problems[0].field, message=problems[0].message + more)


def _broken(plan: DeploymentPlan, outcomes: Sequence[Outcome]) -> Problem | None:
    """The worst thing that is wrong with a pod, or with making one. A superseded failure does not count."""
    found = [(o.problem, o.pod, o.pod) for o in outcomes]
    followed = {create.record.replaces for create in plan.creates}
    running = sum(state.ready for state in plan.states if state.counts)
    demand = plan.deployment.demand
    short = not isinstance(demand, Rejected) and running < demand.replicas
    for state in plan.states:
        grave = not state.counts and state.pod.name not in followed
        if state.problem is not None and state.problem.reason in _WORST_FIRST and (state.counts or (grave and short)):
            found.append((state.problem, state.pod.name, replica_name(state)))
    if not found:
        return None
    problem, name, who = min(found, key=lambda entry: (_rank(entry[0].reason), entry[2]))
    where = f"; see: kubectl describe pod -n {plan.deployment.key.namespace} {name}" if name else ""
    subject = f"{who}: " if who else ""
    rolling = plan.rollout.problem.reason is Reason.ROLLING_OUT
    way_back = "; the rollout waits for it, apply the previous spec to go back" if rolling else ""
    return Problem(reason=problem.reason, message=f"{subject}{problem.message}{where}{way_back}")


def _rank(reason: Reason) -> int:
    return _WORST_FIRST.index(reason) if reason in _WORST_FIRST else len(_WORST_FIRST)


def _unplaced(plan: DeploymentPlan) -> Problem:
    first = plan.unplaced[0]
    count = sum(entry.count for entry in plan.unplaced)
    return Problem(
        reason=first.problem.reason,
        field=first.problem.field,
        message=f"{count} {'replica has' if count == 1 else 'replicas have'} no room: {first.problem.message}",
    )


def _on_the_way(plan: DeploymentPlan, counted: Sequence[ReplicaState], ready: int) -> Problem:
    wanted = plan.deployment.demand.replicas if not isinstance(plan.deployment.demand, Rejected) else 0
    starting = next((f"{replica_name(s)} is {s.problem.reason.value}" for s in counted if s.problem is not None), "")
    waits = [problem for _, problem in plan.waiting]
    if not starting and not plan.creates and waits:
        return waits[0]
    parts = (
        starting,
        f"{len(waits)} wait for their turn" if waits else "",
        f"{', '.join(plan.leaving)} still ends" if plan.leaving else "",
    )
    detail = "; ".join(part for part in parts if part)
    return Problem(
        reason=Reason.STARTING, message=f"{ready} of {wanted} replicas are Ready; {detail}".removesuffix("; ")
    )


def _stalled(plan: DeploymentPlan) -> Problem | None:
    permanent = [problem for problem in plan.problems if problem.reason in _PERMANENT]
    if permanent:
        return _first(permanent)
    if not plan.never:
        return None
    return _unplaced(plan) if plan.unplaced else plan.rollout.problem


def _accepted(plan: DeploymentPlan) -> _Fact:
    if not plan.problems:
        return "Accepted", "True", Reason.ACCEPTED, "the spec and the model's layout are understood"
    first = _first(plan.problems)
    unknown = first.reason in {Reason.MODEL_PENDING, Reason.MODEL_UNAVAILABLE}
    message = "; ".join(problem.message for problem in plan.problems)
    return "Accepted", "Unknown" if unknown else "False", first.reason, message


def _fits(plan: DeploymentPlan) -> _Fact:
    if plan.problems:
        return "Fits", "Unknown", Reason.FROZEN, "what runs is left as it is until the spec is accepted"
    if plan.unplaced:
        problem = _unplaced(plan)
        return "Fits", "False", problem.reason, problem.message
    if plan.rollout.problem.reason is Reason.ROLLOUT_BLOCKED:
        return "Fits", "False", plan.rollout.problem.reason, plan.rollout.problem.message
    short = [used for used in plan.fits if used.fit.carries is False and plan.per_gpu]
    if short:
        where = ", ".join(f"{used.share} on {used.product}" for used in short)
        message = f"every replica has room; by prediction the load is more than they answer on {where}"
        return "Fits", "True", Reason.FITS, message
    return "Fits", "True", Reason.FITS, "every replica has room"


def _scaled(plan: DeploymentPlan, existing: int, desired: int | None, cause: Problem) -> _Fact:
    if desired is None or isinstance(plan.deployment.demand, Rejected):
        return "Scaled", "Unknown", Reason.FROZEN, cause.message
    if existing == desired:
        return "Scaled", "True", Reason.FITS, f"{number_of(existing)} {'exists' if existing == 1 else 'exist'}"
    reason = plan.unplaced[0].problem.reason if plan.unplaced else cause.reason
    return "Scaled", "False", reason, f"{existing} of {desired} replicas exist"


def _condition(plan: DeploymentPlan, now: datetime, fact: _Fact) -> Condition:
    kind, status, reason, message = fact
    before = next((c for c in plan.deployment.conditions if c.type == kind), None)
    since = before.last_transition if before is not None and before.status == status else now
    return Condition(
        type=kind,
        status=status,
        reason=reason.value,
        message=message,
        observed_generation=plan.deployment.generation,
        last_transition=since,
    )
