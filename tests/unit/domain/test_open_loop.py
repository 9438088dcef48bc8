"""From a request rate to requests in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.cut import Cut
from slmpack.domain.engine_version import EngineVersion
from slmpack.domain.open_loop import Settled, settle
from slmpack.domain.performance import Rate, Unpredictable, rates
from slmpack.domain.prediction import Sharing, Site, Tenant
from tests.support.builders import POLICY, a_model
from tests.unit.domain.test_part import a_cut

CONSTANTS = POLICY.performance.constants_for(EngineVersion(0, 33))
TENANT = Tenant(
    model=a_model(),
    in_flight=16.0,
    kv_cache_tokens=300_000,
    max_num_seqs=128,
    max_num_batched_tokens=2048,
    kv_element_bytes=2,
    enforce_eager=False,
    cpu_cores=4.0,
    input_tokens=512,
    output_tokens=256,
    prefix_hit_rate=0.0,
)


def a_site(cut: Cut | None = None) -> Site:
    return (cut or a_cut(Sharing.MPS, 2)).site


def settled(tenants: tuple[Tenant, ...], rate: tuple[float | None, ...]) -> Settled:
    found = settle(tenants, rate, a_site(), CONSTANTS)
    assert isinstance(found, Settled)
    return found


def speeds(tenants: tuple[Tenant, ...]) -> tuple[Rate, ...]:
    found = rates(tenants, a_site(), CONSTANTS)
    assert not isinstance(found, Unpredictable)
    return found


@pytest.mark.parametrize("each", [0.05, 0.5, 1.0, 2.0])
def test_what_arrives_is_answered(each: float) -> None:
    found = settled((TENANT, TENANT), (each, each))
    assert found.steady
    for tenant, got in zip(found.tenants, speeds(found.tenants), strict=True):
        seconds = got.ttft_s + 255 * got.itl_s
        assert tenant.in_flight == pytest.approx(each * seconds, rel=1e-3)


def test_more_arrivals_are_more_in_flight_than_in_proportion() -> None:
    one, two = (settled((TENANT,), (rate,)).tenants[0].in_flight for rate in (1.0, 2.0))
    assert two > 2 * one


def test_a_closed_loop_stays_and_slows_its_neighbour() -> None:
    alone = settled((TENANT,), (1.0,))
    beside = settled((TENANT, replace(TENANT, in_flight=100.0)), (1.0, None))
    assert beside.tenants[1].in_flight == 100.0
    assert beside.tenants[0].in_flight > 1.1 * alone.tenants[0].in_flight


@pytest.mark.parametrize("over", [1.0003, 1.3, 100.0])
def test_more_than_can_be_answered_is_said(over: float) -> None:
    most = speeds((replace(TENANT, in_flight=1e4),))[0].throughput_tok_s / TENANT.output_tokens
    assert not settled((TENANT,), (over * most,)).steady
    assert settled((TENANT,), (0.95 * most,)).steady


def test_what_the_model_cannot_predict_stays_unpredictable() -> None:
    site = replace(a_site(), gpu=replace(a_site().gpu, bandwidth_gb_s=None))
    assert isinstance(settle((TENANT,), (1.0,), site, CONSTANTS), Unpredictable)
