"""`slmpack plan --propose-layout`: MIG layouts that would serve the SLMDeployments, and how to set them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from slmpack.cli.draw import LONGEST_BAR, Glyphs, glyphs_of
from slmpack.cli.one_line import one_line
from slmpack.domain.mig import memory_slices
from slmpack.domain.mig_layout import Layout, Slot
from slmpack.domain.mig_proposal import CutGpu, Holder, NodeLayouts, Proposal

__all__ = ["layouts_to_json", "print_layouts"]

Json = dict[str, Any]
EDGES = 2
WARNING = (
    "Nothing was changed, and slmpack never changes a layout. Before you set a label, drain the node's GPU pods:"
    " NVIDIA's MIG manager evicts none. It stops the device plugin, cuts the GPUs and starts it again, which takes"
    " minutes, or a reboot; nvidia.com/mig.config.state says how it went. The starts drawn are one way that the rules"
    " allow."
)
NO_CAPABLE = "No node has a GPU that can be cut into MIG instances."


def print_layouts(console: Console, proposal: Proposal) -> None:
    """Whom the layouts serve, each GPU's picture on its memory axis, and the label or configuration to set."""
    console.print(Text("\nProposed MIG layouts", style="bold").append(" (what if: on empty GPUs)", style="not bold"))
    for served in proposal.served:
        line = f"{served.deployment}: {served.placed} of {served.wanted} replicas have an instance"
        why = f"; {served.problem.reason.value}: {served.problem.message}" if served.problem else ""
        _say(console, line + why)
    for name in proposal.unknown:
        _say(console, f"node {name}: the memory of its instances is not in the catalogue, so nothing is proposed")
    names = _names(proposal.nodes)
    for node in proposal.nodes:
        _print_node(console, node, names[node.node.name])
    if not proposal.nodes and not proposal.unknown and not any(served.problem for served in proposal.served):
        _say(console, NO_CAPABLE)
    if any(not node.is_there for node in proposal.nodes):
        console.print(Text(WARNING, style="yellow"))


def layouts_to_json(proposal: Proposal) -> Json:
    """The proposal as plain values."""
    names = _names(proposal.nodes)
    return {
        "deployments": [
            {
                "namespace": served.deployment.namespace,
                "name": served.deployment.name,
                "wanted": served.wanted,
                "placed": served.placed,
                "reason": served.problem.reason.value if served.problem else None,
            }
            for served in proposal.served
        ],
        "nodes": [
            {
                "node": node.node.name,
                "product": node.node.product,
                "config": names[node.node.name],
                "stock": node.stock is not None,
                "is_there": node.is_there,
                "gpus": [_gpu(cut) for cut in node.gpus],
            }
            for node in proposal.nodes
        ],
    }


def _gpu(cut: CutGpu | None) -> list[Json] | None:
    if cut is None:
        return None
    return [
        {
            "profile": slot.profile.name,
            "start": slot.start,
            "memory_slices": slot.profile.memory_slices,
            "deployment": str(holder.deployment) if holder else None,
            "sufficient": holder.sufficient if holder else None,
        }
        for slot, holder in zip(cut.layout.slots, cut.holders, strict=True)
    ]


def _names(nodes: Sequence[NodeLayouts]) -> dict[str, str]:
    """Of each node's configuration: the MIG manager's, else one of ours, the same for the same layouts."""
    own: dict[tuple[Layout | None, ...], str] = {}
    names: dict[str, str] = {}
    for node in nodes:
        layouts = _layouts(node)
        names[node.node.name] = node.stock or own.setdefault(layouts, f"slmpack-{len(own) + 1}")
    return names


def _layouts(node: NodeLayouts) -> tuple[Layout | None, ...]:
    layouts = tuple(None if cut is None else cut.layout for cut in node.gpus)
    return layouts[:1] if len(set(layouts)) == 1 else layouts


