"""Quantised weights against what vLLM logged, byte counts by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.lora import lora_bytes
from slmpack.domain.model import ModelProfile, UnknownLayout, parse_model_config
from slmpack.domain.quantity import GIB
from tests.support.models import a_model_config, a_model_profile

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
FP8_BLOCK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
FP8_STATIC = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["lm_head"]}


def compressed(
    layout: str, weights: dict[str, object], activations: dict[str, object] | None, **more: object
) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        **more,
    }


FP8_COMPRESSED = compressed(
    "float-quantized",
    {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    {"num_bits": 8, "type": "float"},
)

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
QWEN_7B = "Qwen/Qwen2.5-7B-Instruct"
LOGGED: list[tuple[str, dict[str, object], str | None, int, float, str]] = [
    # shape, changes, --quantization, LoRA rank, "Model loading took" in GiB, source
    (LLAMA_8B, {"quantization_config": FP8_STATIC}, None, 0, 8.4596, "vllm issue 8009, Meta-Llama-3-8B-Instruct-FP8"),
    (QWEN_7B, {"quantization_config": AWQ}, None, 0, 5.20, "start-up log, Qwen2.5-7B in 4 bits, vLLM V1"),
    (QWEN_7B, {"quantization_config": AWQ}, None, 0, 5.29, "start-up logs, Qwen2.5-7B-Instruct-AWQ, RTX 3090"),
    (
        "mistralai/Mistral-7B-Instruct-v0.2",
        {"vocab_size": 32768, "quantization_config": AWQ},
        None,
        0,
        3.89,
        "start-up log, Mistral-7B-Instruct-v0.3-AWQ",
    ),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", {}, "bitsandbytes", 0, 0.7318, "Captain-Jay29/vllm vllm_server.log, 0.8.3"),
    ("intfloat/e5-mistral-7b-instruct", {}, "bitsandbytes", 0, 3.9099, "vllm issue 19964"),
    ("openai/gpt-oss-20b", {}, None, 0, 13.7164, "start-up log, unsloth/gpt-oss-20b"),
    ("Qwen/Qwen3-8B", {"quantization_config": FP8_BLOCK}, None, 32, 8.9638, "unslothai/notebooks Qwen3_8B_FP8_GRPO"),
    (
        "meta-llama/Llama-3.2-1B-Instruct",
        {"quantization_config": FP8_COMPRESSED},
        None,
        32,
        1.4721,
        "unslothai/notebooks Llama_FP8_GRPO",
    ),
]


@pytest.mark.parametrize(("model_id", "changes", "override", "rank", "logged", "source"), LOGGED)
def test_weights_are_within_3_percent_of_what_vllm_logged(
    model_id: str, changes: dict[str, object], override: str | None, rank: int, logged: float, source: str
) -> None:
    profile = parse_model_config(a_model_config(model_id, **changes), quantization_override=override)
    assert isinstance(profile, ModelProfile), profile
    adapters = lora_bytes(profile, max_loras=1, max_rank=rank, dtype_bytes=2)
    assert (profile.weight_bytes + adapters) / GIB == pytest.approx(logged, rel=0.03), source


TINY: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 320,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 100,
    "torch_dtype": "float16",
}
SHAPES = [(256, 256)] * 4 + [(256, 320)] * 2 + [(320, 256)]
REST = (2 * 100 * 256 + 3 * 256) * 2


def weights(quantization: dict[str, object], **changes: object) -> ModelProfile:
    profile = parse_model_config({**TINY, "quantization_config": quantization, **changes})
    assert isinstance(profile, ModelProfile), profile
    return profile


def total(bits: int, *, block: tuple[int | None, int | None], scale: int, zero: int = 0, index: int = 0) -> int:
    """Bytes of the seven matrices, counted without the code under test."""
    found = 0
    for inputs, outputs in SHAPES:
        rows = 1 if block[0] is None else -(-outputs // block[0])
        columns = 1 if block[1] is None else -(-inputs // block[1])
        found += inputs * outputs * bits // 8 + rows * columns * scale + rows * columns * zero // 8 + inputs * index
    return found


@pytest.mark.parametrize(
    ("quantization", "expected", "compute"),
    [
        (AWQ, total(4, block=(1, 128), scale=2, zero=4), "fp16"),
        ({**AWQ, "zero_point": False}, total(4, block=(1, 128), scale=2), "fp16"),
        (GPTQ, total(4, block=(1, 128), scale=2, zero=4, index=4), "fp16"),
        (
            {**GPTQ, "bits": 8, "group_size": -1, "desc_act": True},
            total(8, block=(1, None), scale=2, zero=8, index=8),
            "fp16",
        ),
        ({**GPTQ, "bits": 3}, total(3, block=(1, 128), scale=2, zero=3, index=4), "fp16"),
        (FP8_BLOCK, total(8, block=(128, 128), scale=4), "fp8"),
        (FP8_STATIC, total(8, block=(None, None), scale=4), "fp8"),
        (BNB, total(4, block=(1, 64), scale=4), "fp16"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, total(8, block=(1, None), scale=4), "fp16"),
        (FP8_COMPRESSED, total(8, block=(128, 128), scale=4), "fp8"),
        (
            compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, {"type": "float"}),
            total(8, block=(1, None), scale=4),
            "fp8",
        ),
        (
            compressed("naive-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, None),
            total(8, block=(None, None), scale=4),
            "fp16",
        ),
        (
            compressed("int-quantized", {"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "type": "int"}),
            total(8, block=(1, None), scale=4),
            "fp16",
        ),
        (
            compressed(
                "pack-quantized",
                {
                    "num_bits": 4,
                    "type": "int",
                    "strategy": "group",
                    "group_size": 32,
                    "symmetric": False,
                    "actorder": "group",
                },
                None,
                sparsity_config={"format": "dense"},
            ),
            total(4, block=(1, 32), scale=2, zero=4, index=4),
            "fp16",
        ),
        ({"quant_method": "mxfp4"}, sum(2 * i * o for i, o in SHAPES), "fp16"),
    ],
)
def test_bytes_of_each_method(quantization: dict[str, object], expected: int, compute: str) -> None:
    profile = weights(quantization)
    assert profile.weight_bytes == expected + REST
    assert profile.checkpoint_bytes == profile.loading_bytes == profile.weight_bytes
    assert (profile.quantization, profile.compute_dtype) == (quantization["quant_method"], compute)


def test_the_older_key_says_the_same() -> None:
    old = {key: value for key, value in FP8_COMPRESSED.items() if key != "quant_method"}
    assert parse_model_config({**TINY, "compression_config": old}) == weights(FP8_COMPRESSED)


def test_a_quantised_head_counts_if_it_is_there() -> None:
    plain, headed = weights(GPTQ), weights({**GPTQ, "lm_head": True})
    assert plain.weight_bytes - headed.weight_bytes == 100 * 256 * 2 - (100 * 256 // 2 + 200 * 2 + 100 + 256 * 4)
    tied = {"tie_word_embeddings": True}
    assert weights({**GPTQ, "lm_head": True}, **tied).weight_bytes == weights(GPTQ, **tied).weight_bytes


def test_biases_stay_in_the_models_dtype() -> None:
    assert weights(AWQ, mlp_bias=True).weight_bytes - weights(AWQ).weight_bytes == (320 + 320 + 256) * 2


SAVED = 256 * 256 * 2 - (256 * 256 // 2 + 256 * 2 * 2 + 256 * 2 * 4 // 8)
"""What AWQ saves on one square matrix."""


@pytest.mark.parametrize(
    ("excluded", "matrices"),
    [
        (["model.layers.0.self_attn.q_proj"], 1),
        (["model.layers.0.self_attn"], 4),
        (["self_attn"], 4),
        (["q_proj", "o_proj"], 2),
        (["qkv_proj"], 3),
        (["re:.*self_attn.*"], 4),
        (["re:model\\.layers\\.0\\.self_attn\\.(q|k)_proj"], 2),
        (["re:.*layers.[0-9]+.*o_proj"], 1),
        (["model.layers.*.self_attn"], 4),
        (["lm_head", "model.layers.0.input_layernorm", "model.layers.61.self_attn.q_proj", "re:.*lm_head"], 0),
        ([], 0),
    ],
)
def test_excluded_modules_stay_in_16_bits(excluded: list[str], matrices: int) -> None:
    profile = weights({**AWQ, "modules_to_not_convert": excluded})
    assert profile.weight_bytes == weights(AWQ).weight_bytes + matrices * SAVED


def test_one_excluded_expert_counts_as_all() -> None:
    ignored = {**FP8_BLOCK, "modules_to_not_convert": ["model.layers.0.mlp.experts.17.down_proj"]}
    plain = a_model_profile("Qwen/Qwen3-30B-A3B", quantization_config=FP8_BLOCK)
    some = a_model_profile("Qwen/Qwen3-30B-A3B", quantization_config=ignored)
    assert some.weight_bytes - plain.weight_bytes == 128 * (768 * 2048 - 6 * 16 * 4)


@pytest.mark.parametrize(
    ("quantization", "key"),
    [
        ({"quant_method": "gguf"}, "quantization_config.quant_method"),
        ({}, "quantization_config.quant_method"),
        ({"quant_method": 4}, "quantization_config.quant_method"),
        ("awq", "quantization_config"),
        ({**AWQ, "bits": 8}, "quantization_config.bits"),
        ({**AWQ, "bits": None}, "quantization_config.bits"),
        ({**AWQ, "group_size": 0}, "quantization_config.group_size"),
        ({**AWQ, "group_size": -2}, "quantization_config.group_size"),
        ({**AWQ, "zero_point": "yes"}, "quantization_config.zero_point"),
        ({**AWQ, "modules_to_not_convert": "lm_head"}, "quantization_config.modules_to_not_convert"),
        ({**AWQ, "modules_to_not_convert": ["visual"]}, "quantization_config"),
        ({**AWQ, "modules_to_not_convert": ["visual.*.attn"]}, "quantization_config"),
        ({**AWQ, "modules_to_not_convert": ["re:visual.*"]}, "quantization_config"),
        ({**AWQ, "modules_to_not_convert": ["re:(a+)+b"]}, "quantization_config.modules_to_not_convert"),
        ({**AWQ, "modules_to_not_convert": ["re:.*.*.*.*"]}, "quantization_config.modules_to_not_convert"),
        ({**AWQ, "modules_to_not_convert": ["re:(unclosed"]}, "quantization_config.modules_to_not_convert"),
        ({**AWQ, "modules_to_not_convert": ["a.*.*.*.*"]}, "quantization_config.modules_to_not_convert"),
        ({**AWQ, "modules_to_not_convert": ["re:" + "a" * 201]}, "quantization_config.modules_to_not_convert"),
        ({**GPTQ, "dynamic": {"-:.*down": {}}}, "quantization_config.dynamic"),
        ({**GPTQ, "bits": 5}, "quantization_config.bits"),
        ({**FP8_BLOCK, "weight_block_size": [128]}, "quantization_config.weight_block_size"),
        ({**FP8_BLOCK, "weight_block_size": [128, 0]}, "quantization_config.weight_block_size"),
        ({**FP8_BLOCK, "weight_block_size": ["128", "128"]}, "quantization_config.weight_block_size"),
        ({**BNB, "load_in_4bit": False}, "quantization_config.load_in_4bit"),
        ({**FP8_COMPRESSED, "format": "marlin-24"}, "quantization_config.format"),
        (
            {**FP8_COMPRESSED, "sparsity_config": {"format": "sparse-24-bitmask"}},
            "quantization_config.sparsity_config.format",
        ),
        ({**FP8_COMPRESSED, "config_groups": {}}, "quantization_config.config_groups"),
        ({**FP8_COMPRESSED, "config_groups": None}, "quantization_config.config_groups"),
        ({**FP8_COMPRESSED, "config_groups": {"a": {"targets": ["re:.*q"]}}}, "quantization_config.config_groups"),
        ({**FP8_COMPRESSED, "config_groups": {"a": None}}, "quantization_config.config_groups"),
        (
            {**FP8_COMPRESSED, "config_groups": {"a": {"targets": ["Linear"]}}},
            "quantization_config.config_groups.a.weights",
        ),
    ],
)
def test_what_is_not_understood_names_its_key(quantization: object, key: str) -> None:
    unknown = parse_model_config({**TINY, "quantization_config": quantization})
    assert isinstance(unknown, UnknownLayout), unknown
    assert unknown.key == key


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"num_bits": 4, "type": "float", "strategy": "tensor"}, "num_bits"),
        ({"num_bits": 8, "type": "int", "strategy": "token"}, "strategy"),
        ({"num_bits": 4, "strategy": "group"}, "group_size"),
        ({"num_bits": 8, "type": "float", "strategy": "block"}, "block_structure"),
    ],
)
def test_weights_of_compressed_tensors_that_are_not_understood(given: dict[str, object], key: str) -> None:
    unknown = parse_model_config({**TINY, "quantization_config": compressed("int-quantized", given, None)})
    assert isinstance(unknown, UnknownLayout)
    assert unknown.key == f"quantization_config.config_groups.group_0.weights.{key}"


def test_two_quantisations_are_one_too_many() -> None:
    unknown = parse_model_config({**TINY, "quantization_config": AWQ, "compression_config": FP8_COMPRESSED})
    assert isinstance(unknown, UnknownLayout)
    assert unknown.key == "compression_config"


@pytest.mark.parametrize(
    ("changes", "override", "works"),
    [
        ({}, "fp8", True),
        ({}, "bitsandbytes", True),
        ({}, "awq", False),
        ({"quantization_config": AWQ}, "awq_marlin", True),
        ({"quantization_config": AWQ}, "fp8", False),
    ],
)
def test_the_users_flag_must_fit_the_checkpoint(changes: dict[str, object], override: str, works: bool) -> None:
    found = parse_model_config({**TINY, **changes}, quantization_override=override)
    assert isinstance(found, ModelProfile) is works
    assert works or (isinstance(found, UnknownLayout) and found.key == "quantization" and override in found.message)


def test_quantising_while_loading_has_a_peak_and_a_16_bit_checkpoint() -> None:
    plain = a_model_profile(LLAMA_8B)
    fp8 = parse_model_config(a_model_config(LLAMA_8B), quantization_override="fp8")
    assert isinstance(fp8, ModelProfile)
    assert fp8.weight_bytes < 0.6 * plain.weight_bytes
    assert fp8.loading_bytes == fp8.checkpoint_bytes == plain.weight_bytes
    assert fp8.compute_dtype == "fp8"
    four = parse_model_config(a_model_config(LLAMA_8B), quantization_override="bitsandbytes")
    assert isinstance(four, ModelProfile)
    assert (four.loading_bytes, four.checkpoint_bytes) == (four.weight_bytes, plain.weight_bytes)
    assert four.compute_dtype == "bf16"


def test_quantised_latent_attention_keeps_a_16_bit_copy() -> None:
    quantised = a_model_profile("deepseek-ai/DeepSeek-V2-Lite", quantization_config=FP8_STATIC)
    assert quantised.weight_bytes - quantised.checkpoint_bytes == 27 * 512 * 16 * (128 + 128) * 2


def test_experts_are_read_in_their_quantised_size() -> None:
    profile = a_model_profile("openai/gpt-oss-20b")
    assert profile.experts is not None
    padded = 3 * 3072 * 2944 * 17 // 32 + (2 * 2880 + 2880) * 2
    assert profile.experts.bytes_each == padded
    assert profile.experts.parameters_each == 3 * 2880 * 2880 + 3 * 2880
    assert profile.read_bytes(1e9) == profile.weight_bytes - profile.lookup_bytes
    assert profile.checkpoint_bytes < profile.weight_bytes


def test_padding_follows_the_side_that_is_hidden_size() -> None:
    profile = a_model_profile("openai/gpt-oss-20b", intermediate_size=1000)
    assert profile.experts is not None
    assert profile.experts.bytes_each == 3 * 3072 * 1024 * 17 // 32 + (2 * 1000 + 2880) * 2


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["Linear", "re:.*", "group"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.sampled_from(sorted({*AWQ, *GPTQ, *FP8_BLOCK, *FP8_STATIC, *BNB, *FP8_COMPRESSED, "modules_to_not_convert"}))


@given(
    st.sampled_from([AWQ, GPTQ, FP8_BLOCK, FP8_STATIC, BNB, FP8_COMPRESSED]),
    st.dictionaries(_KEYS, _VALUES, max_size=3),
)
def test_a_damaged_quantisation_gives_a_profile_or_a_reason(base: dict[str, object], damage: dict[str, object]) -> None:
    result = parse_model_config({**TINY, "quantization_config": {**base, **damage}})
    if isinstance(result, ModelProfile):
        assert result.weight_bytes > 0
    else:
        assert result.key in result.message
