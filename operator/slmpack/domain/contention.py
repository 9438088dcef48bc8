"""What engines that share a device do to each other's iteration time.

MPS: a closed network (mean value analysis): every engine alternates between one shared station, the device's memory or
arithmetic, and a think time in which it does not need it. The station serves all at once (processor sharing). An SM
ceiling sets a floor under the time at the station.
Time-slicing: the driver switches whole devices: R * T1 * a factor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod

__all__ = ["EXACT_STATES", "shared_alike", "shared_apart"]

EXACT_STATES = 1024
"""Mixtures of unequal engines up to which the analysis is exact: ten that all differ, or 31 and 31 of two kinds."""

_ROUNDS = 100
"""Of the approximation; it is settled to a millionth by then."""

Station = tuple[float, float]
"""Seconds of an engine alone: at the station, and away from it."""


def shared_alike(engines: int, *, busy: float, think: float, capped: float) -> float:
    """Iteration time of each of so many equal engines; `busy` at the station when alone, `capped` under a ceiling.

    Seconds. Exact mean value analysis of one station with think time (Reiser and Lavenberg 1980).
    """
    queue, response = 0.0, busy
    for count in range(1, engines + 1):
        response = busy * (1.0 + queue)
        queue = count * response / (response + think)
    return max(response, capped) + think


def shared_apart(engines: Sequence[tuple[float, float, float]]) -> tuple[float, ...]:
    """Iteration times of unequal engines, each (busy, think, capped).

    Exact, by how many of each kind there are (Reiser and Lavenberg 1980), up to EXACT_STATES mixtures of them; beyond,
    the approximation of Schweitzer and Bard, up to a tenth too slow (random mixes of 11 and 12 engines).
    """
    kinds = Counter((busy, think) for busy, think, _ in engines)
    exact = prod(count + 1 for count in kinds.values()) <= EXACT_STATES
    before = _queues_before(kinds) if exact else _queues_about(kinds)
    return tuple(max(busy * (1.0 + before[busy, think]), capped) + think for busy, think, capped in engines)


def _queues_before(kinds: Counter[Station]) -> dict[Station, float]:
    """Mean engines at the station as one of each kind finds them that arrives: those of the mixture without it."""
    counts, steps, states = tuple(kinds.values()), [], 1
    for count in counts:
        steps.append(states)
        states *= count + 1
    queues: list[float] = [0.0] * states
    """By mixture, numbered with a digit for each kind."""
    for state in range(1, states):
        for (busy, think), count, step in zip(kinds, counts, steps, strict=True):
            present = state // step % (count + 1)
            if present:
                response = busy * (1.0 + queues[state - step])
                queues[state] += present * response / (response + think)
    return {kind: queues[states - 1 - step] for kind, step in zip(kinds, steps, strict=True)}


def _queues_about(kinds: Counter[Station]) -> dict[Station, float]:
    """The same, if one engine less takes its part of its own kind's queue and leaves the other kinds' as they are."""
    found: dict[Station, float] = {kind: float(count) for kind, count in kinds.items()}
    """Of each kind at the station."""
    before: dict[Station, float] = {}
    for _ in range(_ROUNDS):
        total = sum(found.values())
        before = {kind: total - queue / kinds[kind] for kind, queue in found.items()}
        for (busy, think), count in kinds.items():
            response = busy * (1.0 + before[busy, think])
            found[busy, think] = count * response / (response + think)
    return before
