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
from slmpack.domain.inventory import GpuNode, Offer, free_on, where
from slmpack.domain.quantity import format_bytes
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import limit_bytes
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
        self._wants: dict[str, dict[int, Want]] = {node.name: {} for node in nodes}
        """The wants placed on each node."""
        self._free: dict[str, dict[str, int]] = {}
        self._count: dict[tuple[Key, str], int] = {}
        """Replicas of a deployment on a node."""
        self._in_use: dict[str, int] = {}
        """GPU resources of any kind that are taken on a node."""
        by_node: dict[str, list[PodView]] = {}
        for pod in pods:
            by_node.setdefault(where(pod) or "", []).append(pod)
        for node in nodes:
            self._seat(node, by_node.get(node.name, ()))
        self._spots = {(c.node, c.offer.resource) for room in rooms.values() for c in room.candidates}
        """Node and resource that suit some deployment."""
        self._open = {(node, resource) for node, resource in self._spots if self._free[node][resource] > 0}
        """Those that have a unit left."""

    def place(self, want: Want) -> bool:
        """Give `want` room, moving replicas of this plan aside if need be."""
        return self.place_directly(want) or (bool(self._open) and self._make_room(want))

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
        if free[offer.resource] < 1:
            return Problem(reason=Reason.INSUFFICIENT_GPUS, message=f"node {node}: every {offer.resource} is taken")
        if candidate.cap is not None and self._capped(want, candidate):
            return candidate.cap.problem
        cpu, memory = free.get("cpu", 0), free.get("memory", 0)
        if cpu < want.need.cpu_millicores:
            message = f"node {node}: a replica requests {want.need.cpu_millicores}m CPU, {max(0, cpu)}m are free"
            return Problem(reason=Reason.INSUFFICIENT_CPU, message=message, field="spec.pod.resources")
        if memory < want.need.memory_bytes:
            message = (
                f"node {node}: a replica requests {format_bytes(want.need.memory_bytes)} of host memory, "
                f"{format_bytes(max(0, memory))} are free"
            )
            return Problem(reason=Reason.INSUFFICIENT_MEMORY, message=message, field="spec.pod.resources")
        if free.get("pods", 0) < 1:
            return Problem(reason=Reason.INSUFFICIENT_PODS, message=f"node {node} has no room for another pod")
        return None

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
        self._count[held] = self._count.get(held, 0) - sign

    def _seat(self, node: GpuNode, pods: Sequence[PodView]) -> None:
        resources = {offer.resource for offer in node.offers}
        self._free[node.name] = free_on(node, tuple(pods))
        self._in_use[node.name] = sum(n for pod in pods for name, n in pod.requests.items() if name in resources)
        for pod in pods:
            if pod.record is not None:
                key = (pod.record.deployment, node.name)
                self._count[key] = self._count.get(key, 0) + 1

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
                    if other.deployment not in unreached:
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
        if (candidate.node, candidate.offer.resource) not in self._open or self._capped(want, candidate):
            return False
        free, need = self._free[candidate.node], want.need
        return (
            free.get("cpu", 0) >= need.cpu_millicores
            and free.get("memory", 0) >= need.memory_bytes
            and free.get("pods", 0) >= 1
        )

    def _capped(self, want: Want, candidate: Candidate) -> bool:
        cap = candidate.cap
        if cap is None or (want.surge and cap.problem.reason is Reason.DOES_NOT_PAY):
            return False
        return self._count.get((want.deployment, candidate.node), 0) >= cap.replicas

    def _preference(self, want: Want, candidate: Candidate) -> tuple[bool, int, float, str, str]:
        """What suffices, GPUs that it opens (as if shares fill up GPU by GPU), size, name.

        The fewest GPUs opened come first, for a want apart the most. Of shares that do not suffice the fastest comes
        first.
        """
        offer, fit = candidate.offer, candidate.fit
        used = offer.units - self._free[candidate.node][offer.resource]
        opened = -(-(used + 1) // offer.per_gpu) - -(-used // offer.per_gpu)
        if offer.gpus == 1 and self._in_use[candidate.node]:
            opened = 0  # another slice of the same GPU is taken already
        size = float(limit_bytes(offer.share)) if fit.sufficient else -fit.each_tok_s
        return not fit.sufficient, -opened if want.apart else opened, size, candidate.node, offer.resource

    def _put(self, want: Want, candidate: Candidate) -> None:
        self._wants[candidate.node][want.id] = want
        self.placed[want.id] = candidate
        self._account(want, candidate, sign=1)

    def _take(self, want: Want) -> None:
        candidate = self.placed.pop(want.id)
        del self._wants[candidate.node][want.id]
        self._account(want, candidate, sign=-1)

    def _account(self, want: Want, candidate: Candidate, *, sign: int) -> None:
        node, resource = candidate.node, candidate.offer.resource
        free = self._free[node]
        for name, amount in want.need.requests(resource).items():
            free[name] = free.get(name, 0) - sign * amount
        self._in_use[node] += sign
        self._count[want.deployment, node] = self._count.get((want.deployment, node), 0) + sign
        self._update_open(node, resource)

    def _update_open(self, node: str, resource: str) -> None:
        if self._free[node][resource] <= 0:
            self._open.discard((node, resource))
        elif (node, resource) in self._spots:
            self._open.add((node, resource))
