from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from math import isfinite
from time import process_time

import pytest

from slmpack.domain.calibration import Calibration, MeasuredPoint
from slmpack.domain.gpu import DenseTflops
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance import Rate, Unpredictable, calibrate, predict, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.power import board_power
from slmpack.domain.prediction import GpuPrediction, Sharing, Site, Tenant
from slmpack.domain.steady_state import LEAST_IN_FLIGHT
from tests.support.builders import a_model
from tests.support.models import a_model_profile
from tests.support.performance import V0, V1_ASYNC, a_gpu, a_mig_site, a_site, a_tenant, an_embedder

MPS = a_site(sharing=Sharing.MPS)


def rate(*tenants: Tenant, site: Site | None = None) -> tuple[Rate, ...]:
    found = rates(tenants, site or a_site(), V1_ASYNC)
    assert not isinstance(found, Unpredictable)
    return found


def prediction(*tenants: Tenant, site: Site | None = None, calibration: Calibration | None = None) -> GpuPrediction:
    found = predict(tenants, site or a_site(), V1_ASYNC, calibration=calibration)
    assert not isinstance(found, Unpredictable)
    return found


@pytest.mark.parametrize(
    ("batch", "itl_ms", "tok_s"), [(1, 3.62, 277), (32, 7.51, 4160), (96, 13.9, 6553), (256, 29.3, 7842)]
)
def test_published_points_of_opt_on_the_old_engine(batch: int, itl_ms: float, tok_s: float) -> None:
    """arXiv 2503.08311's artifact, background/opt-1.3b: H100-64GB, ShareGPT lengths, saturated."""
    gpu = replace(a_gpu(), id="h100-64gb", bandwidth_gb_s=1631.0, memory_total_mib=65247)
    tenant = a_tenant(model=a_model("facebook/opt-1.3b"), in_flight=batch, lengths=(111, 292), kv_cache_tokens=296_000)
    found = rates([tenant], Site(gpu=gpu, sharing=Sharing.NONE), V0)

    assert not isinstance(found, Unpredictable)
    assert found[0].itl_s * 1000 == pytest.approx(itl_ms, rel=0.25)
    assert found[0].throughput_tok_s == pytest.approx(tok_s, rel=0.25)


def test_a_request_alone_keeps_the_closed_loop_identity() -> None:
    (found,) = rate(a_tenant(in_flight=1.0))

    assert found.throughput_tok_s == pytest.approx(256 / (found.ttft_s + 255 * found.itl_s))


def test_less_than_one_request_in_flight_is_one_that_comes_and_goes() -> None:
    one, rare = rate(a_tenant(in_flight=1.0))[0], rate(a_tenant(in_flight=0.2))[0]

    assert rare.throughput_tok_s == pytest.approx(0.2 * one.throughput_tok_s)
    assert (rare.itl_s, rare.ttft_s) == pytest.approx((one.itl_s, one.ttft_s))


def test_without_attention_a_short_prompt_is_free() -> None:
    recurrent = replace(a_model(), cache=(), attention=(), state_bytes_per_sequence=10**6)
    short = rate(a_tenant(model=recurrent, in_flight=4.0, lengths=(8, 256)))[0]
    none = rate(replace(a_tenant(model=recurrent, in_flight=4.0, lengths=(8, 256)), prefix_hit_rate=1.0))[0]

    assert short.itl_s == pytest.approx(none.itl_s, rel=1e-3)


def test_more_in_flight_gives_more_throughput_and_more_latency() -> None:
    found = [rate(a_tenant(in_flight=float(n)))[0] for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)]

    for before, after in pairwise(found):
        assert after.throughput_tok_s > before.throughput_tok_s
        assert after.itl_s > before.itl_s
        assert after.ttft_s > before.ttft_s
        assert after.batch > before.batch


