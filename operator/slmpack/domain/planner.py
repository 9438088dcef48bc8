"""The straight line: spec -> footprint -> room -> packing -> plan. Read this first.

`plan_cluster` is one pure function over a snapshot. Planning an unchanged world gives no actions, and the order of the
snapshot's tuples never matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from slmpack.domain.account import Decided, account_for
from slmpack.domain.board import Candidate, Want
from slmpack.domain.case import Case, World, open_cases
from slmpack.domain.inventory import where
from slmpack.domain.pack import PackRecord
from slmpack.domain.packing import Packed, Packing, pack
from slmpack.domain.pending import Asked, NewPod, ask_for_nodes
from slmpack.domain.picture import draw_bars
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, DeploymentPlan, Placement, SetEngines
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.rollout import Missing, lowest_free_ordinals, retire
from slmpack.domain.seats import replicas_of, sets
from slmpack.domain.sharing import MpsPack, describe_share, replicas_in, starts_alone
from slmpack.domain.sizing import Need
from slmpack.domain.snapshot import Demand, Key, PodView, Policy, ReplicaRecord, Snapshot
from slmpack.domain.turns import Turns
from slmpack.domain.workload import Objective

__all__ = ["plan_cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queued:
    """A missing replica in D4b's order."""

    want: Want
    case: Case
    demand: Demand
    order: _Order


_Order = tuple[bool, int, int, datetime, Key]
"""A rollout's extra replica after all that are missing; then D4b: priority, nth replica, creation, namespace/name."""


def plan_cluster(snapshot: Snapshot, policy: Policy) -> ClusterPlan:
    """Decide everything for every SLMDeployment at once: packing is a question to the whole cluster."""
    world = World.read(snapshot, policy)
    cases = open_cases(world)
    queue = _order(cases)
    rooms = {case.view.key: case.room for case in cases if case.room is not None}
    packing = pack([queued.want for queued in queue], rooms, world.nodes, snapshot.pods, policy)
    replaced = _one_old_first(cases, queue, packing)
    ending = [d for case in cases if case.book for d in case.book.deletes] + list(replaced.values())
    asked = ask_for_nodes(cases, packing, world, ending={d.uid for d in ending})
    ending += [d for one in asked.values() for d in one.withdrawn]
    ends = tuple(e for case in cases if case.book for e in case.book.ends)
    gone = {d.uid for d in ending}
    told = tuple(s for case in cases for s in _told(case) if s.uid not in gone)
    turns = Turns(pods=snapshot.pods, ending=gone | {e.uid for e in ends})
    deletes = tuple(d for d in ending if turns.may_end(d))
    decided = _take_turns(cases, queue, packing, asked, turns, world)
    plans = tuple(
        account_for(case, decided[case.view.key], world, replaced=case.view.key in replaced) for case in cases
    )
    return ClusterPlan(
        deployments=plans,
        actions=(*ends, *deletes, *told, *_in_order(queue, plans)),
        bars=draw_bars(world.nodes, snapshot.pods, plans, ending={d.uid for d in deletes} | {e.uid for e in ends}),
        next_wake_seconds=_next_wake(cases, world),
    )


def _told(case: Case) -> tuple[SetEngines, ...]:
    """Packs whose supervisors have to be told which engines run: of what is frozen, those that its pods record."""
    if case.book is not None:
        return case.book.sets
    pods = [pod for pod in case.pods if not (pod.finished or pod.deleting or pod.ended or case.view.deleting)]
    return sets(pods, pods, rolled=())


def _order(cases: Sequence[Case]) -> tuple[_Queued, ...]:
    """Who gets room first."""
    queue: list[tuple[_Order, Case, Demand, Need]] = []
    for case in cases:
        if case.book is None or case.need is None or case.demand is None:
            continue
        for offset in range(len(case.book.missing)):
            order = _rank(case, case.demand, nth=case.book.replicas + offset, surge=case.book.surge)
            queue.append((order, case, case.demand, case.need))
    queue.sort(key=lambda entry: entry[0])
    return tuple(
        _Queued(
            want=Want(
                id=n,
                deployment=case.view.key,
                need=need,
                surge=case.book is not None and case.book.surge,
                apart=demand.objective is Objective.LATENCY,
                frugal=demand.objective is Objective.ENERGY,
                together=len(case.book.missing) if case.book is not None else 1,
            ),
            case=case,
            demand=demand,
            order=order,
        )
        for n, (order, case, demand, need) in enumerate(queue)
    )


def _rank(case: Case, demand: Demand, *, nth: int, surge: bool) -> _Order:
    return surge, -demand.priority, nth, case.view.created, case.view.key


