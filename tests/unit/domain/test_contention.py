from __future__ import annotations

import pytest

from slmpack.domain.contention import shared_alike, shared_apart


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
