"""The packing as bars (GPUs or MIG slices) and blocks (replicas). Values only; the CLI draws them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import assert_never

from slmpack.domain.inventory import GpuNode, Offer, where
from slmpack.domain.plan import Block, DeploymentPlan, GpuBar
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare, cuda_total_bytes, describe_share, limit_bytes
from slmpack.domain.snapshot import PodView

__all__ = ["draw_bars"]


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
            )
            for refusal in node.refusals
        )
    return tuple(bars)


def _blocks(
    node: GpuNode, offer: Offer, pods: Sequence[PodView], plans: Sequence[DeploymentPlan], ending: Collection[str]
) -> list[Block]:
    unit = limit_bytes(offer.share)
    blocks = [
        Block(
            label=str(pod.key),
            deployment=pod.record.deployment if pod.record is not None else None,
            share=describe_share(offer.share) if pod.record is not None else "",
            used_bytes=unit,
            state=_pod_state(pod, ending),
        )
        for pod in pods
        for _ in range(pod.requests.get(offer.resource, 0))
    ]
    for plan in plans:
        planned = [(create.placement, create.name, "planned") for create in plan.creates]
        later = [(placement, f"{plan.deployment.key.name}-*", "waiting") for placement, _ in plan.waiting]
        blocks.extend(
            Block(
                label=f"{plan.deployment.key.namespace}/{name}",
                deployment=plan.deployment.key,
                share=describe_share(offer.share),
                used_bytes=unit,
                state=state,
            )
            for placement, name, state in (*planned, *later)
            if placement.node == node.name and placement.share.resource == offer.resource
        )
    return blocks


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
            )
            if resource.startswith("nvidia.com/"):
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
        )
        for resource, blocks in sorted(held.items())
    ]


def _pod_state(pod: PodView, ending: Collection[str]) -> str:
    if pod.deleting or pod.ended or pod.uid in ending:
        return "ending"
    if pod.record is None:
        return "foreign"
    return "ready" if pod.ready else "starting"


def _deal(node: GpuNode, offer: Offer, blocks: Sequence[Block]) -> list[GpuBar]:
    """Blocks go to GPUs in turn: the device plugin's default is the least loaded GPU (`distributed`, since v0.20)."""
    match offer.share:
        case MigSlice():
            size, per_bar, count, basis = limit_bytes(offer.share), 1, offer.units, None
        case Exclusive() | MpsShare():
            per_bar = -(-offer.units // offer.gpus)
            size, count, basis = cuda_total_bytes(offer.share), offer.gpus, "assumed"
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
            blocks=tuple(blocks[number::count]),
        )
        for number in range(count)
    ]
