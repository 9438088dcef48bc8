"""How many replicas are wanted, as a value with the numbers that led to it (D8, D8a)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from slmpack.domain.interval import Interval
from slmpack.domain.reasons import Reason

__all__ = ["Figure", "FigureName", "Pacing", "ScaleDecision", "ScaleNote", "ScaleState", "ScalingSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How fast one direction may go."""

    stabilisation: timedelta
    """The most cautious recommendation within this window counts."""
    most_step: int | None = None
    """Replicas a decision may add or end; None: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSpec:
    """`spec.scaling`."""

    least: int
    most: int
    up: Pacing = field(default_factory=lambda: Pacing(stabilisation=timedelta(0)))
    down: Pacing = field(default_factory=lambda: Pacing(stabilisation=timedelta(minutes=5)))
    idle: timedelta = timedelta(minutes=10)
    """Without a request for so long, the last replica ends; only where `least` is 0."""
    idle_asked: bool = False
    """Whether the spec says so itself; else the last one stays where its GPU stays on for others anyway."""
    max_watts_per_gpu: float | None = None
    ttft_s: float | None = None
    """95th percentile that must be kept; None: the bound of spec.bounds, if there is one."""
    itl_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleState:
    """What status remembers of earlier decisions: all that a restarted operator needs (D2)."""

    desired: int
    changed: datetime | None = None
    """When `desired` last changed."""
    went_up: bool = False
    """Which way it changed then."""
    lower_since: datetime | None = None
    """Since when fewer replicas would do, without a break."""
    higher_since: datetime | None = None
    """Since when more replicas were wished, without a break; only where spec.scaling asks to wait for that."""
    hold_s: float | None = None
    """For how long fewer must do before any ends, times the square of a start's lateness, as learned from ends that
    were regretted; None: nothing was."""
    busy: datetime | None = None
    """When a request was last seen; None: not known."""
    start_s: float | None = None
    """Median of the measured starts, seconds; None: none was measured."""
    correction: float | None = None
    """How many times slower than modelled the replicas are, as learned from latencies and late requests; None: nothing
    was learned."""
    corrected: datetime | None = None
    """When that last changed."""
    corrected_of: str | None = None
    """The spec's hash that it was learned of: other engines are another matter."""


class FigureName:
    """Of the figures that are looked up by name. They are in status, so that a new one is a change of the API."""

    ARRIVALS: Final = "arrivals"
    CAPACITY: Final = "capacity"
    DEMAND: Final = "demand"
    DEMAND_TO_KEEP: Final = "demandToKeep"
    ITL: Final = "itl"
    KV_USAGE: Final = "kvUsage"
    START: Final = "start"
    TTFT_P95: Final = "ttftP95"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that led to a decision."""

    name: str
    """For machines, camelCase: a FigureName, or another such as waiting."""
    value: float
    unit: str
    """requests/s, tokens/s, s, W, replicas, or empty for a part of one."""
    basis: str = "measured"
    """measured, calibrated, modelled or assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDecision:
    """How many replicas are wanted now, and why."""

    desired: int
    current: int
    """As wanted before."""
    wished: int
    """What demand alone asks for; `desired` differs where a bound, the pace, power or the unknown holds it."""
    reason: Reason
    message: str
    """One sentence with the numbers."""
    state: ScaleState
    """For status."""
    known: bool
    """False: something needed is unknown, and the number is held."""
    figures: tuple[Figure, ...] = ()
    refused: Reason | None = None
    """Why more replicas, though wished, are not wanted: AT_MAX, POWER_CEILING, DOES_NOT_PAY."""
    power_w: Interval | None = None
    """Of the hottest GPU of this deployment at its load, after the decision; an estimate."""
    ceiling_w: float | None = None
    """spec.scaling.maxWattsPerGPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleNote:
    """What status says of the last decision beside its state; no decision reads it."""

    at: datetime
    """When these words and figures were found."""
    wished: int
    known: bool
    reason: Reason
    message: str
    refused: Reason | None = None
    power: str = ""
    """ScaleDecision.power_w in words."""
    figures: tuple[Figure, ...] = ()
    """To three digits."""