def test_those_beyond_the_places_wait_for_their_first_token() -> None:
    inside, queued = rate(a_tenant(in_flight=64.0))[0], rate(a_tenant(in_flight=128.0, max_num_seqs=64))[0]

    assert queued.itl_s == pytest.approx(inside.itl_s)
    assert queued.throughput_tok_s == pytest.approx(inside.throughput_tok_s, rel=0.05)
    assert queued.ttft_s == pytest.approx(inside.ttft_s + 64 * 256 / queued.throughput_tok_s)


def test_equal_engines_are_one_object_and_share_the_device() -> None:
    alone = rate(a_tenant(), site=MPS)
    pair = rate(a_tenant(), a_tenant(), site=MPS)

    assert alone == rate(a_tenant())
    assert pair[0] is pair[1]
    assert alone[0].itl_s < pair[0].itl_s < 2 * alone[0].itl_s
    assert alone[0].throughput_tok_s < 2 * pair[0].throughput_tok_s


def test_unequal_engines_slow_each_other_down() -> None:
    small, large = a_tenant(in_flight=4.0), a_tenant(in_flight=64.0)
    together = rate(small, large, site=MPS)

    assert together[0].itl_s > rate(small)[0].itl_s
    assert together[1].itl_s > rate(large)[0].itl_s
    assert together[0].batch == rate(small)[0].batch


def test_equal_tenants_need_not_be_one_object() -> None:
    assert rate(a_tenant(), a_tenant(), site=MPS) == rate(*(a_tenant(),) * 2, site=MPS)


def test_instances_do_not_slow_each_other_down() -> None:
    site = a_mig_site("1g.5gb")
    alone = rate(a_tenant(in_flight=4.0), site=site)[0]

    assert rate(*[a_tenant(in_flight=4.0)] * 7, site=site) == (alone,) * 7
    assert rate(a_tenant(in_flight=4.0), a_tenant(in_flight=8.0), site=site)[0] == alone
    assert alone.itl_s > rate(a_tenant(in_flight=4.0), site=a_site("a100-sxm4-40gb"))[0].itl_s


def test_time_slicing_takes_turns() -> None:
    sliced = a_site(sharing=Sharing.TIMESLICE)
    factor = V1_ASYNC.sharing.timeslice_factor
    one, pair = rate(a_tenant(), site=sliced)[0], rate(a_tenant(), a_tenant(), site=sliced)[0]
    small, large = a_tenant(in_flight=4.0), a_tenant(in_flight=64.0)
    unequal = rate(small, large, site=sliced)

    assert one == rate(a_tenant())[0]
    assert pair.itl_s == pytest.approx(2 * factor * one.itl_s)
    assert unequal[0].itl_s == pytest.approx(factor * (rate(small)[0].itl_s + rate(large)[0].itl_s), rel=0.03)
    assert unequal[0].itl_s == pytest.approx(unequal[1].itl_s, rel=0.1)


def test_a_ceiling_costs_prompts_more_than_decoding() -> None:
    capped = a_site(sharing=Sharing.MPS, sm_percent=25)

    def cost(lengths: tuple[int, int]) -> float:
        tenant = a_tenant(lengths=lengths)
        return rate(tenant, site=capped)[0].itl_s / rate(tenant, site=MPS)[0].itl_s

    assert cost((2048, 64)) > cost((64, 512)) > 1.0
    tenants = (a_tenant(in_flight=4.0), a_tenant(in_flight=64.0))
    tight = a_site(sharing=Sharing.MPS, sm_percent=5)
    assert rate(*tenants, site=tight)[0].itl_s > rate(*tenants, site=MPS)[0].itl_s


@pytest.mark.parametrize("ask", [rates, predict])
@pytest.mark.parametrize(
    ("tenants", "site", "word"),
    [
        ((a_tenant(),), a_site("a2"), "memory_bandwidth_gb_s"),
        ((a_tenant(),), a_site("t4"), "dense_tflops"),
        ((a_tenant(model=an_embedder()),), a_site(), "embedding"),
        ((a_tenant(), a_tenant(model=an_embedder())), a_site(), "embedding"),
    ],
)
def test_what_the_catalogue_or_the_model_lacks_is_a_reason(
    ask: type, tenants: tuple[Tenant, ...], site: Site, word: str
) -> None:
    found = ask(tenants, site, V1_ASYNC)

    assert isinstance(found, Unpredictable)
    assert word in found.reason


