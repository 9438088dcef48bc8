"""Each existing replica judged: a pod with one engine, or an engine of a pack."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from slmpack.domain.case import Case, World
from slmpack.domain.pack import CONTROL_PORT, EngineReport, EngineState
from slmpack.domain.plan import ReplicaState
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.rollout import start_problem
from slmpack.domain.snapshot import PodView

__all__ = ["states_of"]

_GOES_ON = frozenset({EngineState.STOPPED, EngineState.WAITING, EngineState.STARTING, EngineState.STOPPING})
"""Not Ready, and nothing is wrong."""
_HAS_PROCESS = frozenset({EngineState.READY, EngineState.STOPPING})
"""In these states there is still the process of which it was seen that the limit holds it."""

_TIME_TO_ANSWER = timedelta(minutes=1)
"""After the pod became Ready: some calls of the metrics tick (15 s), of which each may fail."""


def states_of(pod: PodView, case: Case, world: World) -> tuple[ReplicaState, ...]:
    """Of a pack, one for each engine that is meant to run."""
    live = {p.uid: p for p in (*case.book.live, *case.book.pending)} if case.book else {}
    meant = live.get(pod.uid, pod)  # with the engines that this plan lets run
    whole = _state(meant, case, world, counts=pod.uid in live if case.book else _goes_on(pod))
    assert meant.record is not None  # noqa: S101 - a case holds our own pods only
    if meant.record.pack is None:
        return (whole,)
    reports = {report.index: report for report in meant.pack.engines} if meant.pack is not None else {}
    now = world.snapshot.now
    return tuple(_of_engine(whole, index, reports.get(index), meant, now) for index in meant.record.pack.running)


def _goes_on(pod: PodView) -> bool:
    return not (pod.finished or pod.deleting or pod.ended)


def _state(pod: PodView, case: Case, world: World, *, counts: bool) -> ReplicaState:
    record = pod.record
    assert record is not None  # noqa: S101 - a case holds our own pods only
    spec_hash = case.demand.spec_hash if case.demand else record.spec_hash
    return ReplicaState(
        pod=pod.key,
        node=pod.node or record.node,
        resource=record.resource,
        share=record.share,
        ready=pod.ready,
        counts=counts,
        problem=start_problem(pod, case.demand, world.snapshot.now),
        outdated=record.spec_hash != spec_hash or record.render_version != world.policy.render_version,
    )


def _of_engine(
    whole: ReplicaState, index: int, report: EngineReport | None, pod: PodView, now: datetime
) -> ReplicaState:
    if report is None:
        return _unheard(whole, index, pod, now)
    ready = whole.ready and report.state is EngineState.READY
    return replace(
        whole,
        engine=index,
        ready=ready,
        problem=None if ready else _engine_problem(whole, report),
        attached=None if report.attached and report.state not in _HAS_PROCESS else report.attached,
        attached_message=report.attached_message,
        device_bytes=report.device_bytes,
    )


def _unheard(whole: ReplicaState, index: int, pod: PodView, now: datetime) -> ReplicaState:
    """An engine of which nobody says anything: a Ready pod has one that answers, and the first stands for it.

    A supervisor that stays silent is told by no scaling, and nobody has seen its limits: that is said of every engine.
    """
    assert pod.record is not None and pod.record.pack is not None  # noqa: S101, PT018 - it is a pack
    if not whole.ready:
        return replace(whole, engine=index)
    first = index == pod.record.pack.running[0]
    problem = Problem(reason=Reason.STARTING, message=f"the pack's supervisor has not said how engine {index} is")
    if pod.ready_since is not None and now - pod.ready_since >= _TIME_TO_ANSWER:
        message = (
            f"the pack's supervisor does not answer the operator, so nobody knows how engine {index} is, and none is "
            f"started or stopped; what runs serves on. Let the operator reach port {CONTROL_PORT} of the pod (a "
            "NetworkPolicy? an operator outside of the cluster needs --pod-proxy)"
        )
        problem = Problem(reason=Reason.SUPERVISOR_UNREACHABLE, message=message)
    elif first:
        return replace(whole, engine=index)
    return replace(whole, engine=index, ready=first, problem=problem)


def _engine_problem(whole: ReplicaState, report: EngineReport) -> Problem | None:
    words = " ".join(part for part in (report.reason, report.message) if part)
    if report.attached is False:
        message = f"engine {report.index} is outside the MPS limit: {report.attached_message or words}"
        return Problem(reason=Reason.NOT_ATTACHED, message=message)
    if report.state not in _GOES_ON and report.state is not EngineState.READY:
        times = f", restarted {report.restarts} times" if report.restarts else ""
        return Problem(reason=Reason.ENGINE_FAILED, message=f"{words or 'no message'}{times}")
    if not whole.ready:
        return whole.problem
    return Problem(reason=Reason.STARTING, message=f"engine {report.index} is {report.state.value}")
