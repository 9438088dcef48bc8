"""What if: the MIG layout of each GPU with which the most replicas fit and pay. Nothing here is ever applied.

Every GPU counts as empty and uncut, and is cut by itself, one after another: each layout of the catalogue is packed by
the planner's own rules with the replicas that have no instance yet. The best by `_rank` stays. Instances that do not
suffice are used only where not all replicas find one that does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from slmpack.domain.board import Candidate, Room, Want
from slmpack.domain.case import World, open_cases
from slmpack.domain.gpu import GpuModel
from slmpack.domain.inventory import MIG_PREFIX, SINGLE, GpuNode, Offer, label_int
from slmpack.domain.mig_layout import Layout, layouts_of, stock_name
from slmpack.domain.packing import candidates_for, pack, unhindered
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem
from slmpack.domain.sharing import Exclusive, MigSlice, limit_bytes
from slmpack.domain.sizing import Need
from slmpack.domain.snapshot import Demand, Key, Policy

__all__ = ["CutGpu", "Holder", "NodeLayouts", "Proposal", "Served", "propose_layouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The replica that an instance would hold."""

    deployment: Key
    sufficient: bool
    """Whether the instance carries the knee (and the replica's part of a load that somebody stated)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutGpu:
    """One GPU, cut."""

    layout: Layout
    holders: tuple[Holder | None, ...]
    """One for each of the layout's slots; None: the instance stays free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayouts:
    """The GPUs of one node."""

    node: GpuNode
    gpu: GpuModel
    gpus: tuple[CutGpu | None, ...]
    """At least one is cut. None: no replica needs the GPU, which stays whole."""
    at_least: bool
    """Whether the labels do not say how many GPUs the node has: it may have more."""

    @property
    def stock(self) -> str | None:
        """The MIG manager's name for this layout of all GPUs, if it has one."""
        return None if None in self.gpus else self.stock_for_all

    @property
    def stock_for_all(self) -> str | None:
        """The same for those GPUs that are cut: it would cut the others as well."""
        layouts = {cut.layout for cut in self.gpus if cut is not None}
        return stock_name(self.gpu, layouts.pop()) if len(layouts) == 1 else None

    @property
    def is_there(self) -> bool:
        """Whether the node has just these instances already, by their number."""
        wanted = Counter(slot.profile.name for cut in self.gpus if cut is not None for slot in cut.layout.slots)
        present = {o.share.profile: o.units for o in self.node.offers if isinstance(o.share, MigSlice)}
        return None not in self.gpus and not self.at_least and dict(wanted) == present


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How far one SLMDeployment comes."""

    deployment: Key
    wanted: int
    placed: int
    problem: Problem | None
    """Why not even the largest instance of any node would hold a replica; None: one would, or there is no node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The layouts, in order of the nodes' names, and whom they serve."""

    nodes: tuple[NodeLayouts, ...]
    served: tuple[Served, ...]
    unknown: tuple[str, ...]
    """Nodes with MIG whose instances have no memory in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One SLMDeployment that is to be served."""

    key: Key
    demand: Demand
    need: Need
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """One node that can be cut: empty, uncordoned and Ready."""

    node: GpuNode
    gpu: GpuModel
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """One GPU with a layout and what it takes off the queue."""

    rank: tuple[int, ...]
    layout: Layout
    placed: tuple[tuple[Want, Candidate], ...]