def test_a_calibration_of_an_unpredictable_site_is_a_reason() -> None:
    point = MeasuredPoint(in_flight=1.0, itl_s=0.01)

    assert isinstance(calibrate([point], a_tenant(), a_site("a2"), V1_ASYNC), Unpredictable)


def test_every_interval_holds_its_expected_value() -> None:
    for site in (a_site(), MPS, a_site(sharing=Sharing.TIMESLICE), a_site("l4", Sharing.MPS, sm_percent=50)):
        for flight in (1.0, 32.0, 600.0):
            found = prediction(*[a_tenant(in_flight=flight, kv_cache_tokens=50_000)] * 2, site=site)
            first = found.tenants[0]
            for each in (
                found.throughput_tok_s,
                found.power_w,
                found.energy_j_per_token,
                first.throughput_tok_s,
                first.itl_s,
                first.itl_p99_s,
                first.ttft_s,
                first.preemption,
            ):
                assert each.low <= each.expected <= each.high
            assert first.itl_p99_s.expected >= first.itl_s.expected


def test_expected_values_are_those_of_the_fast_path() -> None:
    tenants = (a_tenant(in_flight=4.0), a_tenant(in_flight=64.0))
    quick, found = rate(*tenants, site=MPS), prediction(*tenants, site=MPS)

    assert found.throughput_tok_s.expected == pytest.approx(sum(each.throughput_tok_s for each in quick))
    for each, full in zip(quick, found.tenants, strict=True):
        assert full.itl_s.expected == each.itl_s
        assert full.ttft_s.expected == each.ttft_s
        assert full.effective_batch == each.batch


def test_sharing_widens_the_intervals() -> None:
    def width(interval: Interval) -> float:
        return interval.high / interval.low

    alone = width(prediction(a_tenant(), site=MPS).throughput_tok_s)

    assert width(prediction(a_tenant()).throughput_tok_s) == pytest.approx(alone)
    assert width(prediction(a_tenant(), a_tenant(), site=MPS).throughput_tok_s) > alone
    sliced = a_site(sharing=Sharing.TIMESLICE)
    assert width(prediction(a_tenant(), a_tenant(), site=sliced).throughput_tok_s) > alone


def test_joules_are_watts_over_tokens() -> None:
    found = prediction(a_tenant())

    assert found.energy_j_per_token.expected == pytest.approx(found.power_w.expected / found.throughput_tok_s.expected)
    assert found.energy_j_per_token.low == pytest.approx(found.power_w.low / found.throughput_tok_s.high)
    assert found.energy_j_per_token.high == pytest.approx(found.power_w.high / found.throughput_tok_s.low)


def test_energy_is_as_soft_as_the_softer_of_power_and_throughput() -> None:
    assert prediction(a_tenant()).energy_j_per_token.basis is Basis.MODELLED
    assert prediction(a_tenant(), site=a_site("l4")).energy_j_per_token.basis is Basis.ASSUMED


def test_the_tail_is_an_iteration_with_a_prompt_where_those_are_frequent() -> None:
    busy, rare = prediction(a_tenant(in_flight=32.0)), prediction(a_tenant(in_flight=2.0, lengths=(64, 2000)))

    assert busy.tenants[0].itl_p99_s.expected > 1.05 * busy.tenants[0].itl_s.expected
    assert rare.tenants[0].itl_p99_s.expected == pytest.approx(rare.tenants[0].itl_s.expected, rel=0.01)


