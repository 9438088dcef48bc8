"""Throughput and inter-token latency against batch, with the knee marked: as text, and as a PNG file.

The text reads the same without colour and in a pipe: a row for each batch, two bars beside each other, their figures
beside the bars. The PNG needs matplotlib, which is the optional extra `plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

from slmpack.domain.interval import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CurvePicture", "PictureError", "PicturePoint", "draw_curve", "write_png"]

NARROWEST_BAR = 6
TITLE_WIDTH = 72
"""Characters of a title that the page holds in one line."""
MARK = "knee >"
EIGHTHS = " ▏▎▍▌▋▊▉"
THROUGHPUT_COLOUR, ITL_COLOUR, KNEE_COLOUR = "#1f6f8b", "#b5532a", "#333333"


class PictureError(click.ClickException):
    """The picture cannot be written; the message says what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePoint:
    """One replica at one batch."""

    batch: int
    """Sequences that decode at a time."""
    throughput_tok_s: Interval
    itl_ms: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePicture:
    """One replica from batch 1 on, by rising batch."""

    title: str
    points: tuple[PicturePoint, ...]
    knee: int | None
    """A batch of `points`; None where there is no knee."""
    itl_limit_ms: float | None = None
    """The inter-token latency that must be kept."""
    basis: str = "modelled"


def draw_curve(curve: CurvePicture, *, width: int, unicode: bool) -> list[str]:
    """The rows of the picture, none wider than `width` cells (at least 60)."""
    tok = [f"{point.throughput_tok_s.expected:,.0f}" for point in curve.points]
    itl = [f"{point.itl_ms.expected:,.1f}" for point in curve.points]
    wide_tok, wide_itl = max(map(len, tok)), max(map(len, itl))
    fixed = len(MARK) + 7 + wide_tok + wide_itl + 6
    cells = max(NARROWEST_BAR, (width - fixed) // 2)
    bars_tok = _bars([point.throughput_tok_s.expected for point in curve.points], cells, unicode=unicode)
    bars_itl = _bars([point.itl_ms.expected for point in curve.points], cells, unicode=unicode)
    lines = [f"{'':{len(MARK)}}  batch  {'output tokens/s':{wide_tok + cells + 1}}  ITL ms"]
    for point, bar, figure, bar_itl, figure_itl in zip(curve.points, bars_tok, tok, bars_itl, itl, strict=True):
        mark = MARK if point.batch == curve.knee else ""
        left = f"{mark:{len(MARK)}}{point.batch:>7}  {figure.rjust(wide_tok)} {bar.ljust(cells)}"
        lines.append(f"{left}  {figure_itl.rjust(wide_itl)} {bar_itl}")
    return lines


def _bars(values: Sequence[float], cells: int, *, unicode: bool) -> list[str]:
    """A bar for each value; the largest fills all cells."""
    largest = max(values)
    return [_bar(value / largest * cells, unicode=unicode) for value in values]


def _bar(cells: float, *, unicode: bool) -> str:
    if not unicode:
        return "#" * max(1, round(cells))
    whole, eighth = divmod(max(1, round(cells * 8)), 8)
    return ("█" * whole + EIGHTHS[eighth]).rstrip()


def write_png(curve: CurvePicture, path: Path) -> None:
    """Draw the curve into a file. PictureError without matplotlib, or where the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PictureError(
            "--png needs matplotlib, slmpack's optional extra `plots`; a checkout's .venv has it"
        ) from error
    figure = Figure(figsize=(8.0, 6.2), layout="constrained", dpi=150)
    figure.suptitle(fill(curve.title, width=TITLE_WIDTH), fontsize=12)
    above, below = figure.subplots(2, 1, sharex=True)
    _panel(above, curve, [point.throughput_tok_s for point in curve.points], THROUGHPUT_COLOUR)
    _panel(below, curve, [point.itl_ms for point in curve.points], ITL_COLOUR)
    above.set_ylabel("output tokens/s, one replica")
    below.set_ylabel("mean inter-token latency, ms")
    below.set_xlabel("batch: sequences that decode at a time")
    above.legend(loc="upper left", frameon=False, fontsize=9)
    figure.align_ylabels()
    _mark_limit(below, curve)
    _mark_knee(above, below, curve)
    try:
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise PictureError(f"--png {path}: cannot be written: {error.strerror or error}") from error


def _panel(axes: Axes, curve: CurvePicture, values: Sequence[Interval], colour: str) -> None:
    batches: list[Any] = [point.batch for point in curve.points]
    low, high = [value.low for value in values], [value.high for value in values]
    axes.fill_between(batches, low, high, color=colour, alpha=0.15, linewidth=0, label="low to high")
    axes.plot(batches, [value.expected for value in values], color=colour, marker="o", markersize=4, label=curve.basis)
    axes.set_xscale("log", base=2)
    ticks = [batch for batch in batches if batch & (batch - 1) == 0]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:g}")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_limit(axes: Axes, curve: CurvePicture) -> None:
    if curve.itl_limit_ms is None:
        return
    axes.axhline(curve.itl_limit_ms, color=ITL_COLOUR, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"limit {curve.itl_limit_ms:,.1f} ms",
        (curve.points[-1].batch, curve.itl_limit_ms),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=ITL_COLOUR,
    )


def _mark_knee(above: Axes, below: Axes, curve: CurvePicture) -> None:
    knee = next((point for point in curve.points if point.batch == curve.knee), None)
    if knee is None:
        return
    for axes, value in ((above, knee.throughput_tok_s), (below, knee.itl_ms)):
        axes.axvline(knee.batch, color=KNEE_COLOUR, linestyle="--", linewidth=1)
        axes.plot([knee.batch], [value.expected], color=KNEE_COLOUR, marker="o", markersize=7, fillstyle="none")
    at = f"knee: batch {knee.batch}\n{knee.throughput_tok_s.expected:,.0f} tok/s, {knee.itl_ms.expected:.1f} ms"
    late = knee.batch > curve.points[-1].batch ** 0.5
    above.annotate(
        at,
        (knee.batch, 0),
        xytext=(-6 if late else 6, 6),
        textcoords="offset points",
        ha="right" if late else "left",
        va="bottom",
        fontsize=9,
        color=KNEE_COLOUR,
    )
