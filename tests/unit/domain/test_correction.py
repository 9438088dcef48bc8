from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.correction import (
    LOWER_BY,
    NOISE_BYTES,
    RAISE_BY_BYTES,
    Means,
    Measured,
    NotMeasured,
    corrected,
    measured_on_device,
    measured_profile,
)
from slmpack.domain.footprint import Footprint
from slmpack.domain.interval import Basis
from slmpack.domain.quantity import GIB

ESTIMATE = Footprint(
    weights_bytes=4 * GIB,
    kv_bytes_per_token=100_000,
    activation_bytes=GIB,
    non_torch_bytes=GIB // 8,
    cuda_graph_bytes=GIB // 2,
    cuda_graphs_inside_budget=False,
    context_bytes=GIB // 2,
    margin_bytes=GIB // 4,
    basis="modelled",
    non_kv_low_bytes=4 * GIB,
    non_kv_high_bytes=7 * GIB,
)
INSIDE = ESTIMATE.fixed_inside_bytes
SIZES = st.integers(0, 12 * GIB)
FOOTPRINTS = st.builds(
    lambda inside, **sizes: Footprint(
        basis="modelled", kv_bytes_per_token=1, cuda_graphs_inside_budget=inside, **sizes
    ),
    inside=st.booleans(),
    weights_bytes=SIZES,
    activation_bytes=SIZES,
    non_torch_bytes=SIZES,
    cuda_graph_bytes=SIZES,
    context_bytes=SIZES,
    margin_bytes=SIZES,
    non_kv_low_bytes=st.none() | SIZES,
    non_kv_high_bytes=st.none() | SIZES,
)
READINGS = st.lists(
    st.builds(Measured, means=st.sampled_from(Means), non_kv_bytes=st.integers(0, 64 * GIB)), max_size=4
).map(tuple)


def a_reading(non_kv_bytes: int, means: Means = Means.CALIBRATION_START) -> Measured:
    return Measured(means=means, non_kv_bytes=non_kv_bytes)


def corrected_footprint(*readings: Measured, estimate: Footprint = ESTIMATE) -> Footprint:
    found = corrected(estimate, readings)
    assert isinstance(found, Footprint), found
    return found


def test_a_measured_profile_is_the_budget_less_the_kv_cache() -> None:
    found = measured_profile(requested_bytes=20 * GIB, kv_cache_bytes=14 * GIB, stated_kv_cache_bytes=None)
    assert found == a_reading(6 * GIB)


def test_an_echo_of_our_own_flag_is_no_measurement() -> None:
    found = measured_profile(requested_bytes=20 * GIB, kv_cache_bytes=14 * GIB, stated_kv_cache_bytes=14 * GIB)
    assert isinstance(found, NotMeasured)
    assert "--kv-cache-memory-bytes" in found.message
    assert "start once without the flag" in found.message


@pytest.mark.parametrize("kv_cache_bytes", [-1, 0, 20 * GIB])
def test_a_cache_that_cannot_be_is_no_measurement(kv_cache_bytes: int) -> None:
    found = measured_profile(requested_bytes=20 * GIB, kv_cache_bytes=kv_cache_bytes, stated_kv_cache_bytes=None)
    assert isinstance(found, NotMeasured)


@pytest.mark.parametrize("means", [Means.PROCESS, Means.SERIAL_START])
def test_a_device_reading_is_all_less_the_kv_cache(means: Means) -> None:
    found = measured_on_device(means, device_bytes=21 * GIB, kv_cache_bytes=14 * GIB)
    assert found == a_reading(7 * GIB, means)


@pytest.mark.parametrize(("device", "kv"), [(14, 14), (13, 14), (14, -1)])
def test_a_device_reading_that_cannot_be_is_none(device: int, kv: int) -> None:
    assert isinstance(measured_on_device(Means.PROCESS, device_bytes=device, kv_cache_bytes=kv), NotMeasured)


