"""The packing as bars (GPUs or MIG slices) and blocks (replicas). Values only; the CLI draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import assert_never

from slmpack.domain.dra import MIG_CLASS, is_claimed
from slmpack.domain.inventory import MIG_PREFIX, GpuNode, Offer, where
from slmpack.domain.plan import Block, DeploymentPlan, GpuBar, Placement
from slmpack.domain.sharing import (
    DraClaim,
    Exclusive,
    MigSlice,
    MpsPack,
    MpsShare,
    cuda_total_bytes,
    describe_share,
    limit_bytes,
    replicas_in,
)
from slmpack.domain.snapshot import PodView

__all__ = ["BarState", "bar_state", "draw_bars"]

_RUNNING = frozenset({"ready", "starting"})


class BarState(StrEnum):
    """What a GPU or slice is to us now."""

    USED = "used"
    """A replica runs or starts on it."""
    HELD = "held"
    """By others, by what ends, or for what starts later."""
    FREE = "free"


def bar_state(bar: GpuBar) -> BarState:
    """By its blocks; not for GPUs that are not offered."""
    if any(block.deployment is not None and block.state in _RUNNING for block in bar.blocks):
        return BarState.USED
    return BarState.HELD if bar.blocks else BarState.FREE


def draw_bars(
    nodes: Sequence[GpuNode], pods: Sequence[PodView], plans: Sequence[DeploymentPlan], *, ending: Collection[str]
) -> tuple[GpuBar, ...]:
    """Every GPU and slice of `nodes`, in order of node and resource."""
    bars: list[GpuBar] = []
    by_node: dict[str, list[PodView]] = {}
    for pod in sorted(pods, key=lambda p: p.key):
        by_node.setdefault(where(pod) or "", []).append(pod)
    for node in nodes:
        for offer in node.offers:
            blocks = _blocks(node, offer, by_node.get(node.name, ()), plans, ending)
            bars.extend(_deal(node, offer, blocks))
        bars.extend(_withdrawn(node, by_node.get(node.name, ()), ending))
        bars.extend(
            GpuBar(
                node=node.name,
                resource="",
                index=None,
                index_basis=None,
                product=node.product,
                usable_bytes=0,
                blocks=(),
                note=f"{refusal.reason.value}: {refusal.message}",
                refusal=refusal.reason,
            )
            for refusal in node.refusals
        )
    return tuple(bars)


def _blocks(
    node: GpuNode, offer: Offer, pods: Sequence[PodView], plans: Sequence[DeploymentPlan], ending: Collection[str]
) -> list[tuple[Block, ...]]:
    """What is on each unit of the offer: one block, or those of a pack."""
    found = [_of_pod(pod, offer, ending) for pod in pods for _ in range(pod.requests.get(offer.resource, 0))]
    found.extend([(_of_claim(offer),)] * node.view.used_by_others.get(offer.resource, 0))
    for plan in plans:
        planned = [(create.placement, create.name, create.record.pack) for create in plan.creates]
        found.extend(
            _planned(plan, placement, name=name, state="planned", running=() if pack is None else pack.running)
            for placement, name, pack in planned
            if (placement.node, placement.share.resource) == (node.name, offer.resource)
        )
        found.extend(
            _planned(plan, placement, name=f"{plan.deployment.key.name}-*", state="waiting", running=running)
            for placement, running in _waiting(plan)
            if (placement.node, placement.share.resource) == (node.name, offer.resource)
        )
    return found


def _waiting(plan: DeploymentPlan) -> Iterator[tuple[Placement, tuple[int, ...]]]:
    """The pods of the replicas that start later, with the engines that will run in them."""
    for placement, count in Counter(placement for placement, _ in plan.waiting).items():
        size = replicas_in(placement.share)
        for first in range(0, count, size):
            yield placement, tuple(range(min(size, count - first)))


def _of_pod(pod: PodView, offer: Offer, ending: Collection[str]) -> tuple[Block, ...]:
    record, size = pod.record, limit_bytes(offer.share)
    block = Block(
        label=str(pod.key),
        deployment=record.deployment if record is not None else None,
        share=record.share if record is not None else "",
        used_bytes=size,
        state=_pod_state(pod, ending),
        pod=pod.key,
    )
    if record is None or record.pack is None:
        return (block,)
    running = record.pack.running
    ready = pod.pack.ready(running) if pod.pack is not None else running[:1]  # as in a replica's state
    return tuple(
        replace(
            block,
            label=f"{pod.key} engine {index}",
            engine=index,
            used_bytes=size // record.pack.engines,
            state="idle" if index not in running else _engine_state(block.state, index in ready),
        )
        for index in range(record.pack.engines)
    )


def _of_claim(offer: Offer) -> Block:
    size = limit_bytes(offer.share)
    return Block(label="another's ResourceClaim", deployment=None, share="", used_bytes=size, state="foreign")


def _engine_state(pod: str, ready: bool) -> str:
    return "starting" if pod == "ready" and not ready else pod


def _planned(
    plan: DeploymentPlan, placement: Placement, *, name: str, state: str, running: tuple[int, ...]
) -> tuple[Block, ...]:
    share, key = placement.share, plan.deployment.key
    block = Block(
        label=f"{key.namespace}/{name}",
        deployment=key,
        share=describe_share(share),
        used_bytes=limit_bytes(share),
        state=state,
    )
    if not isinstance(share, MpsPack):
        return (block,)
    return tuple(
        replace(
            block,
            label=f"{block.label} engine {index}",
            engine=index,
            used_bytes=limit,
            state=state if index in running else "idle",
        )
        for index, limit in enumerate(share.limits_bytes)
    )


def _withdrawn(node: GpuNode, pods: Sequence[PodView], ending: Collection[str]) -> list[GpuBar]:
    """Bars of what pods hold although the node offers it no more (or never did): nobody knows its size."""
    held: dict[str, list[Block]] = {}
    for pod in pods:
        for resource in sorted(pod.requests.keys() - {offer.resource for offer in node.offers}):
            block = Block(
                label=str(pod.key),
                deployment=pod.record.deployment if pod.record is not None else None,
                share=pod.record.share if pod.record is not None else "",
                used_bytes=0,
                state=_pod_state(pod, ending),
                pod=pod.key,
            )
            if resource.startswith("nvidia.com/") or is_claimed(resource):
                held.setdefault(resource, []).extend([block] * pod.requests[resource])
    return [
        GpuBar(
            node=node.name,
            resource=resource,
            index=None,
            index_basis=None,
            product=node.product,
            usable_bytes=0,
            blocks=tuple(blocks),
            note="in use, but not offered",
            profile=_profile(resource),
        )
        for resource, blocks in sorted(held.items())
    ]


def _profile(resource: str) -> str:
    """Of the slice that a resource's name tells of; empty for GPUs."""
    for prefix in (MIG_PREFIX, f"{MIG_CLASS}/"):
        if resource.startswith(prefix):
            return resource.removeprefix(prefix)
    return ""


