"""One deployment's pods against what is wanted: which count, which end and why, how many are missing.

Nothing here knows about room. A replica that was Ready once ends only for a reason of D4a's closed list; one that never
was may also end because its time ran out. A failed pod (a *grave*) keeps its name and log, holds no share, and carries
the attempt count until its successor has been Ready for a while.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from slmpack.domain.plan import DeletePod, EndPod, RolloutState, SetEngines
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.seats import replicas_of, seat, sets
from slmpack.domain.snapshot import Demand, Key, PodPhase, PodView, Policy
from slmpack.domain.victims import Crowds, delete_pod, hash_of, ordinal_of, retire, shrink

__all__ = ["Book", "Missing", "keep_book", "lowest_free_ordinals", "retire", "start_problem"]


CORE_FAILED = "Engine core initialization failed"
"""How vLLM's log ends when it cannot start: the cause is above what a termination message holds (seen on 0.32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A replica that is wanted and has no pod yet."""

    attempt: int
    replaces: str
    """Name of the grave it follows, or empty."""
    not_before: datetime | None
    """When its back-off ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A deployment's pods, sorted."""

    updated: tuple[PodView, ...]
    """Live pods of the present spec."""
    old: tuple[PodView, ...]
    """Live pods of an earlier spec."""
    graves: tuple[PodView, ...]
    pending: tuple[PodView, ...]
    """Pods that wait for a node to come, of any spec; the replicas that they are for are missing all the same."""
    wanted: int
    """Replicas that have no place among the live pods, whether or not they may be tried now."""
    deletes: tuple[DeletePod, ...]
    ends: tuple[EndPod, ...]
    sets: tuple[SetEngines, ...]
    """Packs whose supervisors have to be told which engines run."""
    missing: tuple[Missing, ...]
    surge: bool
    """The one missing replica is a rollout's: one more than `replicas`, for as long as it starts."""
    rolling: bool
    """A rollout may take its next step: where the missing replica has no room, one old pod goes first."""
    rollout: RolloutState

    @property
    def live(self) -> tuple[PodView, ...]:
        """The pods that count as replicas, packs with the engines that are to run."""
        return (*self.updated, *self.old)

    @property
    def replicas(self) -> int:
        """How many replicas they are."""
        return replicas_of(self.live)


def keep_book(  # noqa: PLR0913 - what a book is kept from
    demand: Demand,
    pods: Sequence[PodView],
    policy: Policy,
    *,
    now: datetime,
    refused: Problem | None = None,
    crowds: Crowds | None = None,
) -> Book:
    """Sort `pods` (all of one deployment) and decide what ends and what is missing, before any question of room.

    `refused` is why none of its pods is to be tried now; `crowds` are the nodes whose GPUs are shared.
    """
    ours = sorted(pods, key=ordinal_of)
    found = _sort(demand, ours, policy, now)
    live, graves, dying, unbound = found.live, found.graves, found.dying, found.unbound
    updated = [p for p in live if hash_of(p) == demand.spec_hash]
    old = [p for p in live if hash_of(p) != demand.spec_hash and replicas_of([p])]
    deletes = [_delete_expired(p) for p in unbound]
    stopped = _stopped(demand, graves, old, policy) or _refused(refused, old)
    starting = any(p.ready_replicas < replicas_of([p]) for p in updated)
    surplus = replicas_of(live) - demand.replicas - (1 if old and starting else 0)
    shrunk = shrink(demand, updated, old, surplus, crowds=crowds or {})
    deletes.extend(shrunk.deletes)
    updated, old = shrunk.updated, shrunk.old
    deletes.extend(_clear_graves(demand, graves, [*live, *dying, *found.pending], policy, now))
    kept_graves = [g for g in graves if g.uid not in {d.uid for d in deletes}]
    short = 0 if stopped else demand.replicas - replicas_of([*updated, *old, *dying, *unbound])
    leaving = any(p.deleting and not p.finished for p in ours)  # its share may be just the one for the next
    rolling = bool(old) and not (starting or dying or unbound or leaving or stopped)
    surge = rolling and short <= 0
    wanted = max(0, short) + surge
    updated, seated = seat(updated, wanted, most=demand.max_per_gpu)
    deletes.extend(_unused(demand, live, updated))
    return Book(
        updated=tuple(updated),
        old=tuple(old),
        graves=graves,
        pending=found.pending,
        wanted=wanted - seated,
        deletes=tuple(deletes),
        ends=found.ends,
        sets=sets(ours, (*updated, *old), rolled=shrunk.rolled),
        missing=_missing(
            demand, 0 if refused else wanted - seated, kept_graves, [*live, *dying, *found.pending], policy
        ),
        surge=surge,
        rolling=rolling,
        rollout=_rollout_state(demand, updated, old, stopped),
    )


