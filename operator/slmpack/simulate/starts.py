"""How long a replica takes from its creation to its readiness, drawn from the distributions of `data/starts.yaml`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator

from slmpack.adapters.tables import read_table
from slmpack.simulate.truth import Truth

__all__ = ["PRESETS", "MeasuredTimes", "StartTimes", "Starts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimes:
    """A lognormal distribution, seconds."""

    median_s: float
    sigma: float

    def draw(self, random: Generator) -> float:
        """One start."""
        return self.median_s * math.exp(self.sigma * float(random.standard_normal()))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTimes:
    """Quantiles of measured starts, seconds, evenly apart from the least to the most."""

    quantiles_s: tuple[float, ...]

    def draw(self, random: Generator) -> float:
        """One start."""
        parts = np.linspace(0.0, 1.0, len(self.quantiles_s))
        return float(np.interp(random.random(), parts, self.quantiles_s))


def _times(row: dict[str, Any]) -> StartTimes | MeasuredTimes:
    if "quantiles_s" in row:
        return MeasuredTimes(quantiles_s=tuple(row["quantiles_s"]))
    return StartTimes(median_s=row["median_s"], sigma=row["sigma"])


PRESETS = {row["name"]: _times(row) for row in read_table("starts.yaml")["starts"]}
"""By name: cold, k8s, wake and engine; the table says what each is and where it is from."""


class Starts:
    """Draws start times; the nth start of a seed takes as long whatever the policy."""

    def __init__(self, times: StartTimes | MeasuredTimes, *, seed: int, truth: Truth) -> None:
        self._times = times
        self._factor = truth.cold_start
        self._random = Generator(PCG64([seed, 1]))

    def draw(self) -> float:
        """Seconds of the next start."""
        return self._times.draw(self._random) * self._factor
