"""What a seed draws: the truth and start times; and what an engine and a board are in the world of a truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slmpack.domain.calibration import Calibration
from slmpack.domain.power import board_power
from slmpack.domain.prediction import Sharing, Site, Tenant
from slmpack.domain.step_time import StepCosts, Unpredictable, device_of, step_costs
from slmpack.simulate.costs import EngineSpec, engine_spec
from slmpack.simulate.power import board_of
from slmpack.simulate.starts import PRESETS, Starts
from slmpack.simulate.truth import AS_MODELLED, Truth, draw_truth
from tests.support.builders import a_model
from tests.support.models import a_model_profile
from tests.support.performance import V1_ASYNC, a_gpu, a_mig_site, a_site, a_tenant, an_embedder, with_experts

V1 = V1_ASYNC
MODELS = {
    "dense": a_model(),
    "experts": with_experts(a_model()),
    "windows": a_model_profile("google/gemma-2-2b-it"),
}


def _spec(tenant: Tenant, site: Site, truth: Truth = AS_MODELLED) -> EngineSpec:
    found = engine_spec(tenant, site, V1, truth)
    assert isinstance(found, EngineSpec)
    return found


def _costs(tenant: Tenant, site: Site) -> StepCosts:
    device = device_of(site, tenant.model.compute_dtype)
    assert not isinstance(device, Unpredictable)
    found = step_costs(tenant, device, V1)
    assert isinstance(found, StepCosts)
    return found


def _iteration(spec: EngineSpec, sequences: float, *, context: float, chunk: float, pairs: float) -> float:
    """The formula of the module, written again."""
    tokens = sequences + chunk
    weights = spec.weights_s + spec.experts_s * (1.0 - spec.expert_missed**tokens)
    work = max(weights, (sequences + spec.prefill * chunk) * spec.token_s)
    work += spec.cache_s * context + spec.state_s * sequences + spec.prefill * spec.prompt_s * pairs
    return float(spec.host_s + spec.sequence_s * sequences + work)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(("sequences", "chunk"), [(1.0, 0.0), (64.0, 0.0), (32.0, 512.0), (0.0, 512.0)])
def test_a_spec_as_modelled_takes_the_time_of_the_model(name: str, sequences: float, chunk: float) -> None:
    tenant, site = a_tenant(model=MODELS[name]), a_site()
    spec, costs = _spec(tenant, site), _costs(tenant, site)
    taken = _iteration(spec, sequences, context=sequences * 640.0, chunk=chunk, pairs=chunk * 256.0)
    assert taken == pytest.approx(costs.iteration(sequences, chunk))


def test_a_recurrent_state_is_read_whatever_the_context() -> None:
    hybrid = replace(a_model(), state_bytes_per_sequence=10_000_000)
    plain, spec = _spec(a_tenant(), a_site()), _spec(a_tenant(model=hybrid), a_site())
    assert spec.cache_s == pytest.approx(plain.cache_s)
    assert spec.state_s == pytest.approx(10e6 / 3350e9 / V1.cache_efficiency, rel=0.01)
    assert plain.state_s == 0.0


def test_truth_multiplies_host_and_prefill_and_names_contention() -> None:
    tenant, site = a_tenant(), a_site(sharing=Sharing.MPS)
    plain, other = (
        _spec(tenant, site),
        _spec(tenant, site, Truth(host=1.2, contention=0.8, prefill=1.1, cold_start=2.0)),
    )
    for name in ("host_s", "sequence_s", "busy_s", "sequence_busy_s"):
        assert getattr(other, name) == pytest.approx(1.2 * getattr(plain, name))
    for name in ("weights_s", "token_s", "cache_s", "prompt_s", "weights_part"):
        assert getattr(other, name) == getattr(plain, name)
    assert (plain.prefill, plain.contention, other.prefill, other.contention) == (1.0, 1.0, 1.1, 0.8)


def test_only_mps_shares_a_device_and_a_mig_instance_has_its_part() -> None:
    whole = _spec(a_tenant(), a_site())
    mig = _spec(a_tenant(), a_mig_site("1g.10gb", "h100-sxm5-80gb"))
    mps = _spec(a_tenant(), a_site(sharing=Sharing.MPS, sm_percent=25))
    assert (whole.shared, mig.shared, mps.shared) == (False, False, True)
    assert mig.weights_s == pytest.approx(8 * whole.weights_s)
    assert mig.weights_part == whole.weights_part  # power counts bytes, whoever moves them
    assert (whole.cap_memory, whole.cap_compute) == (1.0, 1.0)
    assert mps.cap_memory == pytest.approx(0.55 / 0.25)
    assert mps.cap_compute == pytest.approx(0.25**-0.78)


def test_a_calibration_counts_and_what_cannot_be_predicted_says_why() -> None:
    site = a_site()
    plain = _spec(a_tenant(), site)
    slow = engine_spec(a_tenant(), site, V1, AS_MODELLED, calibration=Calibration(factor=2.0, step_s=0.001, points=1))
    assert isinstance(slow, EngineSpec)
    assert slow.token_s == pytest.approx(2 * plain.token_s)
    assert slow.host_s == pytest.approx(2 * plain.host_s + 0.001)
    unknown = replace(site, gpu=replace(site.gpu, bandwidth_gb_s=None))
    embedding = a_tenant(model=an_embedder())
    for tenant, where in ((a_tenant(), unknown), (embedding, site)):
        assert isinstance(engine_spec(tenant, where, V1, AS_MODELLED), Unpredictable)


@pytest.mark.parametrize("name", ["h100-sxm5-80gb", "a100-sxm4-40gb", "l4", "t4"])
def test_a_board_draws_what_the_model_expects(name: str) -> None:
    gpu = a_gpu(name)
    board = board_of(gpu, V1.power)
    for memory, compute in ((0.0, 0.0), (0.3, 0.1), (1.0, 1.0)):
        working = board.active_w + board.memory_w * memory + board.compute_w * compute
        working = max(board.least_w, min(working, board.tdp_w))
        expected = board_power(gpu, V1.power, memory=memory, compute=compute, busy=0.5).expected
        assert (board.loaded_w + working) / 2 == pytest.approx(expected)
    assert 0.0 < board.empty_w <= board.loaded_w


def test_truth_is_drawn_within_a_quarter_and_by_seed() -> None:
    drawn = [draw_truth(seed) for seed in range(200)]
    for name in ("host", "contention", "prefill", "cold_start"):
        values = [getattr(truth, name) for truth in drawn]
        assert 0.75 <= min(values) < 0.78
        assert 1.22 < max(values) <= 1.25
    assert draw_truth(7) == drawn[7] != drawn[8]


@pytest.mark.parametrize(("name", "median", "sigma"), [("cold", 45.0, 0.25), ("k8s", 115.0, 0.5), ("wake", 2.0, 0.3)])
def test_starts_are_lognormal_under_the_truth(name: str, median: float, sigma: float) -> None:
    truth = replace(AS_MODELLED, cold_start=1.2)
    starts = Starts(PRESETS[name], seed=3, truth=truth)
    logs = np.log([starts.draw() for _ in range(4000)])
    assert np.exp(np.median(logs)) == pytest.approx(1.2 * median, rel=0.05)
    assert logs.std() == pytest.approx(sigma, rel=0.05)


def test_the_nth_start_of_a_seed_is_always_the_same() -> None:
    first, again, other = (Starts(PRESETS["cold"], seed=seed, truth=AS_MODELLED) for seed in (1, 1, 2))
    assert [first.draw() for _ in range(5)] == [again.draw() for _ in range(5)] != [other.draw() for _ in range(5)]


def test_measured_starts_have_the_quantiles_of_the_table() -> None:
    """115 starts: 12 to 55 s, half of them under 32 s."""
    starts = Starts(PRESETS["engine"], seed=3, truth=replace(AS_MODELLED, cold_start=0.8))
    drawn = np.array([starts.draw() for _ in range(4000)]) / 0.8
    assert 12.0 <= drawn.min() < 13.0
    assert 52.0 < drawn.max() <= 55.0
    assert np.median(drawn) == pytest.approx(32.0, abs=1.5)
    assert np.quantile(drawn, 0.25) == pytest.approx(21.0, abs=1.5)
