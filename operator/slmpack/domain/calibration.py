"""The performance model corrected with a measured profile of one model on one GPU.

Two points suffice, one request in flight and one large number: they fix the host time that the model is wrong by and
the factor on all that grows with memory and work. t'(b) = step + factor * t(b).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FACTOR_RANGE", "Calibration", "MeasuredPoint", "solve_calibration"]

FACTOR_RANGE = (0.3, 3.0)
"""Beyond, the profile is of another model, GPU or engine, or spoilt; the factor stops here."""
_APART = 1.05
"""Modelled iteration times closer than this say nothing about a slope: runs differ by 0.5 to 2.6 %."""
_LEAST_PART = 0.2
"""Of the shortest modelled iteration, what a correction leaves at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """A measured steady state of one replica that has the GPU to itself."""

    in_flight: float
    """Requests in flight."""
    itl_s: float
    """Mean inter-token latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Correction of every iteration: `step_s` more, after `factor` times as long."""

    step_s: float
    factor: float
    points: int
    """It was solved with."""


def solve_calibration(modelled_s: tuple[float, ...], measured_s: tuple[float, ...]) -> Calibration:
    """The line through (modelled, measured) iteration times with the least relative squares; at least one point.

    One point, or points that the model does not tell apart, fix the factor alone.
    """
    weights = [1.0 / measured**2 for measured in measured_s]
    total = sum(weights)
    mean_model = sum(w * t for w, t in zip(weights, modelled_s, strict=True)) / total
    mean_measured = sum(w * t for w, t in zip(weights, measured_s, strict=True)) / total
    low, high = FACTOR_RANGE
    if max(modelled_s) < _APART * min(modelled_s):
        factor = min(high, max(low, mean_measured / mean_model))
        return Calibration(step_s=0.0, factor=factor, points=len(measured_s))
    spread = sum(w * (t - mean_model) ** 2 for w, t in zip(weights, modelled_s, strict=True))
    slope = sum(
        w * (t - mean_model) * (y - mean_measured) for w, t, y in zip(weights, modelled_s, measured_s, strict=True)
    )
    factor = min(high, max(low, slope / spread))
    least = -(factor - _LEAST_PART) * min(modelled_s)
    return Calibration(step_s=max(least, mean_measured - factor * mean_model), factor=factor, points=len(measured_s))
