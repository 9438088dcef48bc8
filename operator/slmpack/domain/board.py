"""Placing replicas one by one, and moving those of this plan aside where one finds no room.

A replica goes greedily to the best offer that is free; where none is, replicas placed *in this plan* step aside along
the shortest augmenting path. While GPU units bind, the replicas that can be placed together form a transversal matroid,
so this places the lexicographically first possible set. Where CPU or host memory bind as well, it is a heuristic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmpack.domain.fit import Fit
from slmpack.domain.fragmentation import describe_slices
from slmpack.domain.inventory import GpuNode, Offer, free_on, where
from slmpack.domain.quantity import format_bytes
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import MpsPack, Share, limit_bytes, replicas_in
from slmpack.domain.sizing import Need
from slmpack.domain.snapshot import Key, PodView

__all__ = ["Board", "Candidate", "Cap", "Room", "Want"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """How many replicas of one deployment a node may have, and why no more."""

    replicas: int
    """k per GPU times the node's GPUs (D5b)."""
    problem: Problem
    """What the next one is told: MAX_PER_GPU or DOES_NOT_PAY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An offer that suits a deployment by kind and size, whether or not there is room at the moment."""

    node: str
    offer: Offer
    share: Share
    """The offer's own, or the pack that a whole GPU may become."""
    fit: Fit
    cap: Cap | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Every offer for one deployment, sorted into those that suit it and the reasons why the others do not."""

    candidates: tuple[Candidate, ...]
    rejections: tuple[Problem, ...]
    """Most telling first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One missing replica."""

    id: int
    deployment: Key
    need: Need
    surge: bool = False
    """Whether it is a rollout's extra one: it need not pay, as it stays only until its predecessor has gone."""
    apart: bool = False
    """Whether it had rather open a GPU of its own than join one in use (objective Latency, D7a)."""
    frugal: bool = False
    """Whether, of GPUs alike in use, that is best which takes the fewest joules a token (objective Energy, D7a)."""
    together: int = 1
    """How many replicas of its deployment are missing, it included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """One step of a chain: `want` goes to an offer, and a replica of this plan leaves its own."""

    want: Want
    to: Candidate
    displaced: Want
    was: Candidate


class Board:
    """The room of every node while one plan fills it."""

    def __init__(self, *, rooms: Mapping[Key, Room], nodes: Sequence[GpuNode], pods: Sequence[PodView]) -> None:
        self.placed: dict[int, Candidate] = {}
        self._rooms = rooms
        self._nodes = {node.name: node for node in nodes}
        self._wants: dict[str, dict[int, Want]] = {node.name: {} for node in nodes}
        """The wants placed on each node."""
        self._free: dict[str, dict[str, int]] = {}
        self._count: dict[tuple[Key, str], int] = {}
        """Replicas of a deployment on a node."""
        self._in_use: dict[str, int] = {}
        """GPU resources of any kind that are taken on a node."""
        self._seats: dict[tuple[Key, str, str], int] = {}
        """Replicas that packs of this plan can still take, by deployment, node and resource."""
        self._seated: set[int] = set()
        """Wants that joined a pack of this plan."""
        by_node: dict[str, list[PodView]] = {}
        for pod in pods:
            by_node.setdefault(where(pod) or "", []).append(pod)
        for node in nodes:
            self._seat(node, by_node.get(node.name, ()))
        self._spots = {(c.node, c.offer.resource) for room in rooms.values() for c in room.candidates}
        """Node and resource that suit some deployment."""
        self._open = {(node, resource) for node, resource in self._spots if self._free[node][resource] > 0}
        """Those that have a unit left."""

    def joined(self, want: Want) -> bool:
        """Whether `want` is in a pack that another want of its deployment opened."""
        return want.id in self._seated

    def place(self, want: Want) -> bool:
        """Give `want` room, moving replicas of this plan aside if need be."""
        return self.place_directly(want) or ((bool(self._open) or any(self._seats.values())) and self._make_room(want))

    def place_directly(self, want: Want) -> bool:
        """Put `want` on the best offer that has room: the one that opens the fewest GPUs, the smallest, by name."""
        free = [c for c in self._rooms[want.deployment].candidates if self._fits(want, c)]
        if not free:
            return False
        self._put(want, min(free, key=lambda candidate: self._preference(want, candidate)))
        return True

    def blocker(self, want: Want, candidate: Candidate) -> Problem | None:
        """Why `want` has no room there at the moment; None if it has."""
        free, node, offer = self._free[candidate.node], candidate.node, candidate.offer
        cap = candidate.cap if self._capped(want, candidate) else None
        if cap is not None and (free[offer.resource] < 1) == isinstance(candidate.share, MpsPack):
            return cap.problem  # a pack has no more engines than its cap: only where each GPU has one is it the reason
        if free[offer.resource] < 1:
            return Problem(reason=Reason.INSUFFICIENT_GPUS, message=f"node {node}: every {offer.resource} is taken")
        cpu, memory, asked = free.get("cpu", 0), free.get("memory", 0), _requests(want, candidate)
        engines = replicas_in(candidate.share)
        who = "a replica requests" if engines == 1 else f"a pack of {engines} requests"
        if cpu < asked["cpu"]:
            message = f"node {node}: {who} {asked['cpu']}m CPU, {max(0, cpu)}m are free"
            return Problem(reason=Reason.INSUFFICIENT_CPU, message=message, field="spec.pod.resources")
        if memory < asked["memory"]:
            message = (
                f"node {node}: {who} {format_bytes(asked['memory'])} of host memory, "
                f"{format_bytes(max(0, memory))} are free"
            )
            return Problem(reason=Reason.INSUFFICIENT_MEMORY, message=message, field="spec.pod.resources")
        if free.get("pods", 0) < 1:
            return Problem(reason=Reason.INSUFFICIENT_PODS, message=f"node {node} has no room for another pod")
        return None

    def left(self, node: str, requests: Mapping[str, int]) -> bool:
        """Whether a node has room for a pod beside all that is there and all that is placed."""
        free = self._free[node]
        return all(free.get(name, 0) >= amount for name, amount in requests.items())

    def slices(self, node: str) -> str:
        """What is known of the node's MIG instances at the moment; empty where it has none."""
        return describe_slices(self._nodes[node], self._free[node])

    def would_inherit(self, victim: PodView, want: Want, *, before: Sequence[Want]) -> bool:
        """Whether `want` would get the room of `victim`, of the same deployment, and none of `before` would."""
        node = where(victim)
        if node is None or node not in self._free:
            return False
        held = (want.deployment, node)
        self._leave(victim, held, sign=1)
        heir = next((other for other in (*before, want) if self._fits_on(other, node)), None)
        self._leave(victim, held, sign=-1)
        return heir is want

    def _fits_on(self, want: Want, node: str) -> bool:
        for candidate in self._rooms[want.deployment].candidates:
            if candidate.node == node and self._fits(want, candidate):
                return True
        return False

    def _leave(self, pod: PodView, held: tuple[Key, str], *, sign: int) -> None:
        free = self._free[held[1]]
        for name, amount in {**pod.requests, "pods": 1}.items():
            free[name] = free.get(name, 0) + sign * amount
            self._update_open(held[1], name)
        self._count[held] = self._count.get(held, 0) - sign * (pod.record.replicas if pod.record is not None else 1)

    def _seat(self, node: GpuNode, pods: Sequence[PodView]) -> None:
        resources = {offer.resource for offer in node.offers}
        self._free[node.name] = free_on(node, tuple(pods))
        self._in_use[node.name] = sum(n for pod in pods for name, n in pod.requests.items() if name in resources)
        for pod in pods:
            if pod.record is not None:
                key = (pod.record.deployment, node.name)
                self._count[key] = self._count.get(key, 0) + pod.record.replicas

    def _make_room(self, want: Want) -> bool:
        """Carry out the shortest chain of moves that ends in free room; breadth first, so that no depth ends the stack.

        Replicas of one deployment are alike, so a chain through one of them is enough.
        """
        unreached = {w.deployment for there in self._wants.values() for w in there.values()} - {want.deployment}
        chains: deque[tuple[_Move, ...]] = deque([()])
        while chains and unreached:
            chain = chains.popleft()
            mover = chain[-1].displaced if chain else want
            for candidate in self._rooms[mover.deployment].candidates:
                for other in sorted(self._wants[candidate.node].values(), key=lambda w: -w.id):
                    if other.deployment not in unreached or self._has_company(other):
                        continue
                    longer = (*chain, _Move(want=mover, to=candidate, displaced=other, was=self.placed[other.id]))
                    if not self._shift(longer):
                        continue
                    if self.place_directly(other):
                        return True
                    self._unshift(longer)
                    unreached.remove(other.deployment)
                    chains.append(longer)
        return False

    def _has_company(self, want: Want) -> bool:
        """Whether others count on the pack that it opened, which therefore cannot step aside."""
        candidate = self.placed[want.id]
        return self._seats[_pack(want, candidate)] < replicas_in(candidate.share) - 1

    def _shift(self, chain: Sequence[_Move]) -> bool:
        """Carry out the moves, the last one displaced left without a place; False, undone, if one does not fit."""
        for move in chain:
            self._take(move.displaced)
        for number, move in enumerate(chain):
            if not self._fits(move.want, move.to):
                self._unshift(chain, moved=number)
                return False
            self._put(move.want, move.to)
        return True

    def _unshift(self, chain: Sequence[_Move], *, moved: int | None = None) -> None:
        for move in chain[:moved]:
            self._take(move.want)
        for move in chain:
            self._put(move.displaced, move.was)

    def _fits(self, want: Want, candidate: Candidate) -> bool:
        return self._may_join(want, candidate) or self._may_open(want, candidate)

    def _may_open(self, want: Want, candidate: Candidate) -> bool:
        """Whether a unit of the offer is free for it."""
        if (candidate.node, candidate.offer.resource) not in self._open:
            return False
        if self._capped(want, candidate) and not isinstance(candidate.share, MpsPack):
            return False  # a pack is made with no more engines than pay or are allowed, whatever the node has beside it
        free, asked = self._free[candidate.node], _requests(want, candidate)
        return all(free.get(name, 0) >= asked[name] for name in ("cpu", "memory", "pods"))

    def _may_join(self, want: Want, candidate: Candidate) -> bool:
        """Whether a pack of this plan has room for it; one apart joins only where it cannot open a pack of its own."""
        seats = self._seats.get(_pack(want, candidate), 0) if isinstance(candidate.share, MpsPack) else 0
        return seats > 0 and not (want.apart and self._may_open(want, candidate))

    def _capped(self, want: Want, candidate: Candidate) -> bool:
        cap = candidate.cap
        if cap is None or (want.surge and cap.problem.reason is Reason.DOES_NOT_PAY):
            return False
        return self._count.get((want.deployment, candidate.node), 0) >= cap.replicas

    def _preference(self, want: Want, candidate: Candidate) -> tuple[bool, int, float, int, float, str, str]:
        """What suffices, GPUs that it opens (as if shares fill up GPU by GPU), joules, what the GPU takes, size, name.

        The fewest GPUs opened come first, for a want apart the most; of those that open one, the GPU that carries most
        of the missing replicas. Of shares that do not suffice the fastest comes first. A frugal want joins GPUs in use
        as others do, whose idle watts are spent anyway, and then goes where a token costs least, by prediction.
        """
        offer, fit = candidate.offer, candidate.fit
        used = offer.units - self._free[candidate.node][offer.resource]
        opened = -(-(used + 1) // offer.per_gpu) - -(-used // offer.per_gpu)
        if offer.gpus == 1 and self._in_use[candidate.node]:
            opened = 0  # another slice of the same GPU is taken already
        if self._may_join(want, candidate):
            opened = -1  # a seat in a pack is had already
        size = float(limit_bytes(candidate.share)) if fit.sufficient else -fit.each_tok_s
        many = -min(_carries(candidate), want.together) if opened > 0 else 0
        joules = fit.joules_per_token if want.frugal else 0.0
        by_gpus = -opened if want.apart else opened
        return not fit.sufficient, by_gpus, joules, many, size, candidate.node, offer.resource

    def _put(self, want: Want, candidate: Candidate) -> None:
        self.placed[want.id] = candidate
        if self._may_join(want, candidate):
            self._seated.add(want.id)
        else:
            self._wants[candidate.node][want.id] = want
        self._account(want, candidate, sign=1)

    def _take(self, want: Want) -> None:
        candidate = self.placed.pop(want.id)
        self._wants[candidate.node].pop(want.id, None)
        self._account(want, candidate, sign=-1)
        self._seated.discard(want.id)

    def _account(self, want: Want, candidate: Candidate, *, sign: int) -> None:
        node, resource = candidate.node, candidate.offer.resource
        self._count[want.deployment, node] = self._count.get((want.deployment, node), 0) + sign
        engines, pack = replicas_in(candidate.share), _pack(want, candidate)
        if want.id in self._seated:
            self._seats[pack] -= sign
            return
        self._seats[pack] = self._seats.get(pack, 0) + sign * (engines - 1)
        free = self._free[node]
        for name, amount in _requests(want, candidate).items():
            free[name] = free.get(name, 0) - sign * amount
        self._in_use[node] += sign
        self._update_open(node, resource)

    def _update_open(self, node: str, resource: str) -> None:
        if self._free[node][resource] <= 0:
            self._open.discard((node, resource))
        elif (node, resource) in self._spots:
            self._open.add((node, resource))


def _carries(candidate: Candidate) -> int:
    """Replicas of the deployment that one GPU of the offer carries."""
    units, cap = candidate.offer.per_gpu * replicas_in(candidate.share), candidate.cap
    return units if cap is None else min(units, cap.replicas // candidate.offer.gpus)


def _requests(want: Want, candidate: Candidate) -> dict[str, int]:
    """What the pod takes of the node."""
    return want.need.requests(candidate.offer.resource, engines=replicas_in(candidate.share))


def _pack(want: Want, candidate: Candidate) -> tuple[Key, str, str]:
    return want.deployment, candidate.node, candidate.offer.resource
