from __future__ import annotations

import pytest

from slmpack.domain.calibration import solve_calibration


def test_two_points_fix_host_time_and_factor() -> None:
    found = solve_calibration((0.004, 0.020), (0.007, 0.031))

    assert found.factor == pytest.approx(1.5)
    assert found.step_s == pytest.approx(0.001)
    assert found.points == 2


def test_more_points_are_met_as_well_as_a_line_can() -> None:
    found = solve_calibration((0.004, 0.012, 0.020), (0.007, 0.020, 0.031))

    assert found.factor == pytest.approx(1.5, rel=0.05)
    assert found.points == 3


def test_relative_errors_count_so_that_short_iterations_weigh_as_much_as_long_ones() -> None:
    found = solve_calibration((0.004, 0.050, 0.100), (0.004, 0.090, 0.150))

    assert found.step_s + found.factor * 0.004 == pytest.approx(0.004, rel=0.01)


@pytest.mark.parametrize("modelled", [(0.004,), (0.004, 0.004)])
def test_points_that_the_model_does_not_tell_apart_fix_the_factor_alone(modelled: tuple[float, ...]) -> None:
    found = solve_calibration(modelled, (0.006,) * len(modelled))

    assert found.factor == pytest.approx(1.5)
    assert found.step_s == 0.0


@pytest.mark.parametrize(("measured", "factor"), [((0.001, 0.9), 3.0), ((0.02, 0.02), 0.3)])
def test_a_factor_out_of_range_stops_at_its_end(measured: tuple[float, float], factor: float) -> None:
    assert solve_calibration((0.004, 0.020), measured).factor == factor


def test_a_far_single_point_stops_at_the_end_too() -> None:
    assert solve_calibration((0.004,), (1.0,)).factor == 3.0
    assert solve_calibration((0.004,), (0.0001,)).factor == 0.3


def test_a_correction_leaves_some_of_every_iteration() -> None:
    found = solve_calibration((0.010, 0.012), (0.001, 0.020))

    assert found.factor * 0.010 + found.step_s >= 0.0019
