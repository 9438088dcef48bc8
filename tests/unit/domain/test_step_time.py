from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.step_time import Device, StepCosts, Unpredictable, device_of, step_costs
from tests.support.builders import a_model
from tests.support.performance import V1_ASYNC, a_gpu, a_mig_site, a_site, a_tenant, an_embedder, with_experts


def a_device(gpu: str = "h100-sxm5-80gb", dtype: str = "bf16") -> Device:
    found = device_of(a_site(gpu), dtype)
    assert isinstance(found, Device)
    return found


def costs(**tenant: object) -> StepCosts:
    found = step_costs(replace(a_tenant(), **tenant), a_device(), V1_ASYNC)  # type: ignore[arg-type]
    assert isinstance(found, StepCosts)
    return found


def test_one_sequence_costs_host_launches_weights_and_its_cache() -> None:
    model = a_model()
    read = (model.weight_bytes - model.lookup_bytes) / (3350e9 * V1_ASYNC.weight_efficiency)
    cache = model.cache_read_bytes(512 + 128, 2) / (3350e9 * V1_ASYNC.cache_efficiency)
    fixed = V1_ASYNC.step_s + V1_ASYNC.sequence_s + model.layers * V1_ASYNC.layer_s

    assert costs().iteration(1.0) == pytest.approx(fixed + read + cache)


def test_beyond_the_ridge_arithmetic_takes_over_from_memory() -> None:
    found = costs()
    model = a_model()
    tokens = 4096.0
    arithmetic = model.linear_flops(tokens) / (989e12 * V1_ASYNC.compute_efficiency)

    assert found.work(1.0) == pytest.approx(found.weights + found.cache)
    assert found.work(0.0, tokens) == pytest.approx(arithmetic + tokens * found.prompt)


def test_attention_within_a_prompt_is_quadratic() -> None:
    short, long = costs(input_tokens=1000), costs(input_tokens=2000)

    assert long.prompt * 2000 == pytest.approx(4 * short.prompt * 1000)


def test_a_cached_prefix_is_still_attended_to() -> None:
    none, half = costs(input_tokens=1000), costs(input_tokens=1000, prefix_hit_rate=0.5)

    assert half.prompt == pytest.approx(none.prompt * 1.5)


def test_more_tokens_read_more_experts() -> None:
    found = costs(model=with_experts(a_model()))
    dense = costs()

    assert found.work(1.0) - found.cache < found.work(8.0) - 8 * found.cache
    assert found.work(256.0) - 256 * found.cache == pytest.approx(dense.work(256.0) - 256 * dense.cache, rel=1e-3)


def test_gddr_reaches_less_of_its_bandwidth() -> None:
    gddr = step_costs(a_tenant(), replace(a_device(), stacked=False), V1_ASYNC)

    assert isinstance(gddr, StepCosts)
    assert gddr.weights == pytest.approx(costs().weights / V1_ASYNC.gddr_factor)


def test_without_cuda_graphs_every_layer_takes_longer() -> None:
    more = costs(enforce_eager=True).iteration(1.0) - costs().iteration(1.0)

    assert more == pytest.approx(a_model().layers * V1_ASYNC.eager_layer_s)


def test_fewer_cores_than_the_engine_needs_stretch_the_host_time_only() -> None:
    slow, fast = costs(cpu_cores=V1_ASYNC.cores / 2), costs(cpu_cores=V1_ASYNC.cores)

    assert slow.step == pytest.approx(2 * fast.step)
    assert slow.sequence == pytest.approx(2 * fast.sequence)
    assert slow.work(8.0) == fast.work(8.0)
    assert costs(cpu_cores=64.0) == fast


def test_a_ceiling_costs_prompts_at_once_and_decoding_only_below_a_share() -> None:
    free = costs()
    half, third = free.under_cap(0.6, V1_ASYNC.sharing), free.under_cap(0.3, V1_ASYNC.sharing)

    assert half.weights == free.weights
    assert third.weights == pytest.approx(free.weights * V1_ASYNC.sharing.cap_bandwidth_share / 0.3)
    assert half.token == pytest.approx(free.token * 0.6**-V1_ASYNC.sharing.cap_compute_exponent)
    assert half.step == free.step


def test_scaling_multiplies_every_time_and_adds_to_each_iteration() -> None:
    found = costs()

    corrected = found.scaled(1.5, step=0.001)

    assert corrected.iteration(8.0, 100.0) == pytest.approx(1.5 * found.iteration(8.0, 100.0) + 0.001)
    expert = costs(model=with_experts(a_model()))
    assert expert.scaled(2.0, step=0.0).work(3.0) == pytest.approx(2 * expert.work(3.0))


@pytest.mark.parametrize(
    ("profile", "slices", "sms"), [("1g.5gb", 1, 14), ("3g.20gb", 4, 42), ("4g.20gb", 4, 56), ("7g.40gb", 8, 98)]
)
def test_an_instance_has_its_memory_slices_and_its_multiprocessors(profile: str, slices: int, sms: int) -> None:
    found = device_of(a_mig_site(profile), "bf16")

    assert isinstance(found, Device)
    assert found.bandwidth_s == pytest.approx(1555e9 * slices / 8)
    assert found.flops_s == pytest.approx(312e12 * sms / 108)


def test_where_multiprocessors_are_unknown_compute_slices_stand_in() -> None:
    site = a_mig_site("3g.20gb")
    assert site.mig_profile is not None

    by_slices = device_of(replace(site, mig_profile=replace(site.mig_profile, sm_count=None)), "bf16")

    assert isinstance(by_slices, Device)
    assert by_slices.flops_s == pytest.approx(312e12 * 3 / 7)
    assert device_of(replace(site, gpu=replace(site.gpu, sm_count=None)), "bf16") == by_slices


def test_fp8_on_a_gpu_without_it_computes_in_sixteen_bits() -> None:
    assert a_device("a100-sxm4-80gb", "fp8") == a_device("a100-sxm4-80gb", "bf16")
    assert a_device(dtype="fp8").flops_s == pytest.approx(1979e12)


def test_a_gpu_of_unknown_bandwidth_gives_a_reason() -> None:
    found = device_of(a_site("a2"), "bf16")

    assert isinstance(found, Unpredictable)
    assert found.reason.startswith("gpu a2: memory_bandwidth_gb_s is unknown")


def test_a_compute_type_without_figures_gives_a_reason() -> None:
    found = device_of(a_site("t4"), "bf16")

    assert isinstance(found, Unpredictable)
    assert found.reason.startswith("gpu t4: dense_tflops for bf16 is unknown")
    assert isinstance(device_of(a_site(), "fp32"), Unpredictable)


def test_an_embedding_model_gives_a_reason() -> None:
    found = step_costs(a_tenant(model=an_embedder()), a_device(), V1_ASYNC)

    assert isinstance(found, Unpredictable)
    assert "BertModel" in found.reason


def test_the_instance_of_a_gpu_with_four_slices_is_a_part_of_four() -> None:
    a30 = a_gpu("a30")
    smallest = min(a30.mig_profiles, key=lambda profile: profile.memory_slices)
    found = device_of(replace(a_mig_site("1g.5gb"), gpu=a30, mig_profile=smallest), "bf16")

    assert isinstance(found, Device)
    assert found.bandwidth_s == pytest.approx(933e9 / 4)
