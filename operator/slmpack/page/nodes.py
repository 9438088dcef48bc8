"""Nodes as cards, GPUs as bars as long as their memory, replicas as blocks in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slmpack.domain.interval import Interval, describe_interval
from slmpack.domain.plan_words import MEANING
from slmpack.domain.quantity import format_bytes
from slmpack.domain.wording import number_of
from slmpack.page.markup import Markup, Styles, isolated, join, tag
from slmpack.page.style import COLOURS
from slmpack.page.values import Bar, Block, Deployment, Gpu, Node

__all__ = ["MOST_OPEN", "colour_class", "render_colours", "render_legend", "render_nodes"]

MOST_OPEN = 64
"""Rows up to which all nodes are open; with more, those where something fails."""
_NUMBERED = re.compile(r"(.+)([- ]\w{1,6})", re.DOTALL)
"""A name and the number, or the short word, at its end."""
_OURS = frozenset({"ready", "starting", "planned", "waiting", "ending"})
"""States that are shown in the colour of an SLMDeployment."""
_STATES = {**MEANING, "failing": "failing"}
_SHORT = {"waiting": "starts later", "foreign": "another's", "idle": "does not run"}
"""In a block, where there is little room."""
GAUGE, THICK = 72, 8
"""Width and height of a gauge, in CSS pixels."""
LINE = 1000
"""Width of a folded node's line, in the drawing's units."""
GAP = 6
"""Between the GPUs of that line."""


def colour_class(number: int | None) -> str:
    """The class that sets an SLMDeployment's colour."""
    return "" if number is None else f"k{number % COLOURS}"


def render_nodes(nodes: Sequence[Node], *, longest_bytes: int, styles: Styles) -> Markup:
    """All nodes, each with its sums."""
    closed = sum(len(node.bars) for node in nodes) > MOST_OPEN
    cards = [
        _node(node, number, longest_bytes=longest_bytes, styles=styles, folds=closed)
        for number, node in enumerate(nodes)
    ]
    return tag("div", cards, class_="nodes")


def _node(node: Node, number: int, *, longest_bytes: int, styles: Styles, folds: bool) -> Markup:
    name = f"n{number}"
    head = (
        tag("h3", isolated(node.name), id=name),
        " ",
        tag("span", isolated(node.product), class_="muted"),
        [tag("span", flag, class_="chip warn") for flag in node.flags],
        tag("span", "something fails", class_="chip bad") if node.troubled else None,
        tag("p" if not folds else "span", " · ".join(_sums(node)), class_="sums"),
    )
    rows = [_row(bar, node, longest_bytes=longest_bytes, styles=styles) for bar in node.bars]
    bars = tag("ul", rows, class_="bars", role="list", aria_label=f"GPUs of {node.name}") if rows else None
    body = (bars, _withheld(node.bars), [tag("p", isolated(note), class_="note") for note in node.notes])
    if folds:
        return tag("details", tag("summary", *head, _mini(node)), *body, class_="node panel", open=node.troubled)
    return tag("section", tag("header", *head), *body, class_="node panel", aria_labelledby=name)


def _mini(node: Node) -> Markup:
    """The node's bars in one line, for where they are folded away. What is in them, the sums beside it say."""
    whole = max(1, sum(bar.usable_bytes * bar.count for bar in node.bars))
    parts, place = [], 0.0
    for bar in node.bars:
        width = bar.usable_bytes / whole * LINE
        for _ in range(bar.count):
            parts.append(_part("rail", place, width - GAP))
            at = place
            for block in bar.blocks:
                kind = "failing" if block.state == "failing" else colour_class(block.colour)
                taken = block.limit_bytes / max(1, bar.usable_bytes) * (width - GAP)
                parts.append(_part(kind, at, taken - 1))
                at += taken
            place += width
    return tag("svg", parts, class_="mini", view_box=f"0 0 {LINE} 10", preserveAspectRatio="none", aria_hidden="true")


def _part(kind: str, left: float, width: float) -> Markup:
    return tag("rect", x=round(left, 1), y=0, width=round(max(1.0, width), 1), height=10, class_=kind)


def _withheld(bars: Sequence[Bar]) -> list[Markup]:
    """Why room is withheld, said once."""
    whys = dict.fromkeys(bar.withheld for bar in bars if bar.withheld_bytes)
    return [tag("p", f"Withheld: {why}.", class_="note calm") for why in whys]


def _sums(node: Node) -> list[str]:
    """What the node's bars add up to."""
    what = "slices" if all(bar.is_slice for bar in node.bars) else "GPUs"
    words = []
    if node.units:
        held = f", {node.units_held} held" if node.units_held else ""
        words.append(f"{node.units_used} of {node.units} {what} in use{held}")
        words.append(number_of(node.replicas))
        words.append(f"{format_bytes(node.used_bytes)} of {format_bytes(node.usable_bytes)}")
    if node.power_w is not None:
        of = "" if node.power_of == node.units else f" for {node.power_of} of {node.units}"
        words.append(f"{describe_interval(node.power_w, unit='W')} predicted{of}")
    words.extend(_measured(gpu) for gpu in node.gpus)
    if node.ceiling_w is not None:
        words.append(f"ceiling {node.ceiling_w:,.0f} W a GPU")
    return words


