"""A day of arrivals whose mean never changes: the number of replicas may not go to and fro.

The replicas are a fluid: what comes is served at the capacity that the decision itself believes in, what is too much
waits. That tests the decision, not the model.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache

import pytest

from slmpack.domain.board import Room
from slmpack.domain.inventory import GpuNode, read_nodes
from slmpack.domain.load import LONG, PEAK, SHORT, LoadSample
from slmpack.domain.packing import candidates_for
from slmpack.domain.scale_decision import ScaleDecision, ScaleState
from slmpack.domain.scaling import decide_scale
from slmpack.domain.sizing import Need, size_replica
from slmpack.domain.snapshot import PodView
from tests.support.builders import NOW, POLICY, mps_node
from tests.support.scaling import scaled

TICK_S = 15.0
DAY_S = 24 * 3600.0
START_S = 45.0
WORLD = scaled(*(mps_node(f"n{index}") for index in range(6)))


@cache
def pods_of(count: int) -> tuple[PodView, ...]:
    return WORLD.running(count).pods


@cache
def ground() -> tuple[tuple[GpuNode, ...], Need, Room]:
    nodes = read_nodes(WORLD.nodes, POLICY.gpus)
    need = size_replica(WORLD.demand, POLICY, ())
    assert isinstance(need, Need)
    return nodes, need, candidates_for(WORLD.demand, need, nodes, POLICY)


@cache
def capacity(count: int) -> float:
    decision = WORLD.running(count).under(0.5, itl_s=None).decide()
    return next(it.value for it in decision.figures if it.name == "capacity")


def arrivals(mean: float, dispersion: float, seed: int) -> Iterator[float]:
    """Requests in each tick; of a gamma-Poisson mixture that changes its rate each minute, so that the variance of a
    minute's count is `dispersion` times its mean."""
    rng = random.Random(seed)
    minute = mean * SHORT.total_seconds()
    rate = mean
    for tick in range(int(DAY_S / TICK_S)):
        if dispersion > 1 and tick % 4 == 0:
            shape = minute / (dispersion - 1)
            rate = rng.gammavariate(shape, mean / shape)
        expected = rate * TICK_S
        yield max(0.0, rng.gauss(expected, math.sqrt(expected)))


@dataclass
class Day:
    """What came of a day."""

    numbers: list[int]
    late: float
    """Part of the requests that waited for more than a second."""

    @property
    def changes(self) -> list[tuple[float, bool]]:
        """Seconds of the day, and whether the number rose; after the first hour, which the longest window needs."""
        pairs = enumerate(zip(self.numbers, self.numbers[1:], strict=False))
        found = [(tick * TICK_S, after > before) for tick, (before, after) in pairs if after != before]
        return [(at, rose) for at, rose in found if at > LONG.total_seconds()]

    @property
    def hasty(self) -> list[float]:
        """Changes the other way within ten minutes of the last one (facts: what a flap is)."""
        turns = zip(self.changes, self.changes[1:], strict=False)
        return [at for (last, way), (at, other) in turns if other != way and at - last <= 600.0]

    @property
    def taken_back(self) -> list[float]:
        """Rises that follow an end."""
        return [
            at for (_, rose), (at, rises) in zip(self.changes, self.changes[1:], strict=False) if rises and not rose
        ]


def play(mean: float, dispersion: float, *, first: int, seed: int) -> Day:
    """Decide every tick; a replica that starts serves after START_S."""
    nodes, need, room = ground()
    short: deque[float] = deque(maxlen=int(SHORT.total_seconds() / TICK_S))
    rates: deque[float] = deque(maxlen=int(LONG.total_seconds() / TICK_S))
    state = ScaleState(desired=first, start_s=START_S)
    queue, served, came, late, now, numbers = 0.0, first, 0.0, 0.0, NOW, [first]
    ready_at: dict[int, float] = {}
    for tick, count in enumerate(arrivals(mean, dispersion, seed)):
        at = tick * TICK_S
        for number in [n for n, when in ready_at.items() if when <= at]:
            served = max(served, number)
            del ready_at[number]
        room_here = capacity(served) * TICK_S
        queue = max(0.0, queue + count - room_here)
        came, late = came + count, late + (count if queue > capacity(served) else 0.0)
        short.append(count / TICK_S)
        rates.append(sum(short) / len(short))
        now = NOW + timedelta(seconds=at)
        sample = LoadSample(
            at=now,
            reporting=served,
            running=1.0,
            waiting=queue,
            arrivals_s=rates[-1],
            arrivals_now_s=sum(list(short)[-2:]) / min(2, len(short)),
            arrivals_peak_s=max(list(rates)[-int(PEAK.total_seconds() / TICK_S) :]),
            arrivals_high_s=sorted(rates)[int(0.99 * (len(rates) - 1))],
            arrivals_mean_s=sum(rates) / len(rates),
            input_tokens=512.0,
            output_tokens=256.0,
            completions_s=rates[-1],
            gateway_waiting=0.0,
        )
        decision = decided(state, sample, pods_of(served), nodes, need, room)
        if decision.desired > served:
            ready_at.setdefault(decision.desired, at + START_S)
        else:
            served = decision.desired
            ready_at.clear()
        state = decision.state
        numbers.append(decision.desired)
    return Day(numbers=numbers, late=late / came)


def decided(
    state: ScaleState, sample: LoadSample, pods: tuple[PodView, ...], nodes: tuple[GpuNode, ...], need: Need, room: Room
) -> ScaleDecision:
    view = replace(WORLD.view, scale=state)
    world = replace(WORLD, view=view, pods=pods, load=sample, now=sample.at)
    scaling = WORLD.demand.scaling
    assert scaling is not None
    return decide_scale(
        view,
        WORLD.demand,
        scaling,
        need=need,
        room=room,
        pods=pods,
        nodes=nodes,
        snapshot=world.snapshot,
        policy=POLICY,
    )


def most_in(moments: list[float], hours: float) -> int:
    """Most of the moments that fall into any window of so many hours."""
    return max((sum(one <= other < one + hours * 3600.0 for other in moments) for one in moments), default=0)


DAYS = [
    (2, 0.3, 150.0),
    (2, 0.6, 20.0),
    (2, 0.6, 150.0),
    (2, 0.9, 1.0),
    (2, 0.9, 20.0),
    (4, 0.6, 150.0),
    (4, 0.9, 20.0),
]
"""Replicas, the part of what they carry that comes on average, and how dispersed that is: where a GPU more is near."""


@pytest.mark.parametrize(("replicas", "part", "dispersion"), DAYS)
def test_at_most_one_end_is_taken_back_in_six_hours_and_none_within_ten_minutes(
    replicas: int, part: float, dispersion: float
) -> None:
    day = play(part * capacity(replicas), dispersion, first=replicas, seed=replicas)
    assert most_in(day.taken_back, 6.0) <= 1, day.changes
    assert not day.hasty, day.changes
    assert day.late < 0.02
