from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.interval import Basis
from slmpack.domain.power import board_power, bytes_a_second, flops_a_second
from tests.support.builders import a_model
from tests.support.performance import V1_ASYNC, a_gpu, a_tenant

POWER = V1_ASYNC.power


def test_a_measured_gpu_has_the_fit_and_its_spread() -> None:
    fit = POWER.fit_for("a100-sxm4-40gb")
    assert fit is not None

    found = board_power(a_gpu("a100-sxm4-40gb"), POWER, memory=0.5, compute=0.1, busy=1.0)

    assert found.expected == pytest.approx(fit.active_w + 0.5 * fit.memory_w + 0.1 * fit.compute_w)
    assert found.low == pytest.approx(found.expected * fit.spread.low)
    assert found.high == pytest.approx(found.expected * fit.spread.high)
    assert found.basis is Basis.MODELLED


def test_power_never_leaves_idle_and_tdp() -> None:
    found = board_power(a_gpu("h100-sxm5-80gb"), POWER, memory=9.0, compute=9.0, busy=1.0)

    assert found.expected == found.high == 700


def test_an_unmeasured_gpu_lies_between_loaded_idle_and_tdp() -> None:
    l4 = board_power(a_gpu("l4"), POWER, memory=0.4, compute=0.2, busy=1.0)

    assert (l4.low, l4.high) == (27.0, 72.0)
    assert l4.low < l4.expected < l4.high
    assert l4.basis is Basis.ASSUMED


def test_without_a_captured_idle_the_lowest_part_of_the_tdp_stands_in() -> None:
    found = board_power(a_gpu("l40s"), POWER, memory=0.0, compute=0.0, busy=1.0)

    assert found.low == pytest.approx(350 * POWER.loaded_idle_share)


def test_without_work_the_board_rests_at_its_loaded_idle() -> None:
    gpu = replace(a_gpu("h100-sxm5-80gb"), loaded_idle_w=(95.0, 98.0))
    resting = board_power(gpu, POWER, memory=0.5, compute=0.1, busy=0.0)

    assert (resting.low, resting.expected, resting.high) == (95.0, 96.5, 98.0)
    assert board_power(a_gpu("l4"), POWER, memory=0.5, compute=0.1, busy=0.0).expected == 27.5


@pytest.mark.parametrize("name", ["h100-sxm5-80gb", "l40s"])
def test_an_idle_that_nobody_captured_is_an_interval(name: str) -> None:
    gpu, fit = a_gpu(name), POWER.fit_for(name)
    unloaded = gpu.tdp_w * POWER.generic.active_w if fit is None else fit.active_w
    assert gpu.loaded_idle_w is None

    found = board_power(gpu, POWER, memory=0.5, compute=0.1, busy=0.0)

    assert found.low == pytest.approx(gpu.tdp_w * POWER.loaded_idle_share)
    assert found.expected == pytest.approx((found.low + unloaded) / 2)
    assert found.high == (gpu.tdp_w if fit is None else unloaded)


def test_between_rest_and_work_the_time_decides() -> None:
    whole, none, half = (
        board_power(a_gpu("h100-sxm5-80gb"), POWER, memory=0.5, compute=0.1, busy=part) for part in (1.0, 0.0, 0.5)
    )

    for end in ("low", "expected", "high"):
        assert getattr(half, end) == pytest.approx((getattr(whole, end) + getattr(none, end)) / 2)


def test_traffic_is_weights_an_iteration_and_the_cache_of_every_sequence() -> None:
    tenant, model = a_tenant(), a_model()

    assert bytes_a_second(tenant, 10.0, 0.01) == pytest.approx(
        (model.read_bytes(10) + 10 * model.cache_read_bytes(640, 2)) * 100
    )


def test_arithmetic_counts_the_prompts_that_were_not_cached() -> None:
    tenant, model = a_tenant(), a_model()
    cached = replace(tenant, prefix_hit_rate=1.0)

    assert flops_a_second(cached, 256.0) == pytest.approx(model.linear_flops(256) + model.attention_flops(256, 640))
    more = model.linear_flops(512) + model.attention_flops(512, 256)
    assert flops_a_second(tenant, 256.0) - flops_a_second(cached, 256.0) == pytest.approx(more)
