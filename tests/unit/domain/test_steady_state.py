from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Tenant
from slmpack.domain.steady_state import SteadyState, kv_limited_batch, steady_state
from slmpack.domain.step_time import Device, StepCosts, device_of, step_costs
from tests.support.performance import V0, V1_ASYNC, a_site, a_tenant


def costs_of(tenant: Tenant, constants: EngineConstants) -> StepCosts:
    device = device_of(a_site("a100-sxm4-40gb"), "bf16")
    assert isinstance(device, Device)
    found = step_costs(tenant, device, constants)
    assert isinstance(found, StepCosts)
    return found


def settle(tenant: Tenant, constants: EngineConstants = V1_ASYNC) -> SteadyState:
    return steady_state(tenant, costs_of(tenant, constants), constants)


def test_one_request_decodes_undisturbed_after_its_prefill() -> None:
    tenant = a_tenant(in_flight=1.0)
    costs = costs_of(tenant, V1_ASYNC)
    found = settle(tenant)

    assert found.iteration == pytest.approx(costs.iteration(1.0))
    assert found.prefill == pytest.approx(costs.iteration(1.0, 512.0))
    assert found.batch == pytest.approx(255 * found.iteration / (255 * found.iteration + found.prefill))


@pytest.mark.parametrize("constants", [V0, V1_ASYNC])
@pytest.mark.parametrize("in_flight", [2.0, 16.0, 64.0])
def test_every_request_inside_is_prefilled_once_during_a_stay(constants: EngineConstants, in_flight: float) -> None:
    tenant = a_tenant(in_flight=in_flight)
    costs, found = costs_of(tenant, constants), settle(tenant, constants)
    stay = found.prefill + 256 * found.iteration
    batch = max(1.0, found.batch)
    prompt = costs.work(batch, 512.0) - costs.work(batch)
    if constants is V0:
        prompt = costs.iteration(0.0, 512.0)

    # The rest is a wait for the iteration under way and, where they share one, the decode iterations of a prompt.
    assert stay == pytest.approx(256 * costs.iteration(batch) + in_flight * prompt, rel=0.03)


def test_prompts_that_do_not_fit_bound_the_batch() -> None:
    found = settle(a_tenant(in_flight=512.0, lengths=(2048, 128), kv_cache_tokens=2_000_000))

    assert found.batch <= 2048 / (1 + 2048 / 128) * 1.05
    assert found.running == 512.0
    assert found.prefill > 20 * found.iteration


def test_a_cached_prompt_costs_no_prefill() -> None:
    tenant = replace(a_tenant(in_flight=8.0), prefix_hit_rate=1.0)
    found = settle(tenant)

    assert found.batch == found.running == 8.0
    assert found.iteration == found.mixed_iteration == found.prefill == costs_of(tenant, V1_ASYNC).iteration(8.0)
    assert found.mixed_part == 0.0


def test_a_prompt_longer_than_the_budget_takes_several_chunks() -> None:
    short, long = (settle(a_tenant(in_flight=1.0, lengths=(tokens, 256))) for tokens in (2048, 4096))

    assert long.prefill > 1.9 * short.prefill


def test_the_first_token_waits_for_prompts_between_random_and_all_at_once() -> None:
    tenant = a_tenant(in_flight=64.0, lengths=(256, 1024))
    found, own = settle(tenant), settle(replace(tenant, in_flight=1.0)).prefill

    # Random arrivals would wait for next to nothing, 64 that start together for 32 prompts on average.
    assert 3 * own < found.prefill < 16 * own


def test_chunks_stretch_the_iterations_that_carry_them() -> None:
    found = settle(a_tenant(in_flight=32.0))

    assert found.decode_iteration < found.iteration < found.mixed_iteration
    assert found.iteration == pytest.approx(
        found.decode_iteration + found.mixed_part * (found.mixed_iteration - found.decode_iteration)
    )


def test_the_device_is_busy_for_a_part_of_the_iteration() -> None:
    found = settle(a_tenant(in_flight=32.0))

    def busy(kernels: float, sampling: float) -> float:
        sharing = replace(V1_ASYNC.sharing, busy_part=kernels, sequence_busy_part=sampling)
        return settle(a_tenant(in_flight=32.0), replace(V1_ASYNC, sharing=sharing)).busy

    assert found.busy < found.cycle
    kernels = a_tenant().model.layers * V1_ASYNC.layer_s
    assert busy(1.0, 0.0) - busy(0.0, 0.0) == pytest.approx(kernels)
    sampling = V1_ASYNC.sequence_s * 32 * 255 / 256  # an iteration in 256 reads the prompt
    assert busy(0.0, 0.5) - busy(0.0, 0.0) == pytest.approx(sampling / 2)


def test_the_batch_does_not_depend_on_the_costs() -> None:
    for tenant in (a_tenant(in_flight=32.0), replace(a_tenant(in_flight=32.0), prefix_hit_rate=1.0)):
        costs, found = costs_of(tenant, V1_ASYNC), settle(tenant)
        slower = steady_state(tenant, costs.scaled(2.0, step=0.0), V1_ASYNC)

        assert slower.batch == pytest.approx(found.batch)
        assert slower.cycle == pytest.approx(2 * found.cycle)


@pytest.mark.parametrize(
    ("in_flight", "seqs", "pool", "running"),
    [(10.0, 512, 10**6, 10.0), (900.0, 64, 10**6, 64.0), (900.0, 512, 6400, 10.0), (900.0, 512, 5, 1.0)],
)
def test_places_are_bounded_by_load_flag_and_pool(in_flight: float, seqs: int, pool: int, running: float) -> None:
    tenant = a_tenant(in_flight=in_flight, max_num_seqs=seqs, kv_cache_tokens=pool)

    assert settle(tenant).running == running
    assert kv_limited_batch(tenant) == max(1.0, pool / 640)
