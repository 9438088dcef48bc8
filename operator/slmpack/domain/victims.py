"""Which replicas end where fewer are wanted: those whose end costs least, and whose GPU comes free soonest.

Which GPU of a node a share is on, nobody publishes (D5b): a node's shares count as if they filled its GPUs one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from slmpack.domain.inventory import GpuNode, where
from slmpack.domain.plan import DeletePod
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.seats import FEWER, FOLLOWED, keep_some, replicas_of, with_running
from slmpack.domain.sharing import Exclusive
from slmpack.domain.snapshot import Demand, PodView

__all__ = ["Crowd", "Crowds", "Shrunk", "crowds_of", "delete_pod", "hash_of", "ordinal_of", "retire", "shrink"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Everybody's shares of a node's shared GPUs."""

    resources: frozenset[str]
    """Of which a unit is a part of a GPU."""
    per_gpu: int
    """Units of them on one GPU."""
    used: int
    """Units taken, by whomever; pods that are ending count no more."""


Crowds = Mapping[str, Crowd]
"""By node."""


def crowds_of(nodes: Iterable[GpuNode], pods: Iterable[PodView]) -> Crowds:
    """The crowd of every node that shares GPUs."""
    shared = {node.name: [offer for offer in node.offers if not isinstance(offer.share, Exclusive)] for node in nodes}
    used: dict[str, int] = {}
    resources = {name: frozenset(offer.resource for offer in offers) for name, offers in shared.items() if offers}
    for pod in pods:
        node = where(pod) or ""
        if node in resources and not pod.deleting and not pod.ended:
            used[node] = used.get(node, 0) + _units(pod, resources[node])
    return {
        name: Crowd(resources=of, per_gpu=max(1, sum(offer.per_gpu for offer in shared[name])), used=used.get(name, 0))
        for name, of in resources.items()
    }


def _units(pod: PodView, resources: frozenset[str]) -> int:
    return sum(count for name, count in pod.requests.items() if name in resources)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What is left, and what ends."""

    updated: list[PodView]
    old: list[PodView]
    deletes: list[DeletePod]
    rolled: set[str]
    """Of the old, those (by uid) that lose engines to a rollout."""


def shrink(
    demand: Demand, updated: Sequence[PodView], old: Sequence[PodView], surplus: int, *, crowds: Crowds
) -> Shrunk:
    """End `surplus` replicas: engines of a pack first lose those that do not answer, and its pod goes with its last."""
    left = Shrunk(list(updated), list(old), [], set())
    for victim in _in_order([*updated, *old] if surplus > 0 else [], demand, crowds):
        if surplus <= 0:
            break
        here = left.old if victim in left.old else left.updated
        held, total = replicas_of([victim]), replicas_of([*left.updated, *left.old])
        rolled = here is left.old and bool(left.updated) and demand.replicas > 0 and total <= demand.replicas + 1
        if held > surplus:
            left.rolled.update([victim.uid] if rolled else [])
            here[here.index(victim)] = with_running(victim, keep_some(victim, held - surplus))
            break
        left.deletes.append(retire(victim, Reason.ROLLOUT if rolled else Reason.SCALED_DOWN))
        here.remove(victim)
        surplus -= held
    return left


def _in_order(pods: Sequence[PodView], demand: Demand, crowds: Crowds) -> Iterator[PodView]:
    """The next to end, each time as if those before were gone.

    Never Ready (but for the one that a rollout starts), old spec, not Ready (an engine of it), the GPU that the fewest
    ends empty, the newest.
    """
    gpus = _Gpus(pods, crowds)
    next_up = _next_up(pods, demand)
    by_loss: dict[tuple[bool, bool, bool, bool], list[PodView]] = {}
    for pod in sorted(pods, key=_age):
        by_loss.setdefault((pod.was_ready or pod.uid == next_up, *_loss(pod, demand)), []).append(pod)
    for _, alike in sorted(by_loss.items()):
        yield from gpus.emptied(alike)


def _next_up(pods: Iterable[PodView], demand: Demand) -> str:
    """The pod (by uid) that a rollout starts: an old one ends before it. Empty where there is none."""
    ordered = sorted(pods, key=_age)
    if all(hash_of(pod) == demand.spec_hash for pod in ordered):
        return ""
    starting = (pod.uid for pod in ordered if hash_of(pod) == demand.spec_hash and not pod.was_ready)
    return next(starting, "")


def _loss(pod: PodView, demand: Demand) -> tuple[bool, bool, bool]:
    """What ends with it, the least first."""
    whole = pod.ready and (pod.pack is None or pod.ready_replicas == replicas_of([pod]))
    return hash_of(pod) == demand.spec_hash, pod.was_ready, whole


def _age(pod: PodView) -> tuple[float, int]:
    """Rising: the oldest first."""
    return pod.created.timestamp(), ordinal_of(pod)


class _Gpus:
    """The GPUs that replicas of one deployment are on, while some of these end."""

    def __init__(self, pods: Sequence[PodView], crowds: Crowds) -> None:
        self._crowds = crowds
        self._used = {node: crowd.used for node, crowd in crowds.items()}
        self._own: dict[str, int] = {}
        for pod in pods:
            if (node := self._node(pod)) is not None:
                self._own[node] = self._own.get(node, 0) + 1

    def emptied(self, pods: Iterable[PodView]) -> Iterator[PodView]:
        """The pods (the oldest first) in the order in which they end."""
        spots: dict[str, list[PodView]] = {}
        for pod in pods:
            spots.setdefault(self._node(pod) or pod.uid, []).append(pod)
        queue = [(self._cost(there[-1]), spot) for spot, there in spots.items()]
        heapify(queue)
        while queue:
            _, spot = heappop(queue)
            victim = spots[spot].pop()
            yield victim
            if spot in self._own:
                self._used[spot] -= 1
                self._own[spot] -= 1
            if spots[spot]:
                heappush(queue, (self._cost(spots[spot][-1]), spot))

    def _node(self, pod: PodView) -> str | None:
        """The node on whose GPUs it has a share; None where its GPU is its own, or nothing is known of it."""
        node = where(pod) or ""
        crowd = self._crowds.get(node)
        return node if crowd is not None and _units(pod, crowd.resources) else None

    def _cost(self, pod: PodView) -> tuple[bool, int, float, int]:
        """Whether others keep its GPU in use, the replicas on it, and the newest first."""
        age, ordinal = _age(pod)
        node = self._node(pod)
        if node is None:
            return False, replicas_of([pod]), -age, -ordinal
        last = (self._used[node] - 1) % self._crowds[node].per_gpu + 1
        return last > self._own[node], last, -age, -ordinal


def retire(pod: PodView, reason: Reason) -> DeletePod:
    """Delete a live pod for a reason of D4a's list."""
    return delete_pod(pod, Problem(reason=reason, message=_SAID[reason]))


_SAID = {
    Reason.ROLLOUT: FOLLOWED,
    Reason.SCALED_DOWN: FEWER,
}


def delete_pod(pod: PodView, problem: Problem) -> DeletePod:
    """Delete a pod, whatever it is in."""
    deployment = pod.record.deployment if pod.record is not None else pod.key
    return DeletePod(pod=pod.key, uid=pod.uid, deployment=deployment, problem=problem, spec_hash=hash_of(pod))


def hash_of(pod: PodView) -> str:
    """Of the spec that it was made from."""
    return pod.record.spec_hash if pod.record is not None else ""


def ordinal_of(pod: PodView) -> int:
    """The number in its name."""
    return pod.record.ordinal if pod.record is not None else 0
