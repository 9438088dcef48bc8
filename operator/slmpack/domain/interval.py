"""A figure that is not exact: low, expected, high, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import floor, log10

__all__ = ["Basis", "Interval", "describe_expected", "describe_interval", "describe_spread", "sum_of"]


class Basis(Enum):
    """Where a figure comes from, from the firmest ground to the softest."""

    MEASURED = "measured"
    """On this model, GPU and engine, by a means that does not echo our own flags."""
    CALIBRATED = "calibrated"
    """By the model, corrected with a profile of this model on this GPU."""
    MODELLED = "modelled"
    """By the model with constants fitted on other runs."""
    ASSUMED = "assumed"
    """Nobody said and nothing was fitted: a stated default."""

    @property
    def softness(self) -> int:
        """0 for measured; more for softer ground."""
        return list(Basis).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """low <= expected <= high, all in the unit that the field's name says."""

    low: float
    expected: float
    high: float
    basis: Basis

    @classmethod
    def exactly(cls, value: float, basis: Basis) -> Interval:
        """A figure without a spread."""
        return cls(low=value, expected=value, high=value, basis=basis)

    def scaled(self, factor: float) -> Interval:
        """All three times a factor that is not negative."""
        return Interval(
            low=self.low * factor, expected=self.expected * factor, high=self.high * factor, basis=self.basis
        )


def sum_of(parts: Sequence[Interval]) -> Interval | None:
    """The sum, as far off as its parts together; its basis is the softest. None of none."""
    if not parts:
        return None
    return Interval(
        low=sum(part.low for part in parts),
        expected=sum(part.expected for part in parts),
        high=sum(part.high for part in parts),
        basis=max((part.basis for part in parts), key=lambda basis: basis.softness),
    )


def describe_interval(of: Interval, *, unit: str) -> str:
    """`2,110 tokens/s (1,700 to 2,600)`, three significant digits."""
    return f"{describe_expected(of, unit=unit)} ({describe_spread(of)})"


def describe_expected(of: Interval, *, unit: str) -> str:
    """`2,110 tokens/s`."""
    return f"{_three(of.expected)} {unit}"


def describe_spread(of: Interval) -> str:
    """`1,700 to 2,600`, in the unit of what is expected."""
    return f"{_three(of.low)} to {_three(of.high)}"


def _three(value: float) -> str:
    if value == 0:
        return "0"
    digits = 2 - floor(log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"
