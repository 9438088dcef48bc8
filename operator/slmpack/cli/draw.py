"""The packing as a picture: one bar per GPU or MIG slice, one block per replica, widths by bytes of usable memory.

The picture reads the same without colour and in a pipe: the edges of a block are characters, not colours. Where a
block is too narrow for its name, the names stand below the bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from slmpack.cli.one_line import one_line
from slmpack.domain.plan import Block, GpuBar
from slmpack.domain.plan_words import MEANING
from slmpack.domain.quantity import format_bytes

__all__ = ["Glyphs", "block_widths", "draw_bars", "glyphs_of"]

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
LONGEST_BAR = 96
LONGEST_SLICE = 48
SHORTEST_BAR = 8
EDGES = 2
INDENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """The characters of a picture."""

    left: str
    right: str
    fill: dict[str, str]
    """By state of the block."""
    free: str


UNICODE = Glyphs(
    left="▐",
    right="▌",
    fill={"ready": "█", "starting": "▓", "planned": "▒", "waiting": "░", "ending": "/", "foreign": "X", "idle": "∙"},
    free="·",
)
ASCII = Glyphs(
    left="[",
    right="]",
    fill={"ready": "#", "starting": "=", "planned": "+", "waiting": "-", "ending": "/", "foreign": "x", "idle": "_"},
    free=".",
)


def glyphs_of(console: Console) -> Glyphs:
    """Blocks where the output can show them, plain characters elsewhere."""
    try:
        "".join((UNICODE.left, UNICODE.right, *UNICODE.fill.values())).encode(console.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def draw_bars(bars: Sequence[GpuBar], *, width: int, glyphs: Glyphs) -> RenderableType:
    """The whole picture, no line wider than `width` cells, with a legend of the states in it."""
    colours = _colours(bars)
    short = _short_names(bars)
    parts: list[RenderableType] = []
    for (node, product), group in groupby(bars, key=lambda bar: (bar.node, bar.product)):
        parts.append(Text(one_line(f"{node}  {product}").rstrip(), style="bold", overflow="fold"))
        for bar in group:
            parts.extend(_draw_bar(bar, width=width, glyphs=glyphs, look=_Look(colours=colours, short=short)))
    parts.append(_legend(bars, glyphs))
    return Group(*parts)


def block_widths(bar: GpuBar, cells: int) -> tuple[int, ...]:
    """Cells of each block: proportional to its bytes, at least one, together at most `cells`.

    The last block of a full bar ends where the bar ends: rounding is of the running sum, not of each block.
    """
    count = len(bar.blocks)
    total = max(bar.usable_bytes, sum(block.used_bytes for block in bar.blocks), 1)
    widths: list[int] = []
    taken = end = 0
    for number, block in enumerate(bar.blocks, start=1):
        end += block.used_bytes
        edge = min(max(round(end * cells / total), taken + 1), cells - (count - number))
        widths.append(edge - taken)
        taken = edge
    return tuple(widths)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    colours: dict[str, str]
    short: dict[str, str]


def _draw_bar(bar: GpuBar, *, width: int, glyphs: Glyphs, look: _Look) -> list[RenderableType]:
    if bar.note:
        return [_indented(Text(one_line(f"offers nothing: {bar.note}"), style="dim", overflow="fold"))]
    head, size = _unit(bar), _size(bar)
    beside = width - INDENT - cell_len(head) - cell_len(size) - 4
    lines: list[RenderableType] = []
    # a slice holds one replica: its bar fits beside its name
    if bar.is_slice and beside >= SHORTEST_BAR:
        cells = min(beside, LONGEST_SLICE)
        line = _line(bar, cells=cells, glyphs=glyphs, look=look)
        lines.append(_indented(Text.assemble((f"{head}  ", "dim"), line, (f"  {size}", "dim"))))
    else:
        cells = max(min(width - INDENT, LONGEST_BAR), SHORTEST_BAR)
        lines.append(_indented(Text(f"{head}  {size}", style="dim", overflow="fold")))
        if len(bar.blocks) <= cells:
            lines.append(_indented(_line(bar, cells=cells, glyphs=glyphs, look=look)))
    if not _all_named(bar, cells=cells, look=look):
        names = ", ".join(f"{look.short[block.label]} ({block.state})" for block in bar.blocks)
        lines.append(_indented(Text(names, overflow="fold")))
    return lines


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, INDENT), expand=False)


def _unit(bar: GpuBar) -> str:
    if bar.is_slice:
        return f"slice {bar.profile}"
    return f"GPU {bar.index}" + (f" ({bar.index_basis})" if bar.index_basis else "")


def _size(bar: GpuBar) -> str:
    used = sum(block.used_bytes for block in bar.blocks)
    if not used:
        return f"{format_bytes(bar.usable_bytes)}, empty"
    return f"{format_bytes(used)} of {format_bytes(bar.usable_bytes)}"


def _line(bar: GpuBar, *, cells: int, glyphs: Glyphs, look: _Look) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    widths = block_widths(bar, cells)
    named = _all_named(bar, cells=cells, look=look)
    for block, width in zip(bar.blocks, widths, strict=True):
        label = look.short[block.label] if named else ""
        line.append(_block(label, block.state, width=width, glyphs=glyphs), style=look.colours[_owner(block)])
    line.append(glyphs.free * (cells - sum(widths)), style="dim")
    return line


def _block(label: str, state: str, *, width: int, glyphs: Glyphs) -> str:
    """Edges, then the state's fill with the name in it: ▐▒ qwen-0 ▒▒▒▌."""
    fill = glyphs.fill.get(state, "?")
    if width < EDGES:
        return glyphs.left * width
    inner = width - EDGES
    text = label and f" {label} " if cell_len(label) + 3 <= inner else label
    return glyphs.left + (fill + text).ljust(inner, fill) + glyphs.right if inner else glyphs.left + glyphs.right


def _all_named(bar: GpuBar, *, cells: int, look: _Look) -> bool:
    """Whether every block has room for its edges, one character of its state, and its name."""
    if len(bar.blocks) > cells:
        return False
    widths = block_widths(bar, cells)
    return all(
        cell_len(look.short[block.label]) + EDGES + 1 <= width for block, width in zip(bar.blocks, widths, strict=True)
    )


def _legend(bars: Sequence[GpuBar], glyphs: Glyphs) -> Text:
    states = {block.state for bar in bars for block in bar.blocks}
    entries = [f"{glyphs.fill[state]} {meaning}" for state, meaning in MEANING.items() if state in states]
    entries.append(f"{glyphs.free} free")
    return Text("   ".join(entries), style="dim", overflow="fold")


def _owner(block: Block) -> str:
    return "" if block.deployment is None else str(block.deployment)


def _colours(bars: Sequence[GpuBar]) -> dict[str, str]:
    owners = sorted({_owner(block) for bar in bars for block in bar.blocks} - {""})
    return {"": "dim"} | {owner: COLOURS[number % len(COLOURS)] for number, owner in enumerate(owners)}


def _short_names(bars: Sequence[GpuBar]) -> dict[str, str]:
    """Names without the namespace where all are in the same one."""
    labels = {block.label for bar in bars for block in bar.blocks}
    alone = len({label.partition("/")[0] for label in labels}) <= 1
    return {label: one_line(label.partition("/")[2] if alone else label) for label in labels}
