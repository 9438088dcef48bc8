"""Requests a second that replicas must carry: what comes, what waits, and the peaks that a start would be too late for.

`start` is how late a new replica is. With slow starts room is kept for the peaks that recur, with fast ones little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from slmpack.domain.load import RECENT, SHORT, LoadSample
from slmpack.domain.scale_decision import Figure, FigureName
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.snapshot import PodView

__all__ = ["Load", "Start", "measure_start", "read_load"]

_P99 = 2.326
"""Standard deviations from a normal distribution's mean to its 99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How long a replica takes from its creation until it answers."""

    seconds: float
    basis: str
    """measured or assumed."""
    remembered: float | None
    """For status: the median of what was measured; None: nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests a second, for each question that is asked of them."""

    now: float
    """What comes, by measurement."""
    up: float
    """What must be carried: beside it, what waits and the peaks that a start would be too late for."""
    keep: float
    """What fewer replicas must carry before any ends."""
    room: float
    """What is carried where that opens no GPU."""
    late: float
    """How late a start is for a burst, 0 to 1."""
    waiting: float
    """Requests in queues beyond what is there between two iterations."""
    figures: tuple[Figure, ...]


def measure_start(pods: Sequence[PodView], remembered: float | None, policy: ScalePolicy) -> Start:
    """The median of the starts that can be seen, else what was remembered, else an assumption.

    A pod that restarted, or was Ready at once, says nothing.
    """
    seen = [
        seconds
        for pod in pods
        if pod.ready_since is not None
        and not pod.restarts
        and (seconds := (pod.ready_since - pod.begun).total_seconds()) > 0
    ]
    if seen:
        found = float(round(median(seen)))
        return Start(seconds=found, basis="measured", remembered=found)
    if remembered is not None:
        return Start(seconds=remembered, basis="measured", remembered=remembered)
    return Start(seconds=policy.assumed_start_s, basis="assumed", remembered=None)


def read_load(sample: LoadSample, start: Start, policy: ScalePolicy, *, young: bool) -> Load:
    """What is known of the load; what is not counts as nothing, so that `up` is a floor.

    `young`: no replica has answered for as long as SHORT, so that rates over it lack a part of the requests, and those
    over RECENT lack less of them: that is no rise.
    """
    now = _known(sample.arrivals_s)
    held = sample.reporting * policy.least_waiting
    waiting = max(0.0, _known(sample.waiting) - held) + _known(sample.gateway_waiting)
    drain = waiting / max(policy.scrape_s, min(start.seconds, policy.most_drain_s))
    late = start.seconds / (start.seconds + policy.burst_s)
    high, peak = _known(sample.arrivals_high_s), _known(sample.arrivals_peak_s)
    recurring = now + late * max(0.0, high - now)
    trend = 0.0 if young else _trend(sample, start.seconds, late, policy)
    up = max(now + drain, recurring, trend)
    keep = max(up, now + min(1.0, policy.care * late) * max(0.0, peak - now)) * policy.slack
    room = policy.fill_factor * max(up, peak)
    figures = _figures(sample, now=now, late=late)
    return Load(now=now, up=up, keep=keep, room=room, late=late, waiting=waiting, figures=figures)


def _trend(sample: LoadSample, start_s: float, late: float, policy: ScalePolicy) -> float:
    """Requests a second when a replica could be there, if the rate goes on to rise as between RECENT and SHORT.

    Only the part of a rise beyond chance is drawn on: chance is that of Poisson arrivals, times their dispersion; with
    fast starts less of it, for a mistake costs little. At most twice what comes now.
    """
    recent, usual = _known(sample.arrivals_now_s), _known(sample.arrivals_s)
    mean = _known(sample.arrivals_mean_s)
    spread = max(1.0, dispersion(mean, _known(sample.arrivals_high_s))) if mean else 1.0
    chance: float = policy.surely * late * (spread * usual / RECENT.total_seconds()) ** 0.5
    rise = recent - usual - chance
    if rise <= 0.0:
        return 0.0
    apart = (SHORT - RECENT).total_seconds() / 2
    return min(policy.most_rise * recent, recent + rise * min(start_s, policy.most_drain_s) / apart)


def _known(value: float | None) -> float:
    return 0.0 if value is None or not isfinite(value) else max(0.0, value)


def _figures(sample: LoadSample, *, now: float, late: float) -> tuple[Figure, ...]:
    figures = [Figure(name=FigureName.ARRIVALS, value=now, unit="requests/s")]
    for name, value in (
        ("arrivalsNow", sample.arrivals_now_s),
        ("arrivalsPeak", sample.arrivals_peak_s),
        ("arrivalsHigh", sample.arrivals_high_s),
        ("arrivalsMean", sample.arrivals_mean_s),
    ):
        if value is not None:
            figures.append(Figure(name=name, value=value, unit="requests/s"))
    if sample.arrivals_mean_s and sample.arrivals_high_s is not None:
        figures.append(
            Figure(name="dispersion", value=dispersion(sample.arrivals_mean_s, sample.arrivals_high_s), unit="")
        )
    figures.append(Figure(name="lateness", value=late, unit="", basis="assumed"))
    return tuple(figures)


def dispersion(mean: float, high: float) -> float:
    """Variance over mean of the requests in SHORT, 1 for Poisson ones: from the mean rate and its 99th percentile."""
    deviation = max(0.0, high - mean) / _P99
    return deviation**2 * SHORT.total_seconds() / mean