def test_a_calibration_start_is_no_device_reading() -> None:
    found = measured_on_device(Means.CALIBRATION_START, device_bytes=2, kv_cache_bytes=1)
    assert isinstance(found, NotMeasured)
    assert "measured_profile" in found.message


def test_without_a_measurement_nothing_changes_and_nothing_says_measured() -> None:
    assert corrected(ESTIMATE, ()) is ESTIMATE
    assert ESTIMATE.non_kv.basis is Basis.MODELLED


def test_more_than_estimated_raises_the_plan_to_what_was_seen() -> None:
    found = corrected_footprint(a_reading(INSIDE + GIB))
    assert found.fixed_inside_bytes == INSIDE + GIB + NOISE_BYTES
    assert found.margin_bytes == ESTIMATE.margin_bytes + GIB + NOISE_BYTES
    assert found.non_kv_high_bytes == 7 * GIB
    assert found.non_kv.basis is Basis.MEASURED


def test_less_than_estimated_lowers_the_plan_but_not_the_weights() -> None:
    found = corrected_footprint(a_reading(INSIDE - GIB // 2))
    assert found.fixed_inside_bytes == INSIDE - GIB // 2 + NOISE_BYTES
    assert (found.margin_bytes, found.weights_bytes) == (0, ESTIMATE.weights_bytes)
    assert found.non_kv_high_bytes == found.fixed_inside_bytes
    assert found.outside_bytes == ESTIMATE.outside_bytes


def test_little_takes_at_most_half_of_what_is_not_weights() -> None:
    soft = INSIDE - ESTIMATE.weights_bytes
    assert corrected_footprint(a_reading(1)).fixed_inside_bytes == INSIDE - int(soft * LOWER_BY)


def test_the_largest_of_several_counts() -> None:
    one, two = a_reading(INSIDE - GIB), a_reading(INSIDE - GIB // 4)
    assert corrected_footprint(one, two) == corrected_footprint(two)


def test_a_device_reading_within_the_plan_says_only_that_it_was_measured() -> None:
    found = corrected_footprint(a_reading(INSIDE + GIB // 2, Means.PROCESS))
    assert found == replace(ESTIMATE, basis="measured")


def test_what_no_engine_takes_is_not_believed() -> None:
    found = corrected(ESTIMATE, (a_reading(INSIDE + RAISE_BY_BYTES),))
    assert isinstance(found, NotMeasured)
    assert "a calibration start" in found.message
    assert "4.0 GiB is believed" in found.message
    assert isinstance(corrected(ESTIMATE, (a_reading(INSIDE + RAISE_BY_BYTES - NOISE_BYTES),)), Footprint)


@given(estimate=FOOTPRINTS, readings=READINGS)
def test_a_correction_is_bounded_and_never_below_what_was_measured(
    estimate: Footprint, readings: tuple[Measured, ...]
) -> None:
    found = corrected(estimate, readings)
    if isinstance(found, NotMeasured):
        assert any(one.non_kv_bytes + NOISE_BYTES > estimate.fixed_inside_bytes + RAISE_BY_BYTES for one in readings)
        return
    inside, total = found.fixed_inside_bytes, found.fixed_inside_bytes + found.outside_bytes
    assert all(one.non_kv_bytes <= (inside if one.inside_budget_only else total) for one in readings) or not readings
    soft = estimate.fixed_inside_bytes - estimate.weights_bytes
    assert estimate.fixed_inside_bytes - soft * LOWER_BY <= inside <= estimate.fixed_inside_bytes + RAISE_BY_BYTES
    assert min(found.margin_bytes, found.activation_bytes, found.non_torch_bytes) >= 0
    assert (found.weights_bytes, found.outside_bytes) == (estimate.weights_bytes, estimate.outside_bytes)
    assert (found.basis == "measured") == bool(readings)
    assert found.non_kv.low <= found.non_kv.expected <= found.non_kv.high