def _measured(gpu: Gpu) -> str:
    power = "power unknown" if gpu.power_w is None else f"{gpu.power_w:,.0f} W"
    memory = "" if gpu.fb_used_bytes is None else f", {format_bytes(gpu.fb_used_bytes)} used"
    return f"measured: {power}{memory} ({gpu.uuid[:12]})"


def _row(bar: Bar, node: Node, *, longest_bytes: int, styles: Styles) -> Markup:
    """A GPU takes a line; slices stand side by side, each as wide as its memory."""
    wide = styles.width(bar.usable_bytes / longest_bytes if bar.usable_bytes and longest_bytes else 1.0)
    unit, words = _unit(bar), _spoken(bar)
    if bar.is_slice:
        size = f" x {bar.count}" if bar.count > 1 else ""
        head = tag("div", tag("span", tag("b", _breakable(unit)), size), class_="head", title=f"{unit}: {words}")
        kind, inner = f"slice {wide}", "bar"
    else:
        head = tag(
            "div",
            tag("span", tag("b", unit), " assumed" if bar.assumed else None),
            _amounts(bar, node),
            class_="head",
        )
        kind, inner = "gpu", f"bar {wide}"
    parts = tag("ul", _parts(bar, styles), class_=inner, role="list", aria_label=f"{unit}: {words}")
    return tag("li", head, parts, class_=kind)


def _unit(bar: Bar) -> str:
    """GPU 0, GPU 0 to 7, or 1g.10gb."""
    if bar.index is None:
        return bar.unit
    return f"GPU {bar.index}" if bar.count == 1 else f"GPU {bar.index} to {bar.index + bar.count - 1}"


def _breakable(profile: str) -> Markup:
    """A slice may be narrower than its name: 1g. above, 10gb below."""
    compute, dot, memory = profile.partition(".")
    return join(compute, dot, tag("wbr"), memory)


def _amounts(bar: Bar, node: Node) -> Markup:
    words = [_held(bar)]
    if bar.free_bytes and bar.blocks:
        words.append(f"{format_bytes(bar.free_bytes)} free")
    if bar.withheld_bytes:
        words.append(f"{format_bytes(bar.withheld_bytes)} withheld")
    if bar.power_w is not None:
        words.append(describe_interval(bar.power_w, unit="W"))
    return tag("span", tag("span", " · ".join(words)), _gauge(bar.power_w, node))


def _gauge(power: Interval | None, node: Node) -> Markup | None:
    """Watts from 0 to the product's TDP: low to high, what is expected, and the ceiling. The words beside it say it."""
    if power is None or not node.tdp_w:
        return None
    whole = max(node.tdp_w, power.high)

    def across(watts: float) -> float:
        return round(watts / whole * GAUGE, 1)

    def mark(watts: float, kind: str) -> Markup:
        place = min(GAUGE - 2.0, across(watts))
        return tag("rect", x=place, y=0, width=2, height=THICK, class_=kind)

    band = tag(
        "rect",
        x=across(power.low),
        y=1,
        width=max(1.0, across(power.high - power.low)),
        height=THICK - 2,
        class_="band",
    )
    parts = [tag("rect", x=0, y=3, width=GAUGE, height=2, class_="rail"), band, mark(power.expected, "now")]
    if node.ceiling_w is not None and node.ceiling_w <= whole:
        parts.append(mark(node.ceiling_w, "top"))
    return tag("svg", parts, class_="gauge", view_box=f"0 0 {GAUGE} {THICK}", aria_hidden="true")


def _held(bar: Bar) -> str:
    if bar.count > 1:
        return f"{bar.count} x {format_bytes(bar.usable_bytes)}, empty"
    if not bar.used_bytes:
        return f"{format_bytes(bar.usable_bytes)}, empty"
    return f"{format_bytes(bar.used_bytes)} of {format_bytes(bar.usable_bytes)}"


def _spoken(bar: Bar) -> str:
    parts = [_held(bar)]
    if bar.free_bytes and bar.blocks:
        parts.append(f"{bar.free} free")
    if bar.withheld_bytes:
        parts.append(f"{format_bytes(bar.withheld_bytes)} withheld: {bar.withheld}")
    return "; ".join(parts)


