"""A histogram of latencies: what part of the requests is above a bound."""

from __future__ import annotations

from math import inf

import pytest

from slmpack.domain.load import Latencies

TAIL = Latencies(at_most=((0.01, 20.0), (0.1, 90.0), (1.0, 99.0), (10.0, 100.0), (inf, 100.0)))


@pytest.mark.parametrize(
    ("bound_s", "part"),
    [
        (0.01, 0.8),
        (0.1, 0.1),
        (1.0, 0.01),
        (0.1 * 10**0.5, 0.1 * 10**-0.5),  # halfway between the logarithms of 0.1 and 1, and of their parts
        (10.0**0.5, 0.01 * 0.5**0.5),  # above 10 s is none: half a request is taken there
        (10.0, 0.0),
        (20.0, 0.0),
    ],
)
def test_the_part_above_a_bound(bound_s: float, part: float) -> None:
    assert TAIL.over(bound_s) == pytest.approx(part)


def test_a_wider_bound_is_missed_by_no_more() -> None:
    parts = [TAIL.over(10 ** (step / 50 - 2)) for step in range(150)]
    assert None not in parts
    assert parts == sorted(parts, key=lambda part: -(part or 0.0))


def test_nothing_is_said_of_a_bound_within_the_first_bucket_nor_without_a_request() -> None:
    assert TAIL.over(0.009) is None
    assert Latencies(at_most=((0.01, 0.0), (inf, 0.0))).over(0.02) is None
    assert Latencies(at_most=()).over(0.02) is None
    assert TAIL.requests == 100.0
    assert Latencies(at_most=()).requests == 0.0


def test_beyond_the_last_finite_bound_all_above_it_count() -> None:
    slow = Latencies(at_most=((1.0, 60.0), (inf, 100.0)))
    assert slow.over(5.0) == pytest.approx(0.4)
    assert Latencies(at_most=((1.0, 60.0),)).over(5.0) is None, "what is above the last bound is not told"


@pytest.mark.parametrize(
    "at_most",
    [
        (),
        ((0.0, 1.0), (inf, 2.0)),
        ((0.1, 1.0), (1.0, 2.0)),
        ((0.1, 2.0), (inf, 1.0)),
        ((0.1, 1.0), (0.1, 1.0), (inf, 2.0)),
        ((1.0, 1.0), (0.1, 2.0), (inf, 3.0)),
    ],
)
def test_what_does_not_rise_is_no_histogram(at_most: tuple[tuple[float, float], ...]) -> None:
    assert TAIL.rises
    assert not Latencies(at_most=at_most).rises