def _pod_state(pod: PodView, ending: Collection[str]) -> str:
    if pod.deleting or pod.ended or pod.uid in ending:
        return "ending"
    if pod.record is None:
        return "foreign"
    return "ready" if pod.ready else "starting"


def _deal(node: GpuNode, offer: Offer, blocks: Sequence[tuple[Block, ...]]) -> list[GpuBar]:
    """Blocks go to GPUs in turn: the device plugin's default is the least loaded GPU (`distributed`, since v0.20)."""
    match offer.share:
        case MigSlice() | DraClaim():
            size, per_bar, count, basis = limit_bytes(offer.share), 1, offer.units, None
            profile = offer.share.profile
        case Exclusive() | MpsShare():
            per_bar = -(-offer.units // offer.gpus)
            size, count, basis = cuda_total_bytes(offer.share), offer.gpus, "assumed"
            profile = ""
        case _:
            assert_never(offer.share)
    # more blocks than allocatable units: the device plugin withdrew some while pods hold them
    count = max(count, -(-len(blocks) // per_bar))
    return [
        GpuBar(
            node=node.name,
            resource=offer.resource,
            index=number if basis else None,
            index_basis=basis,
            product=node.product,
            usable_bytes=size,
            blocks=tuple(block for unit in blocks[number::count] for block in unit),
            profile=profile,
        )
        for number in range(count)
    ]