def _parts(bar: Bar, styles: Styles) -> list[Markup]:
    """Blocks, free room, and what is withheld: together as wide as the bar."""
    whole = max(bar.usable_bytes, bar.used_bytes)
    if not whole:  # nobody knows its size: blocks of one width
        return [_block(block, 1 / len(bar.blocks), styles) for block in bar.blocks]
    parts = [_block(block, block.limit_bytes / whole, styles) for block in bar.blocks]
    for size, kind, words in (
        (bar.free_bytes, "free", f"{bar.free} free"),
        (bar.withheld_bytes, "withheld", f"{format_bytes(bar.withheld_bytes)} withheld: {bar.withheld}"),
    ):
        if size:
            hidden = tag("span", words, class_="vh")
            parts.append(tag("li", hidden, class_=f"{kind} {styles.width(size / whole)}", title=words))
    return parts


def _block(block: Block, part: float, styles: Styles) -> Markup:
    limit = f"limit {format_bytes(block.limit_bytes)}" if block.limit_bytes else "limit unknown"
    facts = [block.full, block.share, block.words, limit]
    facts.extend(f"{amount.name} {format_bytes(amount.size)} (estimate)" for amount in block.amounts)
    if block.measured_bytes is not None:
        facts.append(f"{format_bytes(block.measured_bytes)} measured")
    title = "; ".join(fact for fact in facts if fact)
    kind = " ".join(filter(None, ("block", block.state, colour_class(block.colour), styles.width(part))))
    strip = _strip(block, styles) if block.amounts else None
    return tag(
        "li",
        _name(block.name),
        tag(
            "span",
            block.words if block.state == "failing" else _SHORT.get(block.state, _STATES.get(block.state, block.state)),
            class_="state",
        ),
        tag("span", "; ".join(fact for fact in facts[1:] if fact), class_="vh"),
        strip,
        class_=kind,
        title=title,
    )


def _name(name: str) -> Markup:
    """Where there is no room for all of it, the number at its end stays."""
    found = _NUMBERED.fullmatch(name)
    stem, tail = found.groups() if found is not None else (name, "")
    last = tag("span", isolated(tail)) if tail else None
    return tag("span", tag("span", isolated(stem)), last, class_="name")


def _strip(block: Block, styles: Styles) -> Markup:
    """The engine's memory along the lower edge of its limit."""
    whole = max(block.limit_bytes, sum(amount.size for amount in block.amounts))
    parts = [tag("i", class_=f"{amount.kind} {styles.width(amount.size / whole)}") for amount in block.amounts]
    return tag("span", parts, class_="strip", aria_hidden="true")


def render_legend(nodes: Sequence[Node]) -> Markup:
    """What the patterns mean, of those that are there."""
    blocks = [block for node in nodes for bar in node.bars for block in bar.blocks]
    there = {block.state for block in blocks}
    keys = [
        tag("li", tag("span", class_=f"block {state}{' k0' if state in _OURS else ''}"), words)
        for state, words in _STATES.items()
        if state in there
    ]
    if any(bar.free_bytes for node in nodes for bar in node.bars):
        keys.append(tag("li", tag("span", class_="free"), "free"))
    if any(bar.withheld_bytes for node in nodes for bar in node.bars):
        keys.append(tag("li", tag("span", class_="withheld"), "withheld"))
    if any(bar.power_w is not None for node in nodes for bar in node.bars):
        keys.append(
            tag("li", _GAUGE_KEY, "watts of a GPU from 0 to its TDP, predicted: low to high, expected, ceiling")
        )
    if any(block.amounts for block in blocks):
        keys.append(
            tag("li", _strip_key(), "lower edge: weights, other, KV cache at the knee, KV cache beyond it (estimates)")
        )
    return tag("ul", keys, class_="legend", role="list", aria_label="Legend") if keys else join()


def render_colours(deployments: Sequence[Deployment], nodes: Sequence[Node]) -> Markup:
    """Whose colour is whose, of those in the picture: a block may be too small for a name. Not where two are alike."""
    there = {block.colour for node in nodes for bar in node.bars for block in bar.blocks}
    shown = [deployment for deployment in deployments if deployment.colour in there]
    if not shown or len({colour_class(deployment.colour) for deployment in shown}) < len(shown):
        return join()
    keys = [
        tag(
            "li",
            tag("span", class_=f"swatch {colour_class(deployment.colour)}", aria_hidden="true"),
            tag("a", isolated(deployment.name), href=f"#{deployment.anchor}"),
        )
        for deployment in shown
    ]
    return tag("ul", keys, class_="legend colours", role="list", aria_label="Colours")


_GAUGE_KEY = tag(
    "svg",
    tag("rect", x=0, y=3, width=GAUGE, height=2, class_="rail"),
    tag("rect", x=24, y=1, width=28, height=THICK - 2, class_="band"),
    tag("rect", x=34, y=0, width=2, height=THICK, class_="now"),
    tag("rect", x=58, y=0, width=2, height=THICK, class_="top"),
    class_="gauge",
    view_box=f"0 0 {GAUGE} {THICK}",
    aria_hidden="true",
)


def _strip_key() -> Markup:
    kinds = ("weights", "other", "kv", "spare")
    return join(tag("i", class_=f"strip-key {kind}") for kind in kinds)
