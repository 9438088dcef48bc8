"""Figures with their interval and basis, as `estimate` and `predict` print them."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.text import Text

from slmpack.domain.interval import Basis, Interval
from slmpack.domain.workload import Workload

__all__ = [
    "MS",
    "SHARING",
    "between",
    "exact",
    "figure",
    "say",
    "short_name",
    "shown",
    "weighted",
    "workload_figures",
    "yes_no",
]

Json = dict[str, Any]
MS = 1000.0
DIGITS = 5
"""Significant digits of a modelled figure: more would pretend."""
SHARING = {
    "none": "whole GPU",
    "mig": "MIG",
    "mps": "MPS",
    "timeslice": "time-slicing",
}


def figure(interval: Interval, *, scale: float = 1.0) -> Json:
    """The JSON of a figure: value, low, high, basis."""
    return {
        "value": _rounded(interval.expected * scale),
        "low": _rounded(interval.low * scale),
        "high": _rounded(interval.high * scale),
        "basis": interval.basis.value,
    }


def exact(value: float) -> Interval:
    """A modelled figure for which the model gives no spread."""
    return Interval.exactly(value, Basis.MODELLED)


def workload_figures(workload: Workload, *, assumed: bool) -> Json:
    """The JSON of a load, and whether somebody said so."""
    return {
        "in_flight": workload.in_flight,
        "request_rate": workload.request_rate,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "prefix_hit_rate": workload.prefix_hit_rate,
        "basis": "assumed" if assumed else "given",
    }


def yes_no(*, expected: bool, low: bool, high: bool, basis: str) -> Json:
    """The JSON of a judgement: `low` in the worst case of its figures, `high` in the best."""
    return {"value": expected, "low": low, "high": high, "basis": basis}


def _rounded(value: float) -> float:
    """The value with as many digits as it deserves."""
    return float(f"{value:.{DIGITS}g}")


def between(found: Json) -> str:
    """`12.3 to 15.8`, of a figure."""
    return f"{_short(found['low'])} to {_short(found['high'])}"


def shown(found: Json) -> str:
    """The expected value of a figure."""
    return _short(found["value"])


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def weighted(parts: Iterable[tuple[float, Interval]]) -> Interval:
    """The mean of intervals with these weights; its basis is the softest."""
    known = list(parts)
    total = sum(weight for weight, _ in known)
    return Interval(
        low=sum(weight * part.low for weight, part in known) / total,
        expected=sum(weight * part.expected for weight, part in known) / total,
        high=sum(weight * part.high for weight, part in known) / total,
        basis=max((part.basis for _, part in known), key=lambda basis: basis.softness),
    )


def say(console: Console, text: str, *, indent: int = 0, style: str = "") -> None:
    """A paragraph without blanks at the ends of its lines."""
    for line in wrap(text.strip(), width=console.width - indent, break_on_hyphens=False):
        console.print(Text(" " * indent + line, style=style))


def short_name(name: str) -> str:
    """A model's name without its owner, or the file's."""
    return name.rstrip("/").rpartition("/")[2]