def propose_layouts(world: World, *, asked: Collection[Key]) -> Proposal:
    """Layouts for every GPU of the nodes that can be cut, for all replicas of the SLMDeployments that are asked about.

    Other SLMDeployments and everything that runs on GPUs count as gone.
    """
    wanted = tuple(
        _Asked(key=case.view.key, demand=case.demand, need=case.need, created=case.view.created)
        for case in open_cases(world)
        if case.view.key in asked and case.demand is not None and case.need is not None
    )
    capable = tuple(
        _Site(node=node, gpu=node.gpu, layouts=layouts_of(node.gpu))
        for node in world.nodes
        if node.gpu is not None and node.gpu.mig_profiles and node.view.labels.get("nvidia.com/mig.capable") != "false"
    )
    sites = tuple(site for site in capable if site.layouts)
    queue = _Queue(wanted, world.policy, sufficient=True)
    nodes = queue.cut(sites)
    if queue.wants:
        any_size = _Queue(wanted, world.policy, sufficient=False)
        others = any_size.cut(sites)
        if any_size.reach > queue.reach:
            queue, nodes = any_size, others
    left = Counter(want.deployment for want in queue.wants)
    return Proposal(
        nodes=nodes,
        served=tuple(
            Served(
                deployment=each.key,
                wanted=each.demand.replicas,
                placed=each.demand.replicas - left[each.key],
                problem=_never(each, sites, world.policy),
            )
            for each in wanted
        ),
        unknown=tuple(site.node.name for site in capable if not site.layouts),
    )


def _never(asked: _Asked, sites: Sequence[_Site], policy: Policy) -> Problem | None:
    """The most telling reason where the largest instance of no node holds a replica."""
    largest = [
        _with(site.node, max(site.layouts, key=lambda layout: max(s.profile.memory_slices for s in layout.slots)))
        for site in sites
    ]
    room = candidates_for(asked.demand, asked.need, largest, policy)
    return None if room.candidates or not room.rejections else room.rejections[0]


def _wants(asked: Sequence[_Asked]) -> list[Want]:
    """Every replica in D4b's order: priority, nth replica, creation, namespace/name."""
    queue = [
        ((-each.demand.priority, nth, each.created, each.key), each)
        for each in asked
        for nth in range(each.demand.replicas)
    ]
    queue.sort(key=lambda entry: entry[0])
    return [Want(id=number, deployment=each.key, need=each.need) for number, (_, each) in enumerate(queue)]


