"""What engines that share a device do to each other's iteration time.

MPS: a closed network (mean value analysis, exact): every engine alternates between one shared station, the device's
memory or arithmetic, and a think time in which it does not need it. The station serves all at once (processor sharing).
An SM ceiling sets a floor under the time at the station.
Time-slicing: the driver switches whole devices: R * T1 * a factor.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["shared_alike", "shared_apart"]


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
    """Iteration times of unequal engines, each (busy, think, capped); exact over all subsets, so meant for few."""
    everyone = (1 << len(engines)) - 1
    queues: list[float] = [0.0] * (everyone + 1)
    """Mean number of engines at the station, by subset."""
    for subset in range(1, everyone + 1):
        for index, (busy, think, _) in enumerate(engines):
            if subset >> index & 1:
                response = busy * (1.0 + queues[subset & ~(1 << index)])
                queues[subset] += response / (response + think)
    return tuple(
        max(busy * (1.0 + queues[everyone & ~(1 << index)]), capped) + think
        for index, (busy, think, capped) in enumerate(engines)
    )
