"""Intervals, and how they are written."""

from __future__ import annotations

import pytest

from slmpack.domain.interval import Basis, Interval, describe_expected, describe_interval, describe_spread, sum_of


def test_an_interval_is_scaled_as_a_whole() -> None:
    of = Interval(low=1.0, expected=2.0, high=4.0, basis=Basis.MODELLED)
    assert of.scaled(1000) == Interval(low=1000.0, expected=2000.0, high=4000.0, basis=Basis.MODELLED)
    assert Interval.exactly(3.0, Basis.ASSUMED) == Interval(low=3.0, expected=3.0, high=3.0, basis=Basis.ASSUMED)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.34, "12.3"), (123.4, "123"), (12_345.0, "12,300")],
)
def test_three_digits_are_written(value: float, text: str) -> None:
    assert describe_interval(Interval.exactly(value, Basis.MEASURED), unit="W") == f"{text} W ({text} to {text})"


def test_an_interval_is_said_in_parts_or_whole() -> None:
    of = Interval(low=90.4, expected=100.0, high=1234.0, basis=Basis.MODELLED)
    assert (describe_expected(of, unit="W"), describe_spread(of)) == ("100 W", "90.4 to 1,230")
    assert describe_interval(of, unit="W") == "100 W (90.4 to 1,230)"


def test_a_sum_is_as_soft_as_its_softest_part() -> None:
    firm = Interval(low=1.0, expected=2.0, high=4.0, basis=Basis.MODELLED)
    soft = Interval(low=10.0, expected=10.0, high=30.0, basis=Basis.ASSUMED)
    assert sum_of([]) is None
    assert sum_of([firm, soft, firm]) == Interval(low=12.0, expected=14.0, high=38.0, basis=Basis.ASSUMED)


def test_bases_are_ordered_by_how_firm_they_are() -> None:
    assert [basis.softness for basis in Basis] == [0, 1, 2, 3]