def test_requests_are_preempted_where_more_want_in_than_the_pool_holds() -> None:
    fits = prediction(a_tenant(in_flight=10.0, kv_cache_tokens=6400)).tenants[0]
    over = prediction(a_tenant(in_flight=11.0, kv_cache_tokens=6400)).tenants[0]
    limited = prediction(a_tenant(in_flight=900.0, kv_cache_tokens=6400, max_num_seqs=10)).tenants[0]

    assert fits.preemption.high == limited.preemption.high == 0.0
    assert over.preemption.expected == pytest.approx(256 / 768 * V1_ASYNC.preemption_part)
    assert over.preemption.high == 1.0


def test_two_measured_points_are_met_and_narrow_the_interval() -> None:
    tenant = a_tenant()
    measured = [(n, 0.0005 + 1.3 * rate(replace(tenant, in_flight=n))[0].itl_s) for n in (1.0, 64.0)]
    points = [MeasuredPoint(in_flight=flight, itl_s=itl) for flight, itl in measured]

    calibration = calibrate(points, tenant, a_site(), V1_ASYNC)

    assert isinstance(calibration, Calibration)
    for flight, itl in measured:
        found = prediction(replace(tenant, in_flight=flight), calibration=calibration)
        assert found.tenants[0].itl_s.expected == pytest.approx(itl, rel=0.02)
    plain, corrected = prediction(tenant).tenants[0].itl_s, prediction(tenant, calibration=calibration).tenants[0].itl_s
    assert corrected.high / corrected.low < plain.high / plain.low
    assert (plain.basis, corrected.basis) == (Basis.MODELLED, Basis.CALIBRATED)


def test_a_calibration_holds_under_sharing() -> None:
    calibration = Calibration(step_s=0.002, factor=1.2, points=2)
    tenants = (a_tenant(in_flight=4.0), a_tenant(in_flight=64.0))

    slower = rates(tenants, MPS, V1_ASYNC, calibration=calibration)

    assert not isinstance(slower, Unpredictable)
    for each, before in zip(slower, rate(*tenants, site=MPS), strict=True):
        assert 1.2 * before.itl_s + 0.0005 < each.itl_s < 1.2 * before.itl_s + 0.002


def test_slices_share_the_power_of_their_gpu() -> None:
    site = a_mig_site("1g.5gb")
    one, seven = (prediction(*[a_tenant(in_flight=4.0)] * count, site=site) for count in (1, 7))

    assert seven.throughput_tok_s.expected == pytest.approx(7 * one.throughput_tok_s.expected)
    assert one.power_w.expected < seven.power_w.expected < 2 * one.power_w.expected


def test_no_figures_for_a_dtype_is_no_guess() -> None:
    site = Site(gpu=replace(a_gpu(), dense_tflops=DenseTflops()), sharing=Sharing.NONE)

    assert isinstance(rates((a_tenant(),), site, V1_ASYNC), Unpredictable)


MODELS = ("Qwen/Qwen3-4B", "deepseek-ai/DeepSeek-V2-Lite", "Qwen/Qwen3-30B-A3B", "google/gemma-2-2b-it")
LENGTHS = ((1, 1), (512, 1), (512, 2), (128, 16), (512, 64), (512, 256), (8000, 1))
BATCHES = (0.3, 1.0, 3.0, 8.0, 16.0, 64.0, 80.0, 256.0, 300.0, 1024.0)


def on_grid(name: str, lengths: tuple[int, int], hits: float, batch: float) -> Tenant:
    tenant = a_tenant(model=a_model_profile(name), in_flight=batch, lengths=lengths, max_num_batched_tokens=8192)
    return replace(tenant, max_num_seqs=4096, kv_cache_tokens=10**8, prefix_hit_rate=hits)


def faster(site: Site, *, bandwidth: float, compute: float) -> Site:
    gpu = site.gpu
    assert gpu.bandwidth_gb_s is not None
    peaks = DenseTflops(bf16=(gpu.dense_tflops.bf16 or 0.0) * compute, fp16=(gpu.dense_tflops.fp16 or 0.0) * compute)
    return replace(site, gpu=replace(gpu, bandwidth_gb_s=gpu.bandwidth_gb_s * bandwidth, dense_tflops=peaks))