def _unused(demand: Demand, live: Sequence[PodView], updated: Sequence[PodView]) -> list[DeletePod]:
    """Packs without an engine that is to run hold a GPU for nothing; only a hand leaves one so."""
    old = (pod for pod in live if hash_of(pod) != demand.spec_hash)
    return [retire(pod, Reason.SCALED_DOWN) for pod in (*updated, *old) if not replicas_of([pod])]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    """A deployment's pods by what becomes of them."""

    live: list[PodView]
    graves: tuple[PodView, ...]
    dying: list[PodView]
    """They fail now, or soon."""
    unbound: list[PodView]
    """The scheduler had its time: they are made again after a back-off, so that others get their turn."""
    pending: tuple[PodView, ...]
    ends: tuple[EndPod, ...]


def _sort(demand: Demand, ours: Sequence[PodView], policy: Policy, now: datetime) -> _Sorted:
    ends, expired = _end_late_starts(demand, ours, policy, now)
    gone = {pod.uid for pod in expired}
    going = [p for p in ours if not p.finished and not p.deleting]
    return _Sorted(
        live=[p for p in going if not p.ended and p.uid not in gone and not p.awaits_node],
        graves=tuple(p for p in ours if p.finished and not p.deleting),
        dying=[p for p in going if p.ended or (p.uid in gone and p.node is not None)],
        unbound=[p for p in expired if p.node is None],
        pending=tuple(p for p in going if p.awaits_node),
        ends=tuple(ends),
    )


def start_problem(pod: PodView, demand: Demand | None, now: datetime) -> Problem | None:
    """What keeps a pod from being Ready, in words for people; None if it is Ready. The cause outranks the symptom."""
    if pod.ready:
        return None
    if pod.ended:
        return Problem(
            reason=Reason.NOT_READY_IN_TIME, message=f"it was ended: {pod.ended}. {_last_words(pod)}".strip()
        )
    known = {
        "OOMKilled": Reason.OOM_KILLED,
        "Evicted": Reason.EVICTED,
        "ImagePullBackOff": Reason.IMAGE_PULL,
        "ErrImagePull": Reason.IMAGE_PULL,
        "InvalidImageName": Reason.IMAGE_PULL,
        "CrashLoopBackOff": Reason.CRASH_LOOP,
        "NodeLost": Reason.NODE_LOST,
    }
    if pod.reason in known:
        return Problem(reason=known[pod.reason], message=_last_words(pod))
    if pod.finished:
        return Problem(reason=Reason.POD_FAILED, message=_last_words(pod))
    if pod.phase is PodPhase.UNKNOWN:
        return Problem(reason=Reason.NODE_LOST, message=f"node {pod.node} does not answer")
    if pod.awaits_node:
        says = f"; the scheduler says: {pod.unschedulable}" if pod.unschedulable else ""
        message = f"it waits for a node to come (spec.sharing.whenFull: Pending){says}"
        return Problem(reason=Reason.UNSCHEDULABLE, message=message)
    if pod.node is None and pod.unschedulable:
        return Problem(reason=Reason.UNSCHEDULABLE, message=pod.unschedulable)
    if pod.restarts:
        message = f"restarted {pod.restarts} times. {_last_words(pod)}".strip()
        return Problem(reason=Reason.CRASH_LOOP, message=message)
    budget = f" of at most {demand.startup_budget.total_seconds():.0f} s" if demand else ""
    age = (now - pod.begun).total_seconds()
    state = "not Ready any more" if pod.was_ready else f"starting for {age:.0f} s{budget}"
    return Problem(reason=Reason.STARTING, message=state)


def lowest_free_ordinals(deployment: Key, names: Collection[str], *, count: int) -> tuple[int, ...]:
    """The lowest ordinals whose `namespace/name` no existing pod holds, whoever's it is and however it ends."""
    return tuple(n for n in range(len(names) + count) if f"{deployment}-{n}" not in names)[:count]


def _end_late_starts(
    demand: Demand, pods: Sequence[PodView], policy: Policy, now: datetime
) -> tuple[list[EndPod], list[PodView]]:
    ends: list[EndPod] = []
    expired: list[PodView] = []
    for pod in pods:
        if pod.was_ready or pod.finished or pod.deleting or pod.ended or pod.awaits_node or pod.record is None:
            continue
        budget = demand.startup_budget if pod.node is not None else policy.schedule_budget
        if now - pod.begun < budget or (pod.node is None and not pod.unschedulable):
            continue
        expired.append(pod)
        if pod.node is not None:
            message = (
                f"not Ready within {demand.startup_budget.total_seconds():.0f} s (spec.engine.startupTimeoutSeconds)"
            )
            problem = Problem(
                reason=Reason.NOT_READY_IN_TIME, message=message, field="spec.engine.startupTimeoutSeconds"
            )
            ends.append(EndPod(pod=pod.key, uid=pod.uid, deployment=pod.record.deployment, problem=problem))
    return ends, expired


