"""The account of one SLMDeployment: its replicas judged, what has no room and why, how far its rollout has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from slmpack.domain.board import Board, Candidate, Room, Want
from slmpack.domain.case import Case, World
from slmpack.domain.choice import Choice
from slmpack.domain.inventory import where
from slmpack.domain.packing import Packed, candidates_for, unhindered
from slmpack.domain.pending import Asked
from slmpack.domain.plan import (
    CreatePod,
    DeploymentPlan,
    Placement,
    RolloutState,
    Unplaced,
    UsedFit,
)
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.replica_states import states_of
from slmpack.domain.seats import replicas_of
from slmpack.domain.sharing import describe_share, kind_of, replicas_in
from slmpack.domain.sizing import need_bytes
from slmpack.domain.snapshot import Demand
from slmpack.domain.wording import number_of

__all__ = ["Decided", "account_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What packing and turns decided for one SLMDeployment."""

    creates: tuple[CreatePod, ...]
    waiting: tuple[tuple[Placement, Problem], ...]
    unplaced: tuple[Packed, ...]
    asked: Asked = field(default_factory=Asked)


def account_for(case: Case, decided: Decided, world: World, *, replaced: bool) -> DeploymentPlan:
    """Everything about one SLMDeployment, in one value.

    `replaced` says whether one of its old pods makes room for a rollout's next one.
    """
    creates, unplaced = decided.creates, decided.unplaced
    book = case.book
    used = [c for c in (case.room.candidates if case.room else ()) if _in_use(c, case, creates)]
    fits = _fits(used or (case.room.candidates[:1] if case.room else ()), world)
    need = fits[0].fit.need if fits else case.need
    surging, rolling = book is not None and book.surge, book is not None and book.rolling
    leaving = [pod for pod in case.pods if not pod.finished and (pod.deleting or pod.ended)]
    grouped = () if surging else _group(unplaced[replicas_of(leaving) :])
    busy = leaving or creates or decided.waiting or replaced
    blocked = unplaced if rolling and not busy else ()
    short = bool(grouped or blocked)
    pending = _pending(decided)
    return DeploymentPlan(
        deployment=case.view,
        footprint=need.footprint if need else None,
        max_model_len=need.max_model_len if need else None,
        kv_tokens=need.kv_tokens if need else 0,
        needed_bytes=need_bytes(need) if need else 0,
        least_bytes=need_bytes(case.need) if case.need else 0,
        per_gpu=_per_gpu(used[0]) if used else 0,
        fits=fits,
        states=tuple(state for pod in case.pods for state in states_of(pod, case, world)),
        creates=creates,
        waiting=decided.waiting,
        leaving=tuple(pod.key.name for pod in leaving),
        unplaced=_with_note(grouped, pending, decided.asked.problem, unread=world.snapshot.unread),
        pending=pending,
        rollout=_rollout(case, blocked=blocked),
        problems=case.problems,
        scale=case.scale,
        never=not pending
        and any(_never(packed.want, case.demand, world) for packed in unplaced[:1] if short and case.demand),
    )


def _group(unplaced: Sequence[Packed]) -> tuple[Unplaced, ...]:
    counts = Counter(packed.problem for packed in unplaced if packed.problem is not None)
    return tuple(Unplaced(count=count, problem=problem) for problem, count in counts.items())


def _pending(decided: Decided) -> tuple[str, ...]:
    """Pods that wait for a node after this plan."""
    made = (create.name for create in decided.creates if create.placement.pins is not None)
    return (*(pod.key.name for pod in decided.asked.kept), *made)


def _with_note(
    grouped: Sequence[Unplaced], pending: Sequence[str], problem: str, *, unread: Sequence[str]
) -> tuple[Unplaced, ...]:
    """What of it waits for a node to come, or why nothing does, and which nodes were not looked at."""
    waits = f"{', '.join(pending)} {'waits' if len(pending) == 1 else 'wait'} for a node to come" if pending else ""
    note = "; ".join(part for part in (waits, problem, _left_out(unread)) if part)
    return tuple(
        replace(one, problem=replace(one.problem, message=f"{one.problem.message}; {note}")) if note else one
        for one in grouped
    )


def _left_out(unread: Sequence[str]) -> str:
    if not unread:
        return ""
    more = f" (and {number_of(len(unread) - 1, 'more node')})" if len(unread) > 1 else ""
    return f"left out, as it cannot be read: {unread[0]}{more}"


def _rollout(case: Case, *, blocked: Sequence[Packed]) -> RolloutState:
    if case.book is None:
        return RolloutState(problem=Problem(reason=Reason.FROZEN, message="what runs is left as it is"), updated=0)
    state = case.book.rollout
    if not blocked or blocked[0].problem is None:
        return state
    why = f"{state.problem.message}; the next has no room: {blocked[0].problem.message}"
    return RolloutState(problem=Problem(reason=Reason.ROLLOUT_BLOCKED, message=why), updated=state.updated)


def _fits(candidates: Sequence[Candidate], world: World) -> tuple[UsedFit, ...]:
    """One for each kind of GPU and share."""
    products = {node.name: node.product for node in world.nodes}
    found: dict[tuple[str, str], UsedFit] = {}
    for candidate in candidates:
        product, share = products[candidate.node], describe_share(candidate.share)
        found.setdefault((product, share), UsedFit(product=product, share=share, fit=candidate.fit))
    return tuple(found.values())


def _in_use(candidate: Candidate, case: Case, creates: Sequence[CreatePod]) -> bool:
    """Whether replicas are there, or come there, with a share of this kind."""
    spot = (candidate.node, candidate.offer.resource, kind_of(describe_share(candidate.share)))
    records = [(create.record.node, create.record) for create in creates]
    records += [(where(pod) or "", pod.record) for pod in case.pods if pod.record is not None]
    return any((node, record.resource, kind_of(record.share)) == spot for node, record in records)


def _per_gpu(candidate: Candidate) -> int:
    """Replicas of this deployment that fit and pay on one GPU of the offer."""
    units, choice = candidate.offer.per_gpu * replicas_in(candidate.share), candidate.fit.choice
    if candidate.cap is not None:
        return min(units, candidate.cap.replicas // candidate.offer.gpus)
    return choice.replicas_per_gpu if isinstance(choice, Choice) else units


def _never(want: Want, demand: Demand, world: World) -> bool:
    """Whether even the empty cluster, every node uncordoned, Ready and advertising, would leave replicas unplaced."""
    nodes = tuple(unhindered(node) for node in world.nodes)
    room = candidates_for(demand, want.need, nodes, world.policy)
    if any(problem.reason is Reason.NOT_ADVERTISED for problem in room.rejections):
        return False  # a device plugin that restarts advertises nothing for a while
    by_node: dict[str, list[Candidate]] = {}
    for candidate in room.candidates:
        by_node.setdefault(candidate.node, []).append(candidate)
    left = [replace(want, id=n) for n in range(demand.replicas)]
    for node in (n for n in nodes if n.name in by_node):  # they are alike: far fewer steps than cluster-wide
        here = Room(candidates=tuple(by_node[node.name]), rejections=())
        board = Board(rooms={want.deployment: here}, nodes=(node,), pods=())
        left = left[sum(1 for _ in takewhile(board.place, left)) :]
    return bool(left)
