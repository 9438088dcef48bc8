"""Replicas without room whose pods are made all the same, so that a node autoscaler sees them (whenFull: Pending).

Such a pod names no node, and keeps off none: Karpenter takes no pod with an affinity to names or hostnames. Its node
selector pins the GPU's product and the kind of share, as its engine's settings are made for one kind. The scheduler may
give it any such share, also against the plan, so none waits while one could be had that the plan gives otherwise: one
that is free (kept for another, or one more does not pay), one that a pod is leaving, or, of shares that start in turns,
one beside a start or a stop. A replica that finds room has its waiting pod deleted first, and is placed a cycle later;
one that the scheduler bound meanwhile counts where it is.

Of a kind that starts alone one pod waits at a time in the cluster: two would land on one new node and start together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from slmpack.domain.board import Board, Candidate, Room, Want
from slmpack.domain.case import Case, World
from slmpack.domain.inventory import GPU, GpuNode, free_on, read_nodes, where
from slmpack.domain.packing import Packing, candidates_for, unhindered
from slmpack.domain.plan import DeletePod
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.rollout import Book
from slmpack.domain.seats import replicas_of
from slmpack.domain.sharing import (
    DraClaim,
    Exclusive,
    MigSlice,
    Mode,
    MpsPack,
    MpsShare,
    Share,
    WhenFull,
    describe_share,
    replicas_in,
    starts_alone,
)
from slmpack.domain.snapshot import Demand, Key, NodePins, NodeView, PodView

__all__ = ["Asked", "NewPod", "ask_for_nodes"]

PRODUCT = "nvidia.com/gpu.product"
_PLENTY = 1 << 50
"""CPU, memory and pods of a node that is yet to come: what it has of them is the autoscaler's to choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPod:
    """A pod to be made for a node that is yet to come."""

    candidate: Candidate
    """On a node of the kind; its `node` is not where the pod will be."""
    pins: NodePins
    running: int
    """Replicas that it is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one SLMDeployment asks of node autoscalers."""

    kept: tuple[PodView, ...] = ()
    withdrawn: tuple[DeletePod, ...] = ()
    """While one is there, its deployment gets no new pod: it may be bound at any moment."""
    new: tuple[NewPod, ...] = ()
    problem: str = ""
    """Why nothing (more) is asked for; empty where there is no need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A share of one kind, and the labels that say so."""

    candidate: Candidate
    labels: tuple[tuple[str, str], ...]

    @property
    def unit(self) -> tuple[str, str]:
        """Resource and share."""
        return self.candidate.offer.resource, describe_share(self.candidate.share)

    def is_of(self, pod: PodView) -> bool:
        """Whether a pod asks for it."""
        record = pod.record
        assert record is not None and record.pins is not None  # noqa: S101, PT018 - it waits for a node
        return record.pins.labels == self.labels and (record.resource, record.share) == self.unit


def ask_for_nodes(
    cases: Sequence[Case], packing: Packing, world: World, *, ending: Collection[str]
) -> dict[Key, Asked]:
    """For every SLMDeployment with pods that wait for a node, or with replicas that might. `ending` are pods by uid."""
    short = [p.want for p in packing.packed if p.candidate is None and not p.want.surge]
    counts, first = Counter(want.deployment for want in short), {want.deployment: want for want in reversed(short)}
    last = len(packing.packed)
    found: dict[Key, Asked] = {}
    nodes = _Nodes(world, packing, ending)
    waiting = {unit for pod in world.snapshot.pods if (unit := _alone(pod)) is not None}
    """Kinds that start alone for which a pod waits already."""
    for case in sorted(cases, key=lambda case: first[case.view.key].id if case.view.key in first else last):
        key, book, demand = case.view.key, case.book, case.demand
        if book is None or demand is None or (case.need is None and demand.when_full is WhenFull.PENDING):
            continue  # what waits is frozen as what runs is
        if not book.pending and (demand.when_full is WhenFull.REPORT or not counts[key]):
            continue
        found[key] = _ask(_Asking(case, demand, book, counts[key], first.get(key)), nodes, waiting)
        waiting |= {_unit(new) for new in found[key].new if starts_alone(new.candidate.share)}
    return found


@dataclass(frozen=True, slots=True)
class _Asking:
    """One SLMDeployment and its replicas without room."""

    case: Case
    demand: Demand
    book: Book
    count: int
    want: Want | None
    """The first of them."""

    @property
    def refused(self) -> bool:
        """Whether none is to be tried now; those that wait go on."""
        return self.book.wanted > 0 and not self.book.missing

    @property
    def left(self) -> int:
        """Replicas that may wait for a node."""
        if self.demand.when_full is WhenFull.REPORT:
            return 0
        return self.book.wanted if self.refused else self.count


