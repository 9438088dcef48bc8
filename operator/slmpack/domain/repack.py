"""Advice: which replicas could be moved so that GPUs come free. Nothing here is ever carried out by the operator.

A source is what frees a GPU for certain: a pod with a whole GPU (alone, or as a pack), or all pods on a node whose GPUs
are shared. It is emptied by cordoning its node and deleting its pods one by one; what the planner then does with their
replicas is worked out with the planner's own board. A set of sources counts only if every replica finds a place that
suits by fit, bounds and pay on a GPU that is in use anyway. On a node with several shared GPUs the kubelet picks the
GPU (D5b), so a node is a target only while all its GPUs are in use however the shares lie, and its emptying promises
only the fewest GPUs that its shares can be on.

Of all sets that do, the one that frees the most GPUs and, among these, ends the fewest pods. Where there are too many
sets, sources are tried one after another instead and stay if they may, the fewest pods per GPU first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from slmpack.domain.board import Board, Room, Want
from slmpack.domain.case import Case, World, open_cases
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.inventory import GpuNode, Offer, where
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.power import loaded_idle_w
from slmpack.domain.seats import replicas_of, seat
from slmpack.domain.sharing import Exclusive
from slmpack.domain.snapshot import Demand, Key, PodView
from slmpack.domain.wording import number_of
from slmpack.domain.workload import Objective

__all__ = ["Freed", "Move", "Repack", "advise_repack", "is_calm"]

TRIES = 256
"""Sets (or, one after another, sources) that are tried at most; each is a packing of the replicas that would move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A pod that the move ends."""

    pod: Key
    deployment: Key
    node: str
    to: tuple[str, ...]
    """Where its replicas go, one each: a node, or the pod whose idle engine is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """GPUs of one node that come free."""

    node: str
    product: str
    gpus: int
    """At least; exactly, where it has one, or hands out whole ones."""
    power_w: Interval | None
    """What they stop drawing, estimated: loaded idle less idle. None: one of the two was never captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repack:
    """The advice."""

    moves: tuple[Move, ...]
    freed: tuple[Freed, ...]

    @property
    def gpus(self) -> int:
        """How many come free, at least."""
        return sum(one.gpus for one in self.freed)

    @property
    def power_w(self) -> Interval | None:
        """The sum over those of which it can be estimated; None: of none."""
        known = [one.power_w for one in self.freed if one.power_w is not None]
        if not known:
            return None
        low, expected, high = (sum(getattr(one, part) for one in known) for part in ("low", "expected", "high"))
        return Interval(low=low, expected=expected, high=high, basis=Basis.ASSUMED)

    @property
    def sentence(self) -> str:
        """For status."""
        pods, gpus, power = len(self.moves), self.gpus, self.power_w
        watts = "" if power is None else f" (about {power.expected:.0f} W, estimated)"
        moved = f"moving {number_of(pods, 'pod')} would free {number_of(gpus, 'GPU')}"
        return f"{moved}{watts}; see slmpack plan --repack"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Pods whose end frees GPUs of a node."""

    node: GpuNode
    pods: tuple[PodView, ...]
    gpus: int

    @property
    def cost(self) -> tuple[float, int, str, Key]:
        """Pods that end for a GPU, replicas, and names."""
        return len(self.pods) / self.gpus, replicas_of(self.pods), self.node.name, self.pods[0].key


def is_calm(plan: ClusterPlan) -> bool:
    """Whether nothing is under way that would move replicas anyway."""
    busy = any(part.creates or part.waiting or part.leaving or part.pending for part in plan.deployments)
    starting = any(state.counts and not state.ready for part in plan.deployments for state in part.states)
    return not (plan.actions or busy or starting)


def advise_repack(plan: ClusterPlan, world: World, *, tries: int = TRIES) -> Repack | None:
    """The best move of running replicas; None where none frees a GPU, or the plan has work to do first."""
    if not is_calm(plan):
        return None
    cases = {case.view.key: case for case in open_cases(world)}
    sources = sorted(_sources(cases, world), key=lambda source: source.cost)
    best: tuple[_Source, ...] = ()
    moves: tuple[Move, ...] = ()
    if len(sources) <= tries.bit_length() - 1:
        for some in sorted(_sets(sources), key=_worth, reverse=True):
            if (found := _moved(some, cases, world)) is not None:
                best, moves = some, found
                break
    else:
        for source in sources[:tries]:
            if (found := _moved((*best, source), cases, world)) is not None:
                best, moves = (*best, source), found
    return Repack(moves=moves, freed=_freed(best, world)) if best else None


def _sets(sources: Sequence[_Source]) -> Iterator[tuple[_Source, ...]]:
    for count in range(1, len(sources) + 1):
        yield from combinations(sources, count)


def _worth(some: Sequence[_Source]) -> tuple[int, int, int]:
    """Most GPUs, then the fewest pods, then the fewest replicas."""
    pods = [pod for source in some for pod in source.pods]
    return sum(source.gpus for source in some), -len(pods), -replicas_of(pods)


