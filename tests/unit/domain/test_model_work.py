"""Bytes and FLOPs of a step, on shapes small enough to count by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.model import Experts, ModelProfile, parse_model_config
from tests.support.models import a_model_config, a_model_profile

MOE: dict[str, object] = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_local_experts": 4,
    "vocab_size": 32,
    "torch_dtype": "bfloat16",
}
ONE_EXPERT = 3 * 8 * 16
DENSE = 3 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 8 * 4 + 2 * 8) + 32 * 8 + 8
"""Attention, router and normalisations of three layers, head and final normalisation."""


def moe(**changes: object) -> ModelProfile:
    profile = parse_model_config({**MOE, **changes})
    assert isinstance(profile, ModelProfile), profile
    return profile


def test_a_small_mixture_counted_by_hand() -> None:
    profile = moe()
    assert profile.experts == Experts(
        layers=3, count=4, per_token=2, parameters_each=ONE_EXPERT, bytes_each=2 * ONE_EXPERT
    )
    assert profile.experts.all_bytes == 3 * 4 * 2 * ONE_EXPERT
    assert profile.parameters == DENSE + 3 * 4 * ONE_EXPERT + 32 * 8
    assert profile.active_parameters == DENSE + 3 * 2 * ONE_EXPERT
    assert profile.lookup_bytes == 32 * 8 * 2


def test_a_step_reads_the_experts_that_its_tokens_choose() -> None:
    profile = moe()
    assert profile.read_bytes(0) == 2 * DENSE
    assert profile.read_bytes(1) == pytest.approx(2 * (DENSE + 3 * 2 * ONE_EXPERT))
    assert profile.read_bytes(2) == pytest.approx(2 * (DENSE + 3 * 3 * ONE_EXPERT))
    assert profile.read_bytes(10_000) == profile.weight_bytes - profile.lookup_bytes


@given(st.floats(min_value=0, max_value=1e6), st.floats(min_value=0, max_value=1e6))
def test_more_tokens_never_read_less(some: float, more: float) -> None:
    profile = moe()
    assert profile.read_bytes(some) <= profile.read_bytes(some + more) <= profile.weight_bytes


def test_a_dense_step_reads_all_but_the_lookup_table() -> None:
    tied = a_model_profile("Qwen/Qwen2.5-0.5B-Instruct")
    assert tied.read_bytes(1) == tied.read_bytes(500) == tied.weight_bytes
    untied = a_model_profile("Qwen/Qwen2.5-7B-Instruct")
    assert untied.read_bytes(1) == untied.weight_bytes - 152064 * 3584 * 2
    opt = a_model_profile("facebook/opt-125m")
    assert opt.read_bytes(1) == opt.weight_bytes - 2050 * 768 * 2


def test_products_with_weights_take_two_flops_a_parameter() -> None:
    assert moe().linear_flops(7) == 2 * 7 * (DENSE + 3 * 2 * ONE_EXPERT)


def test_attention_takes_four_flops_a_channel_and_position() -> None:
    llama = a_model_profile("meta-llama/Llama-3.1-8B-Instruct")
    assert llama.attention_flops(3, 1000) == 4 * 32 * 4096 * 3 * 1000


def test_windows_cap_what_is_read_and_multiplied() -> None:
    gemma = a_model_profile("google/gemma-3-1b-it")
    assert [(group.layers, group.window) for group in gemma.cache] == [(22, 512), (4, None)]
    assert gemma.cache_read_bytes(100, 2) == 26 * 100 * 2 * 256 * 2
    assert gemma.cache_read_bytes(2048, 2) == (22 * 512 + 4 * 2048) * 2 * 256 * 2
    assert gemma.attention_flops(1, 2048) == 4 * 4 * 256 * (22 * 512 + 4 * 2048)
    assert gemma.cache_bytes_per_token(1) == 26 * 2 * 256


def test_latent_attention_caches_the_latent_and_multiplies_heads() -> None:
    lite = a_model_profile("deepseek-ai/DeepSeek-V2-Lite")
    assert lite.cache_read_bytes(10, 2) == 27 * 10 * (512 + 64) * 2
    assert lite.attention_flops(1, 10) == 2 * 27 * 16 * (128 + 64 + 128) * 10
    assert lite.head_dim == 192


def test_a_mixture_may_leave_layers_dense() -> None:
    def layers(**changes: object) -> int | None:
        profile = parse_model_config(a_model_config("Qwen/Qwen3-30B-A3B", **changes))
        assert isinstance(profile, ModelProfile)
        return None if profile.experts is None else profile.experts.layers

    assert layers() == 48
    assert layers(decoder_sparse_step=2) == 24
    assert layers(mlp_only_layers=[0, 5]) == 46
    assert layers(decoder_sparse_step=49) is None
    lite = a_model_profile("deepseek-ai/DeepSeek-V2-Lite", first_k_dense_replace=3, moe_layer_freq=2)
    assert lite.experts is not None
    assert lite.experts.layers == 12


def test_experts_without_a_shared_one() -> None:
    with_shared = a_model_profile("deepseek-ai/DeepSeek-V2-Lite")
    without = a_model_profile("deepseek-ai/DeepSeek-V2-Lite", n_shared_experts=None)
    assert with_shared.parameters - without.parameters == 26 * 3 * 2048 * 2 * 1408