def _ask(asking: _Asking, nodes: _Nodes, waiting: Collection[tuple[str, str]]) -> Asked:
    left, demand, pending = asking.left, asking.demand, asking.book.pending
    kinds = nodes.kinds(asking.case, demand) if left else ()
    kept: list[PodView] = []
    quiet = [kind for kind in kinds if pending and not nodes.conflict(kind, asking.case)]
    for pod in pending:
        suits = pod.record is not None and pod.record.spec_hash == demand.spec_hash
        if suits and replicas_of([pod]) <= left and any(kind.is_of(pod) for kind in quiet):
            kept.append(pod)
            left -= replicas_of([pod])
    withdrawn = tuple(_withdraw(pod, demand, asking.book) for pod in pending if pod not in kept)
    so_far = Asked(kept=tuple(kept), withdrawn=withdrawn)
    if asking.refused or not left or asking.want is None:
        return so_far
    new = _new_pods(kinds, asking, left, nodes=nodes, waiting=waiting)
    if isinstance(new, str):
        return replace(so_far, problem=new)
    return so_far if withdrawn else replace(so_far, new=new)


def _new_pods(
    kinds: Sequence[_Kind], asking: _Asking, replicas: int, *, nodes: _Nodes, waiting: Collection[tuple[str, str]]
) -> tuple[NewPod, ...] | str:
    """As few pods as hold the replicas, one alone where they start alone; or why none is asked for."""
    if not kinds:
        return _no_kind(asking.demand)
    assert asking.want is not None  # noqa: S101 - there are replicas without room
    usable = [kind for kind in kinds if not nodes.withheld(kind, asking.case)]
    if not usable:
        return nodes.withheld(kinds[0], asking.case)
    kind = _best(usable, asking.want, nodes.empty)
    if conflict := nodes.conflict(kind, asking.case):
        return conflict
    share = kind.candidate.share
    size = replicas_in(share)
    if kind.unit in waiting:
        return f"another pod waits for a node with {describe_share(share)} already, and they start one at a time"
    most = 1 if starts_alone(share) else -(-replicas // size)
    pins = NodePins(labels=kind.labels)
    return tuple(
        NewPod(candidate=kind.candidate, pins=pins, running=min(size, replicas - n * size)) for n in range(most)
    )


def _best(kinds: Sequence[_Kind], want: Want, empty: Sequence[GpuNode]) -> _Kind:
    """What the planner would choose if the cluster had one empty node of each kind."""
    room = Room(candidates=tuple(kind.candidate for kind in kinds), rejections=())
    board = Board(rooms={want.deployment: room}, nodes=empty, pods=())
    board.place_directly(want)
    best = board.placed.get(want.id, kinds[0].candidate)
    return next(kind for kind in kinds if kind.candidate == best)


class _Nodes:
    """The cluster's nodes as kinds, and what the scheduler could give a pod of a kind against the plan."""

    def __init__(self, world: World, packing: Packing, ending: Collection[str]) -> None:
        self.empty: tuple[GpuNode, ...] = ()
        """One empty node of each kind that was looked at last."""
        self._world, self._board = world, packing.board
        placed = (packed.candidate for packed in packing.packed if packed.candidate is not None)
        self._to_start = {(c.offer.resource, describe_share(c.share)) for c in placed if starts_alone(c.share)}
        """Kinds that start alone of which this plan starts some, now or in their turn."""
        self._pods: dict[str, list[PodView]] = {}
        self._moving: dict[tuple[str | None, str], str] = {}
        """Pods that leave a share, or (where they start in turns) start, by node and resource."""
        for pod in sorted(world.snapshot.pods, key=lambda pod: pod.key):
            self._pods.setdefault(where(pod) or "", []).append(pod)
            leaves = pod.deleting or pod.ended or pod.uid in ending
            starts = pod.record is not None and pod.record.starts_alone and not pod.was_ready
            if leaves or starts:
                for name in pod.requests:
                    self._moving[where(pod), name] = f"{pod.key} {'leaves' if leaves else 'starts'}"

    def kinds(self, case: Case, demand: Demand) -> tuple[_Kind, ...]:
        """Those of the cluster that suit; where there are none, whole GPUs of the products that the spec names."""
        assert case.need is not None  # noqa: S101 - a case without is frozen
        policy, most = self._world.policy, demand.scaling.most if demand.scaling is not None else 0
        judged = replace(demand, replicas=max(demand.replicas, most))  # as every other offer is
        seen: dict[object, GpuNode] = {}
        for node in self._world.nodes:
            seen.setdefault(_signature(node, demand), node)
        named = [_whole(product, demand) for product in sorted(demand.gpu_products)]
        for nodes in (tuple(seen.values()), read_nodes(tuple(named), policy.gpus)):
            self.empty = tuple(_emptied(node) for node in nodes)
            labels = {node.name: node.view.labels for node in nodes}
            room = candidates_for(judged, case.need, self.empty, policy)
            kinds = [
                _Kind(candidate=c, labels=_labels(c.share, labels[c.node]))
                for c in room.candidates
                if not isinstance(c.share, DraClaim) and PRODUCT in labels[c.node]
            ]
            if kinds:
                return tuple(kinds)
        return ()

    def withheld(self, kind: _Kind, case: Case) -> str:
        """Where a share stays free that the plan does not give to this deployment; empty: nowhere."""
        for node in self._of(kind, case):
            if self._board.left(node.name, self._requests(kind, case)):
                return (
                    f"no pod waits for a node: the scheduler would put it on {node.name}, where a share is free that no"
                    " further replica is to have; let such nodes have as many shares to a GPU as pay"
                )
        return ""

    def conflict(self, kind: _Kind, case: Case) -> str:
        """What the scheduler could give a pod of this kind against the plan, now or in a moment; empty: nothing."""
        resource, requests = kind.candidate.offer.resource, self._requests(kind, case)
        if kind.unit in self._to_start:
            return f"no pod waits for a node while another replica is to start on {kind.unit[1]}"
        for node in self._of(kind, case):
            moving = self._moving.get((node.name, resource))
            if moving is not None:
                return f"no pod waits for a node while {moving} on {node.name}"
            free = free_on(node, tuple(self._pods.get(node.name, ())))
            if all(free.get(name, 0) >= amount for name, amount in requests.items()):
                return f"no pod waits for a node while a share is free on {node.name}"
        return ""

    def _of(self, kind: _Kind, case: Case) -> Iterator[GpuNode]:
        """Nodes that have such shares, and that take pods of this deployment."""
        resource = kind.candidate.offer.resource
        candidates = case.room.candidates if case.room is not None else ()
        suited = {candidate.node for candidate in candidates if candidate.offer.resource == resource}
        for node in self._world.nodes:
            labels = node.view.labels
            if node.name in suited and all(labels.get(key) == value for key, value in kind.labels):
                yield node

    @staticmethod
    def _requests(kind: _Kind, case: Case) -> dict[str, int]:
        assert case.need is not None  # noqa: S101 - a case without is frozen
        candidate = kind.candidate
        return case.need.requests(candidate.offer.resource, engines=replicas_in(candidate.share))


def _pinning(share: Share) -> tuple[str, ...]:
    """The labels that say which kind of share a node's resource is.

    The resource says the rest: the profile of a MIG slice is its name, or (single strategy) in the product label, which
    also ends in -SHARED where whole GPUs are shared under their usual name.
    """
    match share:
        case Exclusive() | MpsPack() | MigSlice() | DraClaim():
            return (PRODUCT,)
        case MpsShare():
            return (PRODUCT, "nvidia.com/gpu.replicas", "nvidia.com/gpu.sharing-strategy")
        case _:
            assert_never(share)


def _labels(share: Share, there: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A node's labels that pin a share of it."""
    return tuple((key, there[key]) for key in _pinning(share))


def _signature(node: GpuNode, demand: Demand) -> object:
    """Nodes that are alike to a demand need one look."""
    keys = (PRODUCT, *demand.node_selector)
    offers = tuple((offer.share, offer.per_gpu, offer.gpus) for offer in node.offers)
    return tuple(node.view.labels.get(key) for key in keys), node.view.taints, offers


def _emptied(node: GpuNode) -> GpuNode:
    free = unhindered(node)
    plenty = {"cpu": _PLENTY, "memory": _PLENTY, "pods": _PLENTY}
    return replace(free, view=replace(free.view, allocatable={**free.view.allocatable, **plenty}))


def _whole(product: str, demand: Demand) -> NodeView:
    """A node with one whole GPU, as the spec wants its labels."""
    return NodeView(
        name=product,
        labels={**demand.node_selector, PRODUCT: product},
        taints=(),
        unschedulable=False,
        ready=True,
        allocatable={GPU: 1},
    )


def _no_kind(demand: Demand) -> str:
    if demand.mode in {Mode.MIG, Mode.MPS, Mode.DRA}:
        return (
            f"no pod waits for a node: none that is there shows how {demand.mode.value} shares look that suit; keep one"
            " such node, or use mode Auto, Exclusive or MPSPack with spec.sharing.gpuProducts"
        )
    if demand.gpu_products:
        return "no pod waits for a node: no whole GPU of spec.sharing.gpuProducts suits, or none is in the catalogue"
    return (
        "no pod waits for a node: none that is there suits, and spec.sharing.gpuProducts names no GPU to ask for; name"
        " the products that the node autoscaler may bring"
    )


def _withdraw(pod: PodView, demand: Demand, book: Book) -> DeletePod:
    record = pod.record
    assert record is not None  # noqa: S101 - a book holds our own pods only
    if record.spec_hash != demand.spec_hash:
        problem = Problem(reason=Reason.ROLLOUT, message="it waited for a node, and the spec changed")
    elif replicas_of(book.pending) > book.wanted:
        problem = Problem(reason=Reason.SCALED_DOWN, message="it waited for a node, and fewer replicas are missing")
    else:
        message = "it waited for a node; its replica has room now, or is asked for in another way"
        problem = Problem(reason=Reason.REPLACED, message=message)
    return DeletePod(
        pod=pod.key, uid=pod.uid, deployment=record.deployment, problem=problem, spec_hash=record.spec_hash
    )


def _alone(pod: PodView) -> tuple[str, str] | None:
    """The kind that a pod which waits for a node asks for, where such start alone."""
    record = pod.record
    return (record.resource, record.share) if pod.awaits_node and record is not None and record.starts_alone else None


def _unit(pod: NewPod) -> tuple[str, str]:
    return pod.candidate.offer.resource, describe_share(pod.candidate.share)
