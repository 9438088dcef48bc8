"""Load, replicas, watts and latency over time as a PNG file, one line a policy. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmpack.simulate.run import Result
from slmpack.simulate.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PictureError", "Played", "write_picture"]

BINS = 120
"""Points of the latency lines: fewer than of the others, so that each holds enough requests for a percentile."""
LEAST_REQUESTS = 5
"""A point with fewer says nothing."""
PERCENTILE = 95
LOAD_COLOUR = "#555555"
COLOURS = ("#1f6f8b", "#d1602f", "#5b8c3a", "#8a4f9e", "#c7a012", "#b0305c", "#3d3d8f", "#7a5c3e", "#2aa198", "#888888")
STYLES = ("-", "--", ":")
THINNEST, WIDER = 1.2, 2.0
"""Of lines, in points: the first policy's is the widest, so that lines that coincide are seen beside each other."""


class PictureError(Exception):
    """The picture cannot be written; the message says what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What is drawn."""

    title: str
    trace: Trace
    results: Sequence[Result]
    ttft_s: float
    """What must be kept, for the line in the picture."""


def write_picture(played: Played, path: Path) -> None:
    """Draw the file. PictureError without matplotlib, or where the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PictureError("--png needs matplotlib: make init, or pip install '.[plots]' in slmpack's clone") from error
    figure = Figure(figsize=(10.0, 9.0), layout="constrained", dpi=130)
    _draw(played, figure)
    try:
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise PictureError(f"--png {path}: cannot be written: {error.strerror or error}") from error


def _draw(played: Played, figure: Figure) -> None:
    load, replicas, watts, latency = figure.subplots(4, 1, sharex=True, height_ratios=(2, 3, 3, 3))
    unit, seconds = ("hours", 3600.0) if played.trace.span_s > 3 * 3600 else ("minutes", 60.0)
    first = played.results[0]
    times = [moment.at / seconds for moment in first.moments]
    rates = [moment.arrivals_s for moment in first.moments]
    load.fill_between(times, rates, color=LOAD_COLOUR, alpha=0.35, linewidth=0, step="pre")
    load.set_ylabel("requests/s\narriving")
    for place, result in enumerate(played.results):
        style: dict[str, Any] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": STYLES[place // len(COLOURS) % len(STYLES)],
            "linewidth": THINNEST + WIDER * (len(played.results) - 1 - place) / max(1, len(played.results) - 1),
        }
        at = [moment.at / seconds for moment in result.moments]
        replicas.step(at, [moment.replicas for moment in result.moments], where="pre", label=result.job.name, **style)
        watts.plot(at, [moment.watts for moment in result.moments], **style)
        where, seen = _latency(played.trace, result.ttft_s)
        latency.plot(where / seconds, seen, **style)
    replicas.set_ylabel("replicas\n(starting to ending)")
    watts.set_ylabel("watts,\nall boards")
    latency.set_ylabel(f"TTFT, s\n{PERCENTILE}th percentile")
    latency.set_yscale("log")
    latency.axhline(played.ttft_s, color="#333333", linestyle=":", linewidth=1.0)
    latency.annotate(
        f"SLO {played.ttft_s:g} s",
        (1.0, played.ttft_s),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    latency.set_xlabel(f"{unit} since the trace began; the shaded warm-up is in no figure")
    for axes in (load, replicas, watts, latency):
        _tidy(axes, warm_up=first.warm_up_s / seconds, end=played.trace.span_s / seconds)
    for axes in (load, replicas, watts):
        axes.set_ylim(bottom=0)
    figure.align_ylabels()
    figure.suptitle(played.title, fontsize=12)
    figure.legend(*replicas.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)


def _tidy(axes: Axes, *, warm_up: float, end: float) -> None:
    axes.axvspan(0.0, warm_up, color="#000000", alpha=0.06, linewidth=0)
    axes.set_xlim(0.0, end)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _latency(trace: Trace, ttft_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle of each bin of arrivals, and the percentile there; what was never answered is the slowest."""
    edges = np.linspace(0.0, max(trace.span_s, 1e-9), BINS + 1)
    place = np.clip(np.searchsorted(edges, trace.arrival_s, side="right") - 1, 0, BINS - 1)
    filled = np.where(np.isfinite(ttft_s), ttft_s, np.inf)
    found = np.full(BINS, np.nan)
    for number in range(BINS):
        here = filled[place == number]
        if len(here) >= LEAST_REQUESTS:
            value = float(np.percentile(here, PERCENTILE, method="lower"))
            found[number] = value if np.isfinite(value) else np.nan
    return (edges[:-1] + edges[1:]) / 2, found
