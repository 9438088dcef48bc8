from __future__ import annotations

from time import process_time

import pytest

from slmpack.domain.contention import EXACT_STATES, shared_alike, shared_apart


def test_one_engine_alone_takes_its_own_time() -> None:
    assert shared_alike(1, busy=3.0, think=2.0, capped=0.0) == pytest.approx(5.0)


def test_two_engines_by_hand() -> None:
    # The second arrives while the first is at the station a part 3 / (3 + 1) of the time.
    assert shared_alike(2, busy=3.0, think=1.0, capped=0.0) == pytest.approx(3.0 * 1.75 + 1.0)


def test_engines_that_never_think_share_the_device_evenly() -> None:
    assert shared_alike(4, busy=2.0, think=0.0, capped=0.0) == pytest.approx(8.0)


def test_many_engines_keep_the_station_full() -> None:
    time = shared_alike(200, busy=1.0, think=5.0, capped=0.0)

    assert 200 / time == pytest.approx(1.0, rel=1e-6)


def test_a_ceiling_is_a_floor_under_the_time_at_the_station() -> None:
    assert shared_alike(2, busy=1.0, think=4.0, capped=3.0) == pytest.approx(7.0)
    assert shared_alike(4, busy=1.0, think=0.0, capped=3.0) == pytest.approx(4.0)


@pytest.mark.parametrize("engines", [1, 2, 3, 5])
def test_equal_engines_are_the_same_by_both_ways(engines: int) -> None:
    apart = shared_apart([(2.0, 1.5, 0.0)] * engines)

    assert apart == pytest.approx([shared_alike(engines, busy=2.0, think=1.5, capped=0.0)] * engines)


def test_the_busier_neighbour_costs_more() -> None:
    light, heavy = shared_apart([(1.0, 4.0, 0.0), (4.0, 1.0, 0.0)])

    assert light == pytest.approx(1.0 * (1 + 0.8) + 4.0)
    assert heavy == pytest.approx(4.0 * (1 + 0.2) + 1.0)


def test_a_ceiling_counts_for_each() -> None:
    first, second = shared_apart([(1.0, 1.0, 9.0), (1.0, 1.0, 0.0)])

    assert first == pytest.approx(10.0)
    assert second == pytest.approx(2.5)


def by_subsets(stations: list[tuple[float, float]]) -> list[float]:
    """The analysis over every subset, straight from its definition."""
    if not stations:
        return []
    others = [stations[:number] + stations[number + 1 :] for number in range(len(stations))]
    queues = [
        sum((time - think) / time for time, (_, think) in zip(by_subsets(other), other, strict=True))
        for other in others
    ]
    return [busy * (1.0 + queue) + think for queue, (busy, think) in zip(queues, stations, strict=True)]


def test_kinds_by_count_are_the_analysis_over_all_subsets() -> None:
    stations = [(1.0, 2.0), (3.0, 0.5), (1.0, 2.0), (0.2, 4.0), (3.0, 0.5), (1.0, 2.0)]

    found = shared_apart([(busy, think, 0.0) for busy, think in stations])

    assert found == pytest.approx(by_subsets(stations), rel=1e-12)


def test_many_engines_of_two_kinds_are_quick() -> None:
    start = process_time()
    times = shared_apart([(1.0, 2.0, 0.0)] * 20 + [(3.0, 2.0, 0.0)] * 20)

    assert process_time() - start < 0.5
    assert sum(busy / time for busy, time in zip([1.0] * 20 + [3.0] * 20, times, strict=True)) == pytest.approx(1.0)


@pytest.mark.parametrize("think", [0.1, 3.0, 30.0])
def test_too_many_kinds_are_approximated(think: float) -> None:
    stations = [(1.0 + number / 10, think, 0.0) for number in range(11)]
    assert 2 ** len(stations) > EXACT_STATES
    alike = shared_alike(11, busy=1.5, think=think, capped=0.0)

    times = shared_apart(stations)

    assert sum(times) / 11 == pytest.approx(alike, rel=0.1)
    assert list(times) == sorted(times)
    assert sum(busy / time for (busy, *_), time in zip(stations, times, strict=True)) <= 1.0


def test_48_engines_that_all_differ_are_quick() -> None:
    start = process_time()
    times = shared_apart([(1.0 + number / 10, 2.0, 0.0) for number in range(48)])

    assert process_time() - start < 0.5
    assert len(set(times)) == 48