def _stopped(demand: Demand, graves: Sequence[PodView], old: Sequence[PodView], policy: Policy) -> Problem | None:
    """A rollout stops where the new spec's replica ran out of time or attempts while old ones still run."""
    if not old:
        return None
    for grave in graves:
        if hash_of(grave) != demand.spec_hash or grave.was_ready or grave.record is None:
            continue
        if grave.ended or grave.record.attempt >= policy.rollout_attempts:
            cause = start_problem(grave, demand, grave.created)
            message = (
                f"pod {grave.key.name} of the new spec did not become Ready ({cause.message if cause else ''}); "
                f"{replicas_of(old)} replicas keep the previous spec. Correct the spec, or apply the previous one to "
                f"go back; to try this one again, delete pod {grave.key.name}"
            )
            return Problem(reason=Reason.ROLLOUT_STOPPED, message=message)
    return None


def _refused(refused: Problem | None, old: Sequence[PodView]) -> Problem | None:
    """A rollout stops as well where nobody takes the new spec's pods."""
    if refused is None or not old:
        return None
    message = (
        f"a pod of the new spec was refused ({refused.message}); {replicas_of(old)} replicas keep the previous spec. "
        "Correct the spec, or apply the previous one to go back; it is tried again by and by"
    )
    return Problem(reason=Reason.ROLLOUT_STOPPED, message=message)


def _rollout_state(
    demand: Demand, updated: Sequence[PodView], old: Sequence[PodView], stopped: Problem | None
) -> RolloutState:
    if stopped is not None:
        problem = stopped
    elif old:
        message = f"{replicas_of(updated)} of {demand.replicas} replicas have the present spec"
        problem = Problem(reason=Reason.ROLLING_OUT, message=message)
    else:
        problem = Problem(reason=Reason.UP_TO_DATE, message="every replica has the present spec")
    return RolloutState(problem=problem, updated=replicas_of(updated))


def _missing(
    demand: Demand, count: int, graves: Sequence[PodView], unfinished: Sequence[PodView], policy: Policy
) -> tuple[Missing, ...]:
    open_graves = [g for g in graves if hash_of(g) == demand.spec_hash and _successor(g, unfinished) is None]
    result = [_after(grave, policy) for grave in open_graves[:count]]
    return (*result, *(Missing(attempt=1, replaces="", not_before=None) for _ in range(count - len(result))))


def _after(grave: PodView, policy: Policy) -> Missing:
    failed_at = grave.finished_at or grave.created
    ran_well = grave.was_ready and failed_at - grave.begun > policy.failed_kept_for
    attempts = 0 if ran_well or grave.record is None else grave.record.attempt
    wait = min(policy.backoff_max, policy.backoff_base * 2 ** min(max(0, attempts - 1), 16))
    return Missing(attempt=attempts + 1, replaces=grave.key.name, not_before=failed_at + wait)


def _clear_graves(
    demand: Demand, graves: Sequence[PodView], unfinished: Sequence[PodView], policy: Policy, now: datetime
) -> list[DeletePod]:
    to_follow = demand.replicas - replicas_of([pod for pod in unfinished if hash_of(pod) == demand.spec_hash])
    deletes: list[DeletePod] = []
    for grave in sorted(graves, key=lambda g: (g.finished_at or g.created, g.key), reverse=True):
        successor = _successor(grave, (*graves, *unfinished))
        if hash_of(grave) != demand.spec_hash:
            why = "it failed under an earlier spec"
        elif successor is not None and successor.finished:
            why = f"{successor.key.name} followed it and failed later"
        elif successor is not None and successor.ready_since and now - successor.ready_since >= policy.failed_kept_for:
            why = f"{successor.key.name} followed it and has been Ready for {_minutes(policy.failed_kept_for)}"
        elif successor is None and to_follow <= 0:
            why = "no replica is missing that could follow it"
        else:
            to_follow -= successor is None
            continue
        deletes.append(delete_pod(grave, Problem(reason=Reason.REPLACED, message=why)))
    return deletes


def _successor(grave: PodView, pods: Sequence[PodView]) -> PodView | None:
    """The pod that was made to follow a grave. Names come back: an older one follows an earlier pod of that name."""
    return next(
        (
            pod
            for pod in pods
            if pod.record is not None and pod.record.replaces == grave.key.name and pod.created >= grave.created
        ),
        None,
    )


def _delete_expired(pod: PodView) -> DeletePod:
    message = f"the scheduler could not bind it: {pod.unschedulable}"
    return delete_pod(pod, Problem(reason=Reason.UNSCHEDULABLE, message=message))


def _last_words(pod: PodView) -> str:
    logs = f"see kubectl logs -n {pod.key.namespace} {pod.key.name}"
    if pod.phase is PodPhase.SUCCEEDED:
        return f"the engine ended by itself (exit code 0), as vLLM does when its core dies; {logs}"
    code = f" (exit code {pod.exit_code})" if pod.exit_code is not None else ""
    text = " ".join(part for part in (pod.reason, pod.message) if part)
    cause = f"; the cause stands further up: {logs}" if CORE_FAILED in pod.message else ""
    return f"{text}{code}{cause}".strip() or f"no message; {logs}"


def _minutes(duration: timedelta) -> str:
    return f"{duration.total_seconds() / 60:.0f} minutes"