def _print_node(console: Console, node: NodeLayouts, config: str) -> None:
    console.print(Text(one_line(f"{node.node.name}  {node.node.product}"), style="bold", overflow="fold"))
    glyphs = glyphs_of(console)
    for number, cut in enumerate(node.gpus):
        if cut is None:
            _say(console, f"GPU {number}: no replica needs it; it stays whole")
            continue
        _say(console, f"GPU {number}: {cut.layout.name}")
        _say(console, _axis(cut, memory_slices(node.gpu), width=console.width - 2, glyphs=glyphs))
        _say(console, _holders(cut))
    if node.at_least:
        _say(console, "The labels do not say how many GPUs the node has: it may have more.")
    if node.is_there:
        _say(console, "The node has just these instances already.")
        return
    if node.stock is None:
        _say(console, "No stock layout: add this to the config.yaml of the MIG manager's ConfigMap:")
        for line in _config(node, config):
            console.print(Text(f"    {one_line(line)}", overflow="fold"))
        if node.stock_for_all is not None:
            _say(console, f"Or cut all GPUs of the node alike: {node.stock_for_all} instead of {config}.")
    strategy = _strategy(node)
    if strategy:
        _say(console, strategy)
    name = quote(one_line(node.node.name))
    console.print(Text(f"  kubectl label node {name} nvidia.com/mig.config={config} --overwrite", overflow="fold"))


def _say(console: Console, text: str) -> None:
    console.print(Padding(Text(one_line(text), overflow="fold"), (0, 0, 0, 2), expand=False))


def _axis(cut: CutGpu, slices: int, *, width: int, glyphs: Glyphs) -> str:
    """One block an instance, as wide as its memory slices; what no instance covers is free."""
    cell = max(1, min(width, LONGEST_BAR) // slices)
    line = ""
    for slot, holder in zip(cut.layout.slots, cut.holders, strict=True):
        line = line.ljust(slot.start * cell, glyphs.free)
        line += _block(slot, holder, slot.profile.memory_slices * cell, glyphs)
    return line.ljust(slices * cell, glyphs.free)


def _block(slot: Slot, holder: Holder | None, width: int, glyphs: Glyphs) -> str:
    if width < EDGES:
        return glyphs.left * width
    inner, fill = width - EDGES, glyphs.free if holder is None else glyphs.fill["planned"]
    names = [slot.profile.name, slot.profile.name.partition(".")[0], ""]
    if holder is not None:
        names.insert(0, one_line(f"{slot.profile.name} {holder.deployment.name}"))
    label = next(name for name in names if cell_len(name) <= inner)
    return glyphs.left + label.ljust(inner, fill) + glyphs.right


def _holders(cut: CutGpu) -> str:
    """Which SLMDeployment has which instances, and what stays free."""
    pairs = list(zip(cut.layout.slots, cut.holders, strict=True))
    held = Counter((str(h.deployment), slot.profile.name, h.sufficient) for slot, h in pairs if h is not None)
    free = Counter(slot.profile.name for slot, holder in pairs if holder is None)
    words = [
        f"{name} {count} x {profile}" + ("" if sufficient else " (holds less than its knee or its load)")
        for (name, profile, sufficient), count in held.items()
    ]
    return ", ".join([*words, *(f"free {count} x {profile}" for profile, count in free.items())])


def _config(node: NodeLayouts, name: str) -> Iterator[str]:
    """In mig-parted's format, version v1; GPUs that are cut alike stand together."""
    yield from ("version: v1", "mig-configs:", f"  {name}:")
    layouts = _layouts(node)
    for layout in dict.fromkeys(layouts):
        indexes = ", ".join(str(number) for number, other in enumerate(layouts) if other == layout)
        yield f"  - devices: {'all' if len(layouts) == 1 else f'[{indexes}]'}"
        if layout is None:
            yield "    mig-enabled: false"
            continue
        yield from ("    mig-enabled: true", "    mig-devices:")
        yield from (f'      "{profile.name}": {count}' for profile, count in layout.counts)


def _strategy(node: NodeLayouts) -> str:
    """What the device plugin's MIG strategy must be for the instances to be offered; empty where it is."""
    present = node.node.view.labels.get("nvidia.com/mig.strategy", "none")
    cut = [each.layout for each in node.gpus if each is not None]
    alike = len(cut) == len(node.gpus) and len({profile for layout in cut for profile, _ in layout.counts}) == 1
    if present == "mixed" or (present == "single" and alike):
        return ""
    works = "mixed or single" if alike else "mixed"
    return f"The device plugin's MIG strategy (mig.strategy in the ClusterPolicy) is {present}; set it to {works}."