class _Queue:
    """Replicas without an instance, while one GPU after another is cut."""

    def __init__(self, asked: Sequence[_Asked], policy: Policy, *, sufficient: bool) -> None:
        self.wants = _wants(asked)
        self.served: set[Key] = set()
        self._asked, self._policy = asked, policy
        self._sufficient = sufficient
        """Whether instances that do not suffice stay unused."""

    @property
    def reach(self) -> tuple[int, int]:
        """SLMDeployments with a replica, and replicas less a constant: the larger the better."""
        return len(self.served), -len(self.wants)

    def cut(self, sites: Sequence[_Site]) -> tuple[NodeLayouts, ...]:
        """The layouts of all nodes."""
        return tuple(found for site in sites if (found := self._cut_node(site)) is not None)

    def _cut_node(self, site: _Site) -> NodeLayouts | None:
        """Layouts for the GPUs of one node; None where no replica is left that wants one, or none fits."""
        count, at_least = _gpus_of(site.node)
        view, empty = site.node.view, unhindered(site.node)
        left = {name: view.allocatable.get(name, 0) - view.used_by_others.get(name, 0) for name in _BESIDE}
        cuts: list[CutGpu | None] = []
        before: Layout | None = None
        while len(cuts) < count:
            cut = self._cut(replace(site, node=replace(empty, view=replace(empty.view, allocatable=left))), before)
            if cut is None:
                break
            cuts.append(_held(cut))
            before = cut.layout
            for want, _ in cut.placed:
                taken = want.need.requests("")
                left = {name: amount - taken[name] for name, amount in left.items()}
        if not cuts:
            return None
        cuts += [None] * (count - len(cuts))
        return NodeLayouts(node=site.node, gpu=site.gpu, gpus=tuple(cuts), at_least=at_least)

    def _cut(self, site: _Site, before: Layout | None) -> _Cut | None:
        """The best layout of the next GPU; its replicas leave the queue."""
        tried = [self._try(site, layout, before) for layout in site.layouts] if self.wants else []
        best = max((cut for cut in tried if cut.placed), key=lambda cut: cut.rank, default=None)
        if best is not None:
            taken = {want.id for want, _ in best.placed}
            self.wants = [want for want in self.wants if want.id not in taken]
            self.served |= {want.deployment for want, _ in best.placed}
        return best

    def _try(self, site: _Site, layout: Layout, before: Layout | None) -> _Cut:
        node = _with(site.node, layout)
        rooms = {each.key: self._room(each, node) for each in self._asked}
        found = pack(self.wants, rooms, (node,), (), self._policy).packed
        placed = tuple((each.want, each.candidate) for each in found if each.candidate is not None)
        return _Cut(rank=self._rank(site.gpu, layout, placed, before), layout=layout, placed=placed)

    def _room(self, asked: _Asked, node: GpuNode) -> Room:
        room = candidates_for(asked.demand, asked.need, (node,), self._policy)
        if not self._sufficient:
            return room
        return replace(room, candidates=tuple(candidate for candidate in room.candidates if candidate.fit.sufficient))

    def _rank(
        self, gpu: GpuModel, layout: Layout, placed: Sequence[tuple[Want, Candidate]], before: Layout | None
    ) -> tuple[int, ...]:
        """The larger the better, the first figure that differs decides.

        SLMDeployments with a replica; replicas; those whose instance suffices; tokens/s of the others; the least memory
        for them; the layout of the GPU before; a stock name; memory that instances cover.
        """
        return (
            len(self.served | {want.deployment for want, _ in placed}),
            len(placed),
            sum(candidate.fit.sufficient for _, candidate in placed),
            sum(round(candidate.fit.each_tok_s) for _, candidate in placed if not candidate.fit.sufficient),
            -sum(limit_bytes(candidate.share) for _, candidate in placed),
            int(layout == before),
            int(stock_name(gpu, layout) is not None),
            sum(slot.profile.memory_slices for slot in layout.slots),
        )


_BESIDE = ("cpu", "memory", "pods")
"""What replicas take of a node beside its GPUs."""


def _gpus_of(node: GpuNode) -> tuple[int, bool]:
    """How many GPUs the node has, and whether it may have more: in the single strategy `gpu.count` counts instances."""
    count = label_int(node.view.labels, "nvidia.com/gpu.count", 0)
    if count and SINGLE not in node.view.labels.get("nvidia.com/gpu.product", ""):
        return count, False
    whole = bool(node.offers) and all(isinstance(offer.share, Exclusive) for offer in node.offers)
    return max((offer.gpus for offer in node.offers), default=1), not whole


def _with(node: GpuNode, layout: Layout) -> GpuNode:
    """The node as if it had this one GPU."""
    offers = tuple(
        Offer(
            share=MigSlice(
                resource=f"{MIG_PREFIX}{profile.name}",
                profile=profile.name,
                memory_bytes=(profile.memory_mib or 0) * MIB,
            ),
            units=count,
            gpus=1,
        )
        for profile, count in layout.counts
    )
    allocatable = {**node.view.allocatable, **{offer.resource: offer.units for offer in offers}}
    return replace(node, view=replace(node.view, allocatable=allocatable), offers=offers, refusals=())


def _held(cut: _Cut) -> CutGpu:
    """Replicas on instances of their profile, in order of their starts."""
    waiting: dict[str, list[Holder]] = {}
    for want, candidate in cut.placed:
        holder = Holder(deployment=want.deployment, sufficient=candidate.fit.sufficient)
        waiting.setdefault(candidate.offer.resource, []).append(holder)
    queues = [waiting.get(f"{MIG_PREFIX}{slot.profile.name}", []) for slot in cut.layout.slots]
    return CutGpu(layout=cut.layout, holders=tuple(queue.pop(0) if queue else None for queue in queues))