def _one_old_first(cases: Sequence[Case], queue: Sequence[_Queued], packing: Packing) -> dict[Key, DeletePod]:
    """Rollouts without room for one more: the old pod whose end gives the new one a place, and only then."""
    result: dict[Key, DeletePod] = {}
    unplaced = {q.want.deployment: q for q in reversed(queue) if packing.packed[q.want.id].candidate is None}
    placed = {q.want.deployment for q in queue if packing.packed[q.want.id].candidate is not None}
    for case in cases:
        blocked = unplaced.get(case.view.key)
        if case.book is None or not case.book.rolling or case.book.deletes or blocked is None:
            continue
        if case.view.key in placed:
            continue  # the next one has room already
        order = _rank(case, blocked.demand, nth=case.book.replicas - 1, surge=False)
        first = [q.want for q in unplaced.values() if q.order < order and q is not blocked]
        spots: set[tuple[str | None, str]] = set()
        for victim in sorted(case.book.old, key=lambda p: (p.ready, replicas_of([p]), -_ordinal(p))):
            spot = (where(victim), victim.record.resource if victim.record else "")
            if spot not in spots and packing.board.would_inherit(victim, blocked.want, before=first):
                result[case.view.key] = retire(victim, Reason.ROLLOUT)
                break
            spots.add(spot)
    return result


def _take_turns(  # noqa: PLR0913, PLR0917 - a step of the line
    cases: Sequence[Case],
    queue: Sequence[_Queued],
    packing: Packing,
    asked: Mapping[Key, Asked],
    turns: Turns,
    world: World,
) -> dict[Key, Decided]:
    """Sort what has room into what starts now and what waits; what is asked of node autoscalers comes last."""
    names = {str(key) for key in (*(pod.key for pod in world.snapshot.pods), *world.snapshot.names)}
    books = {case.view.key: case.book for case in cases if case.book}
    missing = {key: iter(book.missing) for key, book in books.items()}
    ordinals = {key: iter(lowest_free_ordinals(key, names, count=len(book.missing))) for key, book in books.items()}
    creates: dict[Key, list[CreatePod]] = {case.view.key: [] for case in cases}
    waiting: dict[Key, list[tuple[Placement, Problem]]] = {case.view.key: [] for case in cases}
    placed = [(q, p.candidate) for q, p in zip(queue, packing.packed, strict=True) if p.candidate is not None]
    joined = [pair for pair in placed if packing.board.joined(pair[0].want)]
    floating = _floating(asked, world.snapshot.pods)
    # a pod follows one that failed, whatever the number of its engines
    starts = [(next(missing[q.want.deployment]), q, c) for q, c in placed if not packing.board.joined(q.want)]
    for follows, queued, candidate in sorted(starts, key=lambda start: start[0].attempt):  # see turns
        key, placement = queued.want.deployment, Placement(node=candidate.node, share=candidate.share)
        wait = (
            _back_off(follows, world.snapshot.now)
            or _withdrawn(asked.get(key), floating.get((candidate.offer.resource, describe_share(candidate.share))))
            or turns.take(placement)
        )
        if wait is None:
            creates[key].append(_create(queued, follows, candidate, next(ordinals[key]), world.policy))
        else:
            waiting[key].append((placement, wait))
    # packs are opened before they are joined: a replica that stepped aside may have joined one of a later replica
    for queued, candidate in joined:
        key, placement = queued.want.deployment, Placement(node=candidate.node, share=candidate.share)
        if not _join(creates[key], placement):
            waiting[key].append((placement, _why_it_waits(waiting[key], placement)))
    first = {q.want.deployment: q for q in reversed(queue)}
    for key, pod in ((key, pod) for key, one in asked.items() for pod in one.new):
        follows = next(missing[key])
        if _back_off(follows, world.snapshot.now) is None:
            creates[key].append(_ask_for(first[key], follows, pod, next(ordinals[key]), world.policy))
    unplaced = _unplaced(cases, packing)
    return {
        key: Decided(
            creates=tuple(creates[key]),
            waiting=tuple(waiting[key]),
            unplaced=tuple(unplaced[key]),
            asked=asked.get(key, Asked()),
        )
        for key in creates
    }


def _unplaced(cases: Sequence[Case], packing: Packing) -> dict[Key, list[Packed]]:
    """What found no room, by SLMDeployment."""
    found: dict[Key, list[Packed]] = {case.view.key: [] for case in cases}
    for packed in packing.packed:
        if packed.candidate is None:
            found[packed.want.deployment].append(packed)
    return found


