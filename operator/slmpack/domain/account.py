"""The account of one SLMDeployment: its replicas judged, what has no room and why, how far its rollout has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slmpack.domain.board import Board, Candidate, Want
from slmpack.domain.case import Case, World
from slmpack.domain.choice import Choice
from slmpack.domain.inventory import where
from slmpack.domain.packing import Packed, candidates_for, unhindered
from slmpack.domain.plan import (
    CreatePod,
    DeletePod,
    DeploymentPlan,
    Placement,
    ReplicaState,
    RolloutState,
    Unplaced,
    UsedFit,
)
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.rollout import start_problem
from slmpack.domain.sharing import describe_share
from slmpack.domain.sizing import need_bytes
from slmpack.domain.snapshot import Demand, PodView

__all__ = ["Decided", "account_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What packing and turns decided for one SLMDeployment."""

    creates: tuple[CreatePod, ...]
    waiting: tuple[tuple[Placement, Problem], ...]
    unplaced: tuple[Packed, ...]
    replaced: DeletePod | None
    """The old pod that makes room for a rollout's next one."""


def account_for(case: Case, decided: Decided, world: World) -> DeploymentPlan:
    """Everything about one SLMDeployment, in one value."""
    creates, unplaced = decided.creates, decided.unplaced
    book = case.book
    used = [c for c in (case.room.candidates if case.room else ()) if _in_use(c, case, creates)]
    fits = _fits(used or (case.room.candidates[:1] if case.room else ()), world)
    need = fits[0].fit.need if fits else case.need
    surging, rolling = book is not None and book.surge, book is not None and book.rolling
    leaving = [pod.key.name for pod in case.pods if not pod.finished and (pod.deleting or pod.ended)]
    grouped = () if surging else _group(unplaced[len(leaving) :])
    busy = leaving or creates or decided.waiting or decided.replaced is not None
    blocked = unplaced if rolling and not busy else ()
    short = bool(grouped or blocked)
    return DeploymentPlan(
        deployment=case.view,
        footprint=need.footprint if need else None,
        max_model_len=need.max_model_len if need else None,
        kv_tokens=need.kv_tokens if need else 0,
        needed_bytes=need_bytes(need) if need else 0,
        per_gpu=_per_gpu(used[0]) if used else 0,
        fits=fits,
        states=tuple(_state(pod, case, world) for pod in case.pods),
        creates=creates,
        waiting=decided.waiting,
        leaving=tuple(leaving),
        unplaced=grouped,
        rollout=_rollout(case, blocked=blocked),
        problems=case.problems,
        never=any(_never(packed.want, case.demand, world) for packed in unplaced[:1] if short and case.demand),
    )


def _group(unplaced: Sequence[Packed]) -> tuple[Unplaced, ...]:
    counts = Counter(packed.problem for packed in unplaced if packed.problem is not None)
    return tuple(Unplaced(count=count, problem=problem) for problem, count in counts.items())


def _state(pod: PodView, case: Case, world: World) -> ReplicaState:
    record = pod.record
    assert record is not None  # noqa: S101 - a case holds our own pods only
    spec_hash = case.demand.spec_hash if case.demand else record.spec_hash
    live = {p.uid for p in case.book.live} if case.book else set()
    return ReplicaState(
        pod=pod.key,
        node=pod.node or record.node,
        resource=record.resource,
        share=record.share,
        ready=pod.ready,
        counts=pod.uid in live if case.book else not (pod.finished or pod.deleting or pod.ended),
        problem=start_problem(pod, case.demand, world.snapshot.now),
        outdated=record.spec_hash != spec_hash or record.render_version != world.policy.render_version,
    )


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
        product, share = products[candidate.node], describe_share(candidate.offer.share)
        found.setdefault((product, share), UsedFit(product=product, share=share, fit=candidate.fit))
    return tuple(found.values())


def _in_use(candidate: Candidate, case: Case, creates: Sequence[CreatePod]) -> bool:
    spot = (candidate.node, candidate.offer.resource)
    return any((create.placement.node, create.record.resource) == spot for create in creates) or any(
        (where(pod), pod.record.resource) == spot for pod in case.pods if pod.record is not None
    )


def _per_gpu(candidate: Candidate) -> int:
    """Replicas of this deployment that fit and pay on one GPU of the offer."""
    units, choice = candidate.offer.per_gpu, candidate.fit.choice
    if candidate.cap is not None:
        return min(units, candidate.cap.replicas // candidate.offer.gpus)
    return choice.replicas_per_gpu if isinstance(choice, Choice) else units


def _never(want: Want, demand: Demand, world: World) -> bool:
    """Whether even the empty cluster, every node uncordoned, Ready and advertising, would leave replicas unplaced."""
    wants = [replace(want, id=n) for n in range(demand.replicas)]
    nodes = tuple(unhindered(node) for node in world.nodes)
    room = candidates_for(demand, want.need, nodes, world.policy)
    if any(problem.reason is Reason.NOT_ADVERTISED for problem in room.rejections):
        return False  # a device plugin that restarts advertises nothing for a while
    board = Board(rooms={want.deployment: room}, nodes=nodes, pods=())
    return not all(board.place(want) for want in wants)
