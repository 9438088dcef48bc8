"""The GPUs that a deployment's replicas are on, and those that the next ones would go to, as the packing places them.

Which physical GPU a device plugin's share is on, nobody publishes (D5b): shares are taken to fill up GPU by GPU, as the
packing does. That is an assumption of the estimate; no pod is placed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from slmpack.domain.board import Candidate, Room
from slmpack.domain.capacity import Stack
from slmpack.domain.gpu import GpuModel
from slmpack.domain.inventory import GpuNode, free_on, where
from slmpack.domain.neighbours import Neighbours
from slmpack.domain.prediction import Tenant
from slmpack.domain.profile_use import calibration_for
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.room import make_room
from slmpack.domain.sharing import (
    Exclusive,
    MpsShare,
    Share,
    describe_share,
    limit_bytes,
    replicas_in,
)
from slmpack.domain.site import site_of
from slmpack.domain.sizing import Need, engine_of
from slmpack.domain.snapshot import Demand, Key, PodView, Policy, Snapshot
from slmpack.domain.workload import Objective

__all__ = ["Gpu", "Layout", "read_layout"]

_REMEMBERED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, with the shares of it that are ours and those that may become so."""

    node: str
    stack: Stack | None
    """Of one replica there; None where nobody can say how it runs."""
    rank: tuple[bool, int, float, str, str]
    """The packing's preference among GPUs that are alike in use."""
    ours: int
    ready: int = 0
    """Of ours, those that answer requests."""
    others: int = 0
    """Shares of it that others have."""
    more: int = 0
    """Further replicas of ours that would find a place, and pay."""
    withheld: int = 0
    """Free shares beyond those, on which one more would not pay."""
    seats: bool = False
    """Whether those are idle engines of a pack of ours, which come first."""

    @property
    def in_use(self) -> bool:
        """Whether anything runs there."""
        return self.ours + self.others > 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Replicas over GPUs."""

    gpus: tuple[Gpu, ...]
    apart: bool = False
    """Whether replicas had rather open a GPU than join one (objective Latency)."""
    missing: int = 0
    """Replicas that found no place, or wait for a node to come."""

    @property
    def placed(self) -> int:
        """Replicas that have or would have a place."""
        return sum(gpu.ours for gpu in self.gpus)

    @property
    def replicas(self) -> int:
        """All of them."""
        return self.placed + self.missing

    @property
    def held(self) -> int:
        """GPUs that hold at least one of ours; one for each replica without a place."""
        return sum(gpu.ours > 0 for gpu in self.gpus) + self.missing

    @property
    def ready(self) -> Layout:
        """With those replicas only that answer requests."""
        return replace(self, gpus=tuple(replace(gpu, ours=gpu.ready) for gpu in self.gpus), missing=0)

    @property
    def full(self) -> bool:
        """Whether no share is free of the GPUs that are shared with others, and hold one of ours."""
        shared = [gpu for gpu in self.gpus if gpu.ours and not gpu.seats]
        return bool(shared) and not any(gpu.more + gpu.withheld for gpu in shared)

    @property
    def withheld(self) -> bool:
        """Whether shares are free that would not pay."""
        return any(gpu.withheld for gpu in self.gpus)

    @property
    def used(self) -> tuple[Gpu, ...]:
        """Those with replicas of ours."""
        return tuple(gpu for gpu in self.gpus if gpu.ours)

    def with_replicas(self, count: int) -> Layout:
        """So many replicas: the next ones where the packing puts them, or the fewest per GPU ended first."""
        layout = self
        while layout.replicas < count:
            layout = layout.grown()
        while layout.replicas > count:
            layout = layout.shrunk()
        return layout

    def grown(self) -> Layout:
        """One more."""
        free = [index for index, gpu in enumerate(self.gpus) if gpu.more > 0]
        if not free:
            return replace(self, missing=self.missing + 1)
        best = min(free, key=lambda index: self._preference(self.gpus[index]))
        gpu = self.gpus[best]
        return self._with(best, replace(gpu, ours=gpu.ours + 1, more=gpu.more - 1))

    def shrunk(self) -> Layout:
        """One fewer; at least one replica there."""
        if self.missing:
            return replace(self, missing=self.missing - 1)
        held = [index for index, gpu in enumerate(self.gpus) if gpu.ours]
        least = min(held, key=lambda index: (self.gpus[index].ours, self.gpus[index].others, -index))
        gpu = self.gpus[least]
        return self._with(least, replace(gpu, ours=gpu.ours - 1, more=gpu.more + 1))

    def _with(self, index: int, gpu: Gpu) -> Layout:
        return replace(self, gpus=(*self.gpus[:index], gpu, *self.gpus[index + 1 :]))

    def _preference(self, gpu: Gpu) -> tuple[bool, bool, tuple[bool, int, float, str, str]]:
        return not gpu.seats, gpu.in_use if self.apart else not gpu.in_use, gpu.rank


def read_layout(  # noqa: PLR0913 - what a placement looks at
    demand: Demand,
    room: Room,
    *,
    ours: Sequence[PodView],
    snapshot: Snapshot,
    nodes: Sequence[GpuNode],
    policy: Policy,
    key: Key,
) -> Layout:
    """Where the replicas are that run or start, and where further ones would go.

    `ours` are the pods of `key` that count as replicas, among those of the snapshot.
    """
    by_node: dict[str, list[PodView]] = {}
    for pod in snapshot.pods:
        by_node.setdefault(where(pod) or "", []).append(pod)
    spots: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in room.candidates:
        spots.setdefault((candidate.node, candidate.offer.resource), []).append(candidate)
    known = {node.name: node for node in nodes}
    company = Neighbours(own=key, snapshot=snapshot, policy=policy)
    gpus: list[Gpu] = []
    seen: set[str] = set()
    for (name, resource), candidates in spots.items():
        node, there = known[name], tuple(by_node.get(name, ()))
        mine = [p for p in ours if where(p) == name and p.record is not None and p.record.resource == resource]
        seen.update(pod.uid for pod in mine)
        gpus.extend(_spot(demand, node, candidates, mine, there, company))
    strays = [pod for pod in ours if pod.uid not in seen and not pod.awaits_node]
    gpus.extend(_stray(demand, pod, room, known, policy) for pod in strays)
    to_come = sum(pod.record.replicas for pod in ours if pod.awaits_node and pod.record is not None)
    return Layout(tuple(gpus), apart=demand.objective is Objective.LATENCY, missing=to_come)


def _spot(  # noqa: PLR0913, PLR0917 - a step of the line
    demand: Demand,
    node: GpuNode,
    candidates: Sequence[Candidate],
    mine: Sequence[PodView],
    there: tuple[PodView, ...],
    company: Neighbours,
) -> Iterator[Gpu]:
    """The GPUs behind one resource of a node."""
    policy = company.policy
    best = min(candidates, key=lambda candidate: -replicas_in(candidate.share))
    assert node.gpu is not None  # noqa: S101 - a node whose GPU is unknown offers nothing
    free = free_on(node, there)
    asked = best.fit.need.requests(best.offer.resource, engines=replicas_in(best.share))
    pods_free = max(0, min(free.get(name, 0) // amount for name, amount in asked.items() if amount))
    if isinstance(best.offer.share, Exclusive):
        for pod in mine:
            yield _whole(demand, node.gpu, _made_as(pod, candidates), pod, policy)
        stack = _stack(demand, node.gpu, best.share, best.fit.need, policy)
        for _ in range(pods_free):
            yield Gpu(node=node.name, stack=stack, rank=_rank(best), ours=0, more=_per_gpu(best))
        return
    beside = company.among(there) if isinstance(best.share, MpsShare) else ()
    yield from _shares(
        _stack(demand, node.gpu, best.share, best.fit.need, policy), best, mine, beside, free=free, more=pods_free
    )


def _shares(  # noqa: PLR0913 - a step of the line
    stack: Stack | None,
    best: Candidate,
    mine: Sequence[PodView],
    company: tuple[Tenant, ...],
    *,
    free: dict[str, int],
    more: int,
) -> Iterator[Gpu]:
    """Interchangeable shares of one or several GPUs: ours fill up GPU by GPU, then others'."""
    offer = best.offer
    left, ready = len(mine), sum(pod.ready for pod in mine)
    others = max(0, offer.units - free.get(offer.resource, 0) - left)
    most = _per_gpu(best)
    for _ in range(offer.gpus):
        here = min(most, left)
        left -= here
        answer = min(here, ready)
        ready -= answer
        beside = min(others, offer.per_gpu - here)
        others -= beside
        free_here = max(0, min(more, offer.per_gpu - here - beside))
        room = min(free_here, most - here)
        more -= room
        here_too, company = company[:beside], company[beside:]
        no_pay = free_here - room if _does_not_pay(best) else 0
        yield Gpu(
            node=best.node,
            stack=replace(stack, others=here_too) if stack is not None and here_too else stack,
            rank=_rank(best),
            ours=here,
            ready=answer,
            others=beside,
            more=room,
            withheld=no_pay,
        )
    if left:  # more than pay run there already
        yield Gpu(node=best.node, stack=stack, rank=_rank(best), ours=left, ready=ready)