@pytest.mark.parametrize("site", [a_site(), a_site("l4"), MPS], ids=["h100", "l4", "two of h100"])
@pytest.mark.parametrize("constants", [V0, V1_ASYNC], ids=["V0", "V1 async"])
@pytest.mark.parametrize("name", MODELS)
def test_a_faster_device_never_gives_less(name: str, constants: EngineConstants, site: Site) -> None:
    for lengths, hits, batch in product(LENGTHS, (0.0, 0.95), BATCHES):
        tenants = (on_grid(name, lengths, hits, batch),) * (2 if site is MPS else 1)
        plain, wider, stronger = (
            rates(tenants, faster(site, bandwidth=bandwidth, compute=compute), constants)
            for bandwidth, compute in ((1.0, 1.0), (1.3, 1.0), (1.0, 1.3))
        )

        assert isinstance(plain, tuple)
        for better in (wider, stronger):
            assert isinstance(better, tuple)
            assert better[0].throughput_tok_s >= plain[0].throughput_tok_s * (1 - 1e-9), (lengths, hits, batch)


@pytest.mark.parametrize("constants", [V0, V1_ASYNC], ids=["V0", "V1 async"])
@pytest.mark.parametrize("name", MODELS)
def test_more_in_flight_never_gives_less(name: str, constants: EngineConstants) -> None:
    for lengths, hits in product(LENGTHS, (0.0, 0.5, 0.95)):
        found = [rates((on_grid(name, lengths, hits, batch),), a_site(), constants) for batch in BATCHES]

        for before, after in pairwise(found):
            assert isinstance(before, tuple)
            assert isinstance(after, tuple)
            assert after[0].throughput_tok_s >= before[0].throughput_tok_s * (1 - 1e-9), (lengths, hits)


def test_one_token_out_is_all_prompts_together() -> None:
    (found,) = rate(a_tenant(in_flight=16.0, lengths=(512, 1)))

    assert found.batch == 0.0
    assert found.throughput_tok_s == pytest.approx(16 / found.ttft_s, rel=0.2)


@pytest.mark.parametrize("in_flight", [5e-324, 1e-200, 1e-12])
def test_next_to_no_load_has_finite_figures(in_flight: float) -> None:
    found = prediction(a_tenant(in_flight=in_flight))
    one = rate(a_tenant(in_flight=1.0))[0]

    figures = (found.throughput_tok_s, found.power_w, found.energy_j_per_token, found.tenants[0].ttft_s)
    assert all(isfinite(end) for each in figures for end in (each.low, each.expected, each.high))
    assert found.throughput_tok_s.expected == pytest.approx(one.throughput_tok_s * LEAST_IN_FLIGHT)
    idle = board_power(a_gpu(), V1_ASYNC.power, memory=0.0, compute=0.0, busy=0.0)
    assert found.power_w.expected == pytest.approx(idle.expected)


def test_an_engine_draws_power_while_it_has_work() -> None:
    rare, half, one = (prediction(a_tenant(in_flight=load)).power_w for load in (0.01, 0.5, 1.0))
    two = prediction(*[a_tenant(in_flight=0.5)] * 2, site=MPS).power_w
    idle = board_power(a_gpu(), V1_ASYNC.power, memory=0.0, compute=0.0, busy=0.0).expected

    assert rare.expected - idle == pytest.approx(0.01 * (one.expected - idle))
    assert half.expected - idle == pytest.approx(0.5 * (one.expected - idle))
    assert rare.low < rare.expected < rare.high < one.expected
    assert half.expected < two.expected < one.expected  # in a quarter of the time both rest


def test_40_unequal_engines_are_predicted_in_time() -> None:
    start = process_time()
    found = prediction(*[a_tenant(in_flight=4.0)] * 20, *[a_tenant(in_flight=8.0)] * 20, site=MPS)

    assert process_time() - start < 1.0
    assert len(found.tenants) == 40
