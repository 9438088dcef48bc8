"""What `slmpack top --nodes` says of GPUs: who holds what, by the API server, and what Prometheus measures.

They are two lists: which GPU of its node a pod got is the kubelet's choice, so the first has no UUIDs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slmpack.domain.gpu import GpuCatalogue
from slmpack.domain.inventory import read_nodes
from slmpack.domain.picture import draw_bars
from slmpack.domain.plan import GpuBar
from slmpack.domain.snapshot import Snapshot

__all__ = ["GpuRow", "gpu_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """One GPU or MIG slice of a node; or several slices that nobody holds."""

    node: str
    product: str
    resource: str
    unit: str
    """`GPU 0`, `1g.10gb`, or `3 x 1g.10gb`; the number is assumed."""
    held_bytes: int
    """Limits of what is on it; not memory that is measured."""
    usable_bytes: int
    """Of all units of the row; 0 where nobody knows."""
    ready: int
    """Replicas."""
    replicas: int
    others: int
    """Pods and claims that are not slmpack's."""
    holders: tuple[str, ...]
    """Pods, with the engine in a pack."""
    note: str
    """Why it offers nothing, if so."""


def gpu_rows(snapshot: Snapshot, catalogue: GpuCatalogue) -> tuple[GpuRow, ...]:
    """Those of every node, in order of node and resource, as they are now: nothing planned is in it."""
    pods = [pod for pod in snapshot.pods if not pod.finished]
    bars = draw_bars(read_nodes(snapshot.nodes, catalogue), pods, (), ending=())
    return tuple(_row(group) for group in _together(bars))


def _together(bars: Iterable[GpuBar]) -> Iterable[list[GpuBar]]:
    """Free slices of one kind are one row; a GPU is one of its own."""
    group: list[GpuBar] = []
    for bar in bars:
        if group and not (_is_free_slice(bar) and _is_free_slice(group[-1]) and _kind(bar) == _kind(group[-1])):
            yield group
            group = []
        group.append(bar)
    if group:
        yield group


def _is_free_slice(bar: GpuBar) -> bool:
    return bar.is_slice and not bar.blocks


def _kind(bar: GpuBar) -> tuple[str, str]:
    return bar.node, bar.resource


def _row(bars: Sequence[GpuBar]) -> GpuRow:
    bar = bars[0]
    replicas = [block for block in bar.blocks if block.deployment is not None and block.state != "idle"]
    unit = bar.profile or (f"GPU {bar.index}" if bar.index is not None else "")
    return GpuRow(
        node=bar.node,
        product=bar.product,
        resource=bar.resource,
        unit=f"{len(bars)} x {unit}" if len(bars) > 1 else unit,
        held_bytes=sum(block.used_bytes for block in bar.blocks),
        usable_bytes=sum(it.usable_bytes for it in bars),
        ready=sum(block.state == "ready" for block in replicas),
        replicas=len(replicas),
        others=sum(block.deployment is None for block in bar.blocks),
        holders=tuple(block.label for block in bar.blocks if block.state != "idle"),
        note=bar.note,
    )
