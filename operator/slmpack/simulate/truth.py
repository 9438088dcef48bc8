"""What the world is like and no policy is told: factors on the performance model, drawn once per seed."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import PCG64, Generator

__all__ = ["AS_MODELLED", "SPREAD", "Truth", "draw_truth"]

SPREAD = 0.25
"""The factors lie within 1 - SPREAD and 1 + SPREAD, all equally likely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Factors; 1.0 is the model itself."""

    host: float
    """Of the time for host, launches, small kernels and samplers."""
    contention: float
    """Of the wait that engines on one GPU cause each other."""
    prefill: float
    """Of the time for prompt tokens."""
    cold_start: float
    """Of the time from a replica's creation to its readiness."""


AS_MODELLED = Truth(host=1.0, contention=1.0, prefill=1.0, cold_start=1.0)


def draw_truth(seed: int) -> Truth:
    """The world of a seed, the same for every policy."""
    host, contention, prefill, cold_start = Generator(PCG64(seed)).uniform(1.0 - SPREAD, 1.0 + SPREAD, 4)
    return Truth(host=float(host), contention=float(contention), prefill=float(prefill), cold_start=float(cold_start))
