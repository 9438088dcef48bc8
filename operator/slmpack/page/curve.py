"""The knee as a picture: throughput of one GPU above, inter-token latency below, against the batch of each replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log2, log10

from slmpack.domain.interval import Interval
from slmpack.domain.knee_curve import KneeCurve, KneePoint
from slmpack.page.markup import Markup, join, scrolling, tag

__all__ = ["render_curve", "ticks"]

WIDTH = 600
LEFT, RIGHT = 58, 14
UPPER, LOWER = (14, 170), (196, 276)
"""Top and bottom of the two panels, in the drawing's units."""
HEIGHT = 310
NARROW = 10
"""Points of the horizontal axis that have a number at most."""

_Place = Callable[[float], float]


def render_curve(curve: KneeCurve, *, name: str, colour: str) -> Markup:
    """A figure with its numbers in a table; `name` tells it from the page's other curves."""
    knee = next(point for point in curve.points if point.batch == curve.knee)
    replicas = "1 replica" if curve.replicas == 1 else f"{curve.replicas} replicas"
    what = (
        f"{replicas} on one GPU: {knee.throughput_tok_s.expected:,.0f} output tokens/s and "
        f"{knee.itl_s.expected * 1000:,.1f} ms between tokens at the knee, a batch of {curve.knee} at each "
        f"({knee.throughput_tok_s.basis.value})."
    )
    picture = tag(
        "svg",
        tag("title", f"Throughput and latency against batch, {replicas}", id=f"{name}t"),
        tag("desc", what, id=f"{name}d"),
        _drawing(curve, knee),
        view_box=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}t {name}d",
    )
    caption = tag("figcaption", what, " The band is from low to high.", class_="muted")
    return tag("figure", picture, caption, _table(curve), class_=f"curve {colour}")


def _drawing(curve: KneeCurve, knee: KneePoint) -> Markup:
    points = curve.points
    span = max(log2(points[-1].batch), 1.0)

    def across(batch: float) -> float:
        return LEFT + log2(batch) / span * (WIDTH - LEFT - RIGHT)

    tok = [point.throughput_tok_s for point in points]
    itl = [point.itl_s.scaled(1000) for point in points]
    limit = None if curve.itl_limit_s is None else curve.itl_limit_s * 1000
    most = [max(it.high for it in tok), max(*(it.high for it in itl), limit or 0.0)]
    return join(
        _panel(points, tok, across, UPPER, most[0], "output tokens/s of the GPU"),
        _panel(points, itl, across, LOWER, most[1], "ms between tokens (ITL)"),
        _limit(limit, _scale(LOWER, most[1])),
        _batches(points, across),
        _mark(curve, knee, across, [_scale(UPPER, most[0]), _scale(LOWER, most[1])]),
    )


def _scale(panel: tuple[int, int], most: float) -> _Place:
    top, bottom = panel
    return lambda value: bottom - value / ticks(most)[-1] * (bottom - top)


def ticks(most: float) -> tuple[float, ...]:
    """Round numbers from 0 to `most` or just beyond it, two to seven of them."""
    if most <= 0:
        return (0.0, 1.0)
    rough = most / 5
    power = 10.0 ** floor(log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough)
    return tuple(step * number for number in range(ceil(most / step - 1e-9) + 1))


def _panel(  # noqa: PLR0913, PLR0917 - a curve, its axes and where they are
    points: Sequence[KneePoint],
    curve: Sequence[Interval],
    across: _Place,
    panel: tuple[int, int],
    most: float,
    title: str,
) -> Markup:
    up = _scale(panel, most)
    numbers = ticks(most) if panel == UPPER else (0.0, ticks(most)[-1])
    lines = [
        join(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(up(at)), y2=_n(up(at)), class_="axis"),
            tag("text", f"{at:,.10g}", x=LEFT - 6, y=_n(up(at) + 4), text_anchor="end"),
        )
        for at in numbers
    ]
    places = [across(point.batch) for point in points]
    high = [f"{_n(x)},{_n(up(it.high))}" for x, it in zip(places, curve, strict=True)]
    low = [f"{_n(x)},{_n(up(it.low))}" for x, it in zip(places, curve, strict=True)]
    middle = [f"{_n(x)},{_n(up(it.expected))}" for x, it in zip(places, curve, strict=True)]
    return join(
        lines,
        tag("polygon", points=" ".join((*high, *reversed(low))), class_="band"),
        tag("polyline", points=" ".join(middle), class_="line"),
        tag("text", title, x=LEFT, y=panel[0] - 4),
    )


def _batches(points: Sequence[KneePoint], across: _Place) -> list[Markup]:
    powers = [point.batch for point in points if point.batch & (point.batch - 1) == 0]
    shown = powers[:: -(-len(powers) // NARROW)]
    return [
        *(tag("text", str(batch), x=_n(across(batch)), y=LOWER[1] + 15, text_anchor="middle") for batch in shown),
        tag("text", "batch: sequences that each replica decodes at a time", x=LEFT, y=HEIGHT - 4),
    ]


def _limit(limit: float | None, up: _Place) -> Markup:
    if limit is None:
        return join()
    line = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(up(limit)), y2=_n(up(limit)), class_="limit")
    words = tag("text", f"bound {limit:,.1f} ms", x=LEFT + 4, y=_n(up(limit) - 4), class_="limit-text")
    return join(line, words)


def _mark(curve: KneeCurve, knee: KneePoint, across: _Place, up: Sequence[_Place]) -> Markup:
    x = across(curve.knee)
    late = x > (LEFT + WIDTH - RIGHT) / 2
    side, anchor = (x - 8, "end") if late else (x + 8, "start")
    tok, itl = up[0](knee.throughput_tok_s.expected), up[1](knee.itl_s.expected * 1000)
    return join(
        tag("line", x1=_n(x), x2=_n(x), y1=UPPER[0], y2=LOWER[1], class_="knee"),
        tag("circle", cx=_n(x), cy=_n(tok), r=4.5, class_="dot"),
        tag("circle", cx=_n(x), cy=_n(itl), r=4.5, class_="dot"),
        tag("text", f"knee: {curve.knee}", x=_n(side), y=UPPER[1] - 8, text_anchor=anchor, class_="strong"),
    )


def _n(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def _table(curve: KneeCurve) -> Markup:
    head = tag(
        "tr", [tag("th", words, scope="col") for words in ("batch", "tokens/s", "low to high", "ITL ms", "low to high")]
    )
    rows = [
        tag(
            "tr",
            tag("th", f"{point.batch}{' (knee)' if point.batch == curve.knee else ''}", scope="row"),
            [tag("td", words) for words in (*_cells(point.throughput_tok_s, 0), *_cells(point.itl_s.scaled(1000), 1))],
        )
        for point in curve.points
    ]
    caption = tag("caption", "Throughput of the GPU and inter-token latency by batch of each replica")
    table = tag("table", caption, tag("thead", head), tag("tbody", rows))
    return tag("details", tag("summary", "the curve as a table"), scrolling(table, "The curve as a table"))


def _cells(of: Interval, digits: int) -> tuple[str, str]:
    return f"{of.expected:,.{digits}f}", f"{of.low:,.{digits}f} to {of.high:,.{digits}f}"
