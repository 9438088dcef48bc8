"""Windows as Prometheus computes them, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from slmpack.simulate.windows import Series, histogram_quantile, quantile


def series(*samples: tuple[float, float], keep_s: float = 3600.0) -> Series:
    found = Series(keep_s=keep_s)
    for at, value in samples:
        found.put(at, np.array([value]))
    return found


def only(value: np.ndarray | None) -> float | None:
    return None if value is None else float(value[0])


def test_a_steady_counter_has_its_slope_as_rate() -> None:
    # 100 each 15 s; (0, 60] holds the samples at 15, 30, 45 and 60: 300 in 45 s, extrapolated by 15 s to the start
    found = series(*((at, at * 100 / 15) for at in (0.0, 15.0, 30.0, 45.0, 60.0)))
    assert only(found.rate(60.0, 60.0)) == pytest.approx(400 / 60)


def test_both_ends_are_extrapolated() -> None:
    # at 64 s, (4, 64]: 15 to 60 are 45 s apart, 11 s from the start, 4 s from the end: 300 * 60 / 45 in 60 s
    found = series(*((at, 1000 + at * 100 / 15) for at in (0.0, 15.0, 30.0, 45.0, 60.0)))
    assert only(found.rate(64.0, 60.0)) == pytest.approx(300 * 60 / 45 / 60)


def test_a_young_counter_is_not_extrapolated_below_zero() -> None:
    # two samples, 45 s and 60 s: the start is far, so half an interval; the counter was 0 only 1.5 s before the first
    found = series((45.0, 10.0), (60.0, 110.0))
    assert only(found.rate(60.0, 60.0)) == pytest.approx(100 * (15 + 1.5) / 15 / 60)


def test_a_young_gauge_is_extrapolated_by_half_an_interval() -> None:
    found = series((45.0, 10.0), (60.0, 110.0))
    assert only(found.slope(60.0, 60.0)) == pytest.approx(100 * (15 + 7.5) / 15 / 60)


def test_a_gauge_may_fall() -> None:
    found = series((15.0, 40.0), (30.0, 30.0), (45.0, 20.0), (60.0, 10.0))
    assert only(found.slope(60.0, 60.0)) == pytest.approx(-30 * 60 / 45 / 60)


def test_one_sample_says_nothing() -> None:
    assert series((60.0, 10.0)).rate(60.0, 60.0) is None
    assert series((0.0, 10.0), (15.0, 20.0)).rate(300.0, 60.0) is None


def test_windows_are_open_on_the_left() -> None:
    assert series((0.0, 0.0), (60.0, 60.0)).rate(60.0, 60.0) is None


def test_what_comes_later_is_not_seen() -> None:
    found = series((15.0, 0.0), (30.0, 15.0), (45.0, 9000.0))
    assert only(found.rate(44.0, 60.0)) == only(series((15.0, 0.0), (30.0, 15.0)).rate(44.0, 60.0))


def test_the_newest_sample_must_be_fresh() -> None:
    found = series((15.0, 1.0), (30.0, 2.0))
    assert only(found.last(40.0, within_s=15.0)) == 2.0
    assert only(found.last(29.0, within_s=15.0)) == 1.0
    assert found.last(45.0, within_s=15.0) is None


def test_old_samples_are_forgotten() -> None:
    found = series(*((float(at), 0.0) for at in range(100)), keep_s=10.0)
    assert list(found.times) == [float(at) for at in range(89, 100)]


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [0.0, 10.0, 0.0, 0.0], 0.75),  # the middle of (0.5, 1.0]
        (0.5, [10.0, 0.0, 0.0, 0.0], 0.25),  # the first bucket begins at 0
        (0.95, [10.0, 10.0, 0.0, 0.0], 0.95),  # rank 19 of 20: nine tenths into the second bucket
        (0.99, [1.0, 0.0, 0.0, 99.0], 2.0),  # in +Inf: the last bound
    ],
)
def test_quantiles_of_a_histogram(share: float, counts: list[float], expected: float) -> None:
    assert histogram_quantile(share, (0.5, 1.0, 2.0), np.array(counts)) == pytest.approx(expected)


def test_a_histogram_without_observations_has_none() -> None:
    assert histogram_quantile(0.95, (0.5, 1.0), np.zeros(3)) is None


def test_quantile_over_time_is_linear() -> None:
    assert quantile(0.99, [0.0, 100.0]) == pytest.approx(99.0)