def _sources(cases: dict[Key, Case], world: World) -> Iterator[_Source]:
    movable = {uid for case in cases.values() for uid in _movable(case)}
    by_node: dict[str, list[PodView]] = {}
    for pod in sorted(world.snapshot.pods, key=lambda pod: pod.key):
        by_node.setdefault(where(pod) or "", []).append(pod)
    for node in world.nodes:
        there = by_node.get(node.name, [])
        shared = [offer for offer in node.offers if not isinstance(offer.share, Exclusive)]
        for offer in node.offers:
            for pod in there if offer not in shared else ():
                if pod.requests.get(offer.resource) == 1 and pod.uid in movable:
                    yield _Source(node=node, pods=(pod,), gpus=1)
        on = [pod for pod in there if any(pod.requests.get(offer.resource) for offer in shared)]
        claimed = any(node.view.used_by_others.get(offer.resource) for offer in shared)
        if on and not claimed and all(pod.uid in movable for pod in on):
            yield _Source(node=node, pods=tuple(on), gpus=max(_least_gpus(offer, on) for offer in shared))


def _least_gpus(offer: Offer, pods: Sequence[PodView]) -> int:
    """The fewest GPUs that the pods' shares can be on."""
    return -(-sum(pod.requests.get(offer.resource, 0) for pod in pods) // offer.per_gpu)


def _movable(case: Case) -> Iterator[str]:
    """Pods, by uid, whose replicas run as the spec wants them and need no GPU of their own."""
    if case.demand is None or case.room is None or case.book is None or case.demand.objective is Objective.LATENCY:
        return
    yield from (pod.uid for pod in case.book.updated if pod.ready and replicas_of([pod]))


def _moved(some: Sequence[_Source], cases: dict[Key, Case], world: World) -> tuple[Move, ...] | None:
    """Where the replicas of the sources would go; None where one of them would open a GPU, or find no place."""
    gone = {pod.uid for source in some for pod in source.pods}
    cordoned = {source.node.name for source in some}
    left = [pod for pod in world.snapshot.pods if pod.uid not in gone]
    rooms = {
        key: Room(candidates=tuple(c for c in case.room.candidates if c.node not in cordoned), rejections=())
        for key, case in cases.items()
        if case.room is not None
    }
    open_to = {node.name: _in_use(node, left) for node in world.nodes if node.name not in cordoned}
    board = Board(rooms=rooms, nodes=world.nodes, pods=left)
    seats = {key: _seats(case, case.demand, gone) for key, case in cases.items() if case.demand is not None}
    moves = []
    for pod in (pod for source in some for pod in source.pods):
        assert pod.record is not None  # noqa: S101 - only such may move
        case, to = cases[pod.record.deployment], []
        for _ in range(replicas_of([pod])):
            spot = next(seats[case.view.key], None) or _spot(case, board, open_to)
            if spot is None:
                return None
            to.append(spot)
        moves.append(Move(pod=pod.key, deployment=case.view.key, node=where(pod) or "", to=tuple(to)))
    return tuple(moves)


def _seats(case: Case, demand: Demand, gone: Collection[str]) -> Iterator[str]:
    """Idle engines of packs that stay, as a cycle would seat replicas."""
    pods = [pod for pod in (case.book.updated if case.book is not None else ()) if pod.uid not in gone]
    seated, _ = seat(pods, 1 << 20, most=demand.max_per_gpu)
    for before, after in zip(pods, seated, strict=True):
        yield from [str(after.key)] * (replicas_of([after]) - replicas_of([before]))


def _spot(case: Case, board: Board, open_to: dict[str, frozenset[str]]) -> str | None:
    """The node that the planner would choose, if no GPU is opened there."""
    assert case.need is not None  # noqa: S101 - there is room for it
    want = Want(id=len(board.placed), deployment=case.view.key, need=case.need)
    if not board.place_directly(want):
        return None
    chosen = board.placed[want.id]
    return chosen.node if chosen.offer.resource in open_to.get(chosen.node, ()) else None


def _in_use(node: GpuNode, pods: Sequence[PodView]) -> frozenset[str]:
    """Resources of a node of which one more share opens no GPU, wherever the shares lie."""
    there = [pod for pod in pods if where(pod) == node.name]
    shared = [offer for offer in node.offers if not isinstance(offer.share, Exclusive)]
    taken = {offer.resource: sum(pod.requests.get(offer.resource, 0) for pod in there) for offer in shared}
    if all(offer.gpus == 1 for offer in shared):
        return frozenset(taken) if any(taken.values()) else frozenset()
    if len(shared) > 1:
        return frozenset()  # which GPU holds which slice, nobody says
    return frozenset(o.resource for o in shared if taken[o.resource] > (o.gpus - 1) * o.per_gpu)


def _freed(some: Sequence[_Source], world: World) -> tuple[Freed, ...]:
    found: dict[str, Freed] = {}
    for source in sorted(some, key=lambda source: source.node.name):
        before = found.get(source.node.name)
        gpus = source.gpus + (before.gpus if before is not None else 0)
        found[source.node.name] = Freed(
            node=source.node.name, product=source.node.product, gpus=gpus, power_w=_power(source, gpus, world)
        )
    return tuple(found.values())


def _power(source: _Source, gpus: int, world: World) -> Interval | None:
    """Loaded idle less idle, of so many GPUs; the work goes on elsewhere and is not counted."""
    gpu = source.node.gpu
    if gpu is None or gpu.idle_w is None:
        return None
    _, constants = world.policy.performance.generations[-1]
    least, most = loaded_idle_w(gpu, constants.power)
    low, high = max(0.0, least - gpu.idle_w[1]), max(0.0, most - gpu.idle_w[0])
    return Interval(low=low, expected=(low + high) / 2, high=high, basis=Basis.ASSUMED).scaled(gpus)