def _join(creates: list[CreatePod], placement: Placement) -> bool:
    """Let one more engine of a planned pack run; False where the pack itself has to wait."""
    for at, create in enumerate(creates):
        pack = create.record.pack
        if create.placement == placement and pack is not None and len(pack.running) < pack.engines:
            grown = replace(pack, running=(*pack.running, len(pack.running)))
            creates[at] = replace(create, record=replace(create.record, pack=grown))
            return True
    return False


def _why_it_waits(waiting: Sequence[tuple[Placement, Problem]], placement: Placement) -> Problem:
    """Why the pack that a replica is to join does not start now."""
    return next(problem for at, problem in waiting if at == placement)


def _back_off(missing: Missing, now: datetime) -> Problem | None:
    if missing.not_before is None or missing.not_before <= now:
        return None
    # a moment, not a countdown: an unchanged world has an unchanged status
    message = f"{missing.replaces} failed; attempt {missing.attempt} starts at {missing.not_before:%H:%M:%S %Z}"
    return Problem(reason=Reason.BACK_OFF, message=message)


def _withdrawn(asked: Asked | None, floating: str | None) -> Problem | None:
    """Who has to go first: a pod that waits for a node may be bound at any moment, and take this very share."""
    own = asked.withdrawn[0].pod.name if asked is not None and asked.withdrawn else None
    name = own or floating
    if name is None:
        return None
    return Problem(reason=Reason.WAITING_FOR_START, message=f"{name}, which waited for a node to come, goes first")


def _floating(asked: Mapping[Key, Asked], pods: Sequence[PodView]) -> dict[tuple[str, str], str]:
    """Pods that are withdrawn, and may be bound first, by resource and share."""
    gone = {delete.uid for one in asked.values() for delete in one.withdrawn}
    records = ((str(pod.key), pod.record) for pod in pods if pod.uid in gone)
    return {(record.resource, record.share): name for name, record in records if record is not None}


def _ask_for(queued: _Queued, follows: Missing, pod: NewPod, ordinal: int, policy: Policy) -> CreatePod:
    """A pod like any other, but for its node."""
    like = _create(queued, follows, pod.candidate, ordinal, policy)
    pack = like.record.pack and replace(like.record.pack, running=tuple(range(pod.running)))
    return replace(
        like,
        placement=replace(like.placement, node="", pins=pod.pins, terms=policy.node_terms),
        record=replace(like.record, node="", pins=pod.pins, pack=pack),
    )


def _create(queued: _Queued, follows: Missing, candidate: Candidate, ordinal: int, policy: Policy) -> CreatePod:
    view, share = queued.case.view, candidate.share
    record = ReplicaRecord(
        deployment=view.key,
        owner_uid=view.uid,
        ordinal=ordinal,
        spec_hash=queued.demand.spec_hash,
        render_version=policy.render_version,
        node=candidate.node,
        resource=candidate.offer.resource,
        share=describe_share(share),
        starts_alone=starts_alone(share),
        footprint=candidate.fit.need.footprint,
        max_model_len=candidate.fit.need.max_model_len,
        max_num_seqs=candidate.fit.need.max_num_seqs,
        attempt=follows.attempt,
        replaces=follows.replaces,
        pack=PackRecord(engines=replicas_in(share), running=(0,)) if isinstance(share, MpsPack) else None,
    )
    return CreatePod(
        deployment=view,
        demand=queued.demand,
        name=f"{view.key.name}-{ordinal}",
        placement=Placement(node=candidate.node, share=share),
        settings=candidate.fit.settings,
        record=record,
    )


def _in_order(queue: Sequence[_Queued], plans: Sequence[DeploymentPlan]) -> tuple[CreatePod, ...]:
    """Creates in D4b's order, so that a failing API server leaves the right ones made."""
    queues = {plan.deployment.key: list(plan.creates) for plan in plans}
    return tuple(queues[q.want.deployment].pop(0) for q in queue if queues[q.want.deployment])


def _next_wake(cases: Sequence[Case], world: World) -> float | None:
    """Seconds until time alone changes the plan: a budget, a back-off or a grave's term runs out."""
    now, policy = world.snapshot.now, world.policy
    moments: list[datetime] = []
    for case in cases:
        if case.demand is None or case.book is None:
            continue
        moments.extend(missing.not_before for missing in case.book.missing if missing.not_before is not None)
        for pod in case.book.live:
            if not pod.was_ready:
                budget = case.demand.startup_budget if pod.node is not None else policy.schedule_budget
                moments.append(pod.begun + budget)
            elif pod.ready_since is not None and case.book.graves:
                moments.append(pod.ready_since + policy.failed_kept_for)
    future = [(moment - now).total_seconds() for moment in moments if moment > now]
    return min(future, default=None)


def _ordinal(pod: PodView) -> int:
    return pod.record.ordinal if pod.record is not None else 0