def _whole(demand: Demand, gpu: GpuModel, like: Candidate, pod: PodView, policy: Policy) -> Gpu:
    """A GPU of one pod: one replica, or a pack whose idle engines are the next to run."""
    assert pod.record is not None  # noqa: S101 - it is ours
    engines = 1 if pod.record.pack is None else pod.record.pack.engines
    most = engines if demand.max_per_gpu is None else min(engines, demand.max_per_gpu)
    running = pod.record.replicas
    return Gpu(
        node=like.node,
        stack=_stack(demand, gpu, like.share, like.fit.need, policy),
        rank=_rank(like),
        ours=running,
        ready=pod.ready_replicas,
        more=max(0, most - running),
        seats=True,
    )


def _made_as(pod: PodView, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that a pod was made from, or is most like."""
    share = "" if pod.record is None else pod.record.share
    return next((c for c in candidates if describe_share(c.share) == share), candidates[0])


def _stray(demand: Demand, pod: PodView, room: Room, nodes: dict[str, GpuNode], policy: Policy) -> Gpu:
    """A replica where no further one may go (cordoned, another mode): judged as the candidate that it is most like."""
    node = nodes.get(where(pod) or "")
    running = 1 if pod.record is None else pod.record.replicas
    rank = (True, 0, 0.0, "", "")
    if node is None or node.gpu is None or not room.candidates:
        return Gpu(node=where(pod) or "", stack=None, rank=rank, ours=running, ready=pod.ready_replicas)
    like = _made_as(pod, room.candidates)
    stack = _stack(demand, node.gpu, like.share, like.fit.need, policy)
    return Gpu(node=node.name, stack=stack, rank=rank, ours=running, ready=pod.ready_replicas)


def _does_not_pay(candidate: Candidate) -> bool:
    return candidate.cap is not None and candidate.cap.problem.reason is Reason.DOES_NOT_PAY


def _per_gpu(candidate: Candidate) -> int:
    """Replicas of the deployment that one GPU takes."""
    units = candidate.offer.per_gpu * replicas_in(candidate.share)
    return units if candidate.cap is None else min(units, candidate.cap.replicas // candidate.offer.gpus)


def _rank(candidate: Candidate) -> tuple[bool, int, float, str, str]:
    fit = candidate.fit
    size = float(limit_bytes(candidate.share)) if fit.sufficient else -fit.each_tok_s
    return not fit.sufficient, -_per_gpu(candidate), size, candidate.node, candidate.offer.resource


@lru_cache(maxsize=_REMEMBERED)
def _stack(demand: Demand, gpu: GpuModel, share: Share, need: Need, policy: Policy) -> Stack | None:
    """One replica on a share of this kind. Remembered: the next decision asks the same."""
    engine = engine_of(demand, policy)
    if isinstance(engine, Problem):
        return None
    calibration, _ = calibration_for(demand, engine, gpu, policy)
    room = make_room(share, need.footprint, kv_tokens=0, loading_bytes=0, ceiling=policy.utilization_ceiling)
    return Stack(
        engine=engine,
        site=site_of(share, gpu),
        constants=policy.performance.constants_for(demand.engine_version),
        calibration=calibration,
        replicas=1,
        max_num_seqs=need.max_num_seqs,
        kv_cache_tokens=room.kv_cache_tokens,
    )
