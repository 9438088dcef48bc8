from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.model import (
    AttentionGroup,
    CacheGroup,
    LinearGroup,
    ModelProfile,
    Task,
    UnknownLayout,
    parse_model_config,
    supported_architectures,
)
from slmpack.domain.quantity import GIB
from tests.support.models import MODEL_CHECKS, a_model_config, a_model_profile

UNKNOWN_LAYOUT = "openbmb/MiniCPM3-4B"
# its checkpoint has no output head, which its config does not say: that it embeds is the engine's setting
EMBEDS = {"Qwen/Qwen3-Embedding-8B": Task.EMBED}
MODELS = sorted(set(MODEL_CHECKS) - {UNKNOWN_LAYOUT})
CACHED = [model_id for model_id in MODELS if MODEL_CHECKS[model_id]["kv_bytes_per_token"] is not None]


def profile_of(model_id: str) -> ModelProfile:
    profile = parse_model_config(a_model_config(model_id), task=EMBEDS.get(model_id))
    assert isinstance(profile, ModelProfile), profile
    return profile


@pytest.mark.parametrize("model_id", CACHED)
def test_kv_bytes_per_token_are_exact(model_id: str) -> None:
    assert profile_of(model_id).cache_bytes_per_token(2) == MODEL_CHECKS[model_id]["kv_bytes_per_token"]


@pytest.mark.parametrize("model_id", MODELS)
def test_parameters_are_exact(model_id: str) -> None:
    assert profile_of(model_id).parameters == MODEL_CHECKS[model_id]["parameters"]


def test_active_parameters_are_those_that_others_counted() -> None:
    counted = {key: check["active_parameters"] for key, check in MODEL_CHECKS.items() if "active_parameters" in check}
    assert counted
    assert {key: profile_of(key).active_parameters for key in counted} == counted


@pytest.mark.parametrize("source", ["logged_weights_gib", "file_size_gib"])
@pytest.mark.parametrize("model_id", MODELS)
def test_weights_agree_with_independent_sources(model_id: str, source: str) -> None:
    weights = profile_of(model_id).weight_bytes / GIB
    assert weights == pytest.approx(MODEL_CHECKS[model_id].get(source, weights), rel=0.025)


def test_weights_are_those_of_a_third_partys_table_to_the_byte() -> None:
    published = {key: check["published_bytes"] for key, check in MODEL_CHECKS.items() if "published_bytes" in check}
    assert len(published) == 4
    assert {key: profile_of(key).weight_bytes for key in published} == published


@pytest.mark.parametrize("model_id", ["BAAI/bge-large-en", "BAAI/bge-base-en-v1.5", "BAAI/bge-m3"])
def test_an_encoder_embeds_and_keeps_no_cache(model_id: str) -> None:
    profile = profile_of(model_id)
    assert (profile.task, profile.dtype) == (Task.EMBED, "float16")
    assert (profile.cache, profile.kv_layers, profile.kv_elements_per_token) == ((), 0, 0)
    assert profile.cache_read_bytes(512, 2) == 0
    assert profile.attention_flops(512, 512) == 4 * profile.layers * profile.hidden_size * 512 * 512
    generates = parse_model_config(a_model_config(model_id), task=Task.GENERATE)
    assert isinstance(generates, UnknownLayout)
    assert generates.key == "architectures"


def test_the_first_rows_of_robertas_table_are_no_positions() -> None:
    assert profile_of("BAAI/bge-m3").max_positions == 8192
    assert profile_of("BAAI/bge-large-en").max_positions == 512


def test_a_decoder_that_embeds_has_no_head_and_keeps_its_cache() -> None:
    profile = profile_of("intfloat/e5-mistral-7b-instruct")
    generates = parse_model_config(
        {**a_model_config(profile_id := "intfloat/e5-mistral-7b-instruct"), "architectures": ["MistralForCausalLM"]}
    )
    assert isinstance(generates, ModelProfile), profile_id
    assert profile.task is Task.EMBED
    assert generates.parameters - profile.parameters == 32000 * 4096
    assert profile.kv_elements_per_token == generates.kv_elements_per_token
    assert profile.active_parameters == profile.parameters - 32000 * 4096


# parameters as the model cards state them: EleutherAI/pythia-1b and pythia-160m, HuggingFaceTB/SmolLM3-3B
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (
            {
                "architectures": ["GPTNeoXForCausalLM"],
                "hidden_size": 2048,
                "num_hidden_layers": 16,
                "num_attention_heads": 8,
                "intermediate_size": 8192,
                "vocab_size": 50304,
                "max_position_embeddings": 2048,
            },
            1_011_781_632,
        ),
        (
            {
                "architectures": ["GPTNeoXForCausalLM"],
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 3072,
                "vocab_size": 50304,
                "max_position_embeddings": 2048,
            },
            162_322_944,
        ),
        (
            {
                "architectures": ["SmolLM3ForCausalLM"],
                "hidden_size": 2048,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 4,
                "intermediate_size": 11008,
                "vocab_size": 128256,
                "max_position_embeddings": 65536,
            },
            3_075_098_624,
        ),
    ],
)
def test_parameters_agree_with_model_cards(config: dict[str, object], parameters: int) -> None:
    profile = parse_model_config(config)
    assert isinstance(profile, ModelProfile)
    assert profile.parameters == parameters


def test_a_profile_holds_the_whole_shape() -> None:
    assert a_model_profile("Qwen/Qwen2.5-0.5B-Instruct") == ModelProfile(
        architecture="Qwen2ForCausalLM",
        task=Task.GENERATE,
        parameters=494_032_768,
        active_parameters=494_032_768,
        lookup_bytes=0,
        weight_bytes=988_065_536,
        config_weight_bytes=988_065_536,
        checkpoint_bytes=988_065_536,
        stored_dtype_bytes=2,
        loading_bytes=988_065_536,
        layers=24,
        hidden_size=896,
        heads=14,
        kv_heads=2,
        head_dim=64,
        intermediate_size=4864,
        vocab_size=151936,
        max_positions=32768,
        dtype="bfloat16",
        dtype_bytes=2,
        kv_layers=24,
        cache=(CacheGroup(layers=24, elements_per_token=2 * 2 * 64, window=None),),
        state_bytes_per_sequence=0,
        attention=(AttentionGroup(layers=24, width=2 * 14 * 64, window=None),),
        experts=None,
        sliding_window=None,
        linears=(
            LinearGroup(inputs=896, outputs=896, count=48),
            LinearGroup(inputs=896, outputs=128, count=48),
            LinearGroup(inputs=896, outputs=4864, count=48),
            LinearGroup(inputs=4864, outputs=896, count=24),
        ),
        quantization=None,
        compute_dtype="bf16",
        weights_note=None,
    )


@pytest.mark.parametrize(
    ("changes", "override", "expected"),
    [
        ({"torch_dtype": "float16"}, None, ("float16", 2)),
        ({"torch_dtype": "float32"}, None, ("bfloat16", 2)),
        ({"torch_dtype": None}, "auto", ("bfloat16", 2)),
        ({"torch_dtype": None, "dtype": "float16"}, None, ("float16", 2)),
        ({}, "float32", ("float32", 4)),
        ({}, "half", ("float16", 2)),
    ],
)
def test_dtype_as_vllm_resolves_it(changes: dict[str, object], override: str | None, expected: tuple[str, int]) -> None:
    profile = parse_model_config(a_model_config("Qwen/Qwen2.5-0.5B-Instruct", **changes), dtype_override=override)
    assert isinstance(profile, ModelProfile)
    assert (profile.dtype, profile.dtype_bytes) == expected
    assert profile.weight_bytes == profile.parameters * expected[1]


def test_float32_doubles_the_weights() -> None:
    profile = parse_model_config(a_model_config(), dtype_override="float")
    assert isinstance(profile, ModelProfile)
    assert profile.weight_bytes == 2 * a_model_profile().weight_bytes


@pytest.mark.parametrize(
    ("model_id", "changes", "expected"),
    [
        ("google/gemma-2-2b-it", {}, 4096),
        ("Qwen/Qwen2.5-0.5B-Instruct", {"use_sliding_window": True, "max_window_layers": 21}, 32768),
        ("Qwen/Qwen2.5-0.5B-Instruct", {}, None),
        ("meta-llama/Llama-3.2-1B-Instruct", {}, None),
    ],
)
def test_a_sliding_window_is_reported_and_counted_as_full(
    model_id: str, changes: dict[str, object], expected: int | None
) -> None:
    profile = a_model_profile(model_id, **changes)
    assert profile.sliding_window == expected
    assert profile.kv_layers == profile.layers


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"attention_bias": True}, 16 * (2048 + 2 * 512 + 2048)),
        ({"mlp_bias": True}, 16 * (2 * 8192 + 2048)),
        ({"tie_word_embeddings": False}, 128256 * 2048),
    ],
)
def test_optional_tensors_of_llama_count(changes: dict[str, object], added: int) -> None:
    llama = "meta-llama/Llama-3.2-1B-Instruct"
    assert a_model_profile(llama, **changes).parameters == a_model_profile(llama).parameters + added


def test_opt_without_a_final_norm_or_biases() -> None:
    opt = "facebook/opt-125m"
    full = a_model_profile(opt).parameters
    assert a_model_profile(opt, _remove_final_layer_norm=True).parameters == full - 2 * 768
    assert a_model_profile(opt, enable_bias=False).parameters == full - 12 * (4 * 768 + 3072 + 768)
    assert a_model_profile(opt, word_embed_proj_dim=None).parameters == full


UNKNOWN: list[tuple[str, dict[str, object], str, str]] = [
    ("mistralai/Mixtral-8x7B-v0.1", {"num_experts_per_tok": 9}, "num_experts_per_tok", "9"),
    ("mistralai/Mixtral-8x7B-v0.1", {"num_experts_per_tok": None}, "num_experts_per_tok", "missing"),
    ("mistralai/Mixtral-8x7B-v0.1", {"num_local_experts": None}, "num_local_experts", "missing"),
    ("mistralai/Mixtral-8x7B-v0.1", {"n_shared_experts": 1}, "n_shared_experts", "1"),
    ("Qwen/Qwen1.5-MoE-A2.7B", {"shared_expert_intermediate_size": None}, "shared_expert_intermediate_size", "missing"),
    ("Qwen/Qwen1.5-MoE-A2.7B", {"mlp_only_layers": [True]}, "mlp_only_layers", "[True]"),
    ("deepseek-ai/DeepSeek-V2-Lite", {"kv_lora_rank": None}, "kv_lora_rank", "missing"),
    ("deepseek-ai/DeepSeek-V2-Lite", {"first_k_dense_replace": -1}, "first_k_dense_replace", "-1"),
    ("deepseek-ai/DeepSeek-V2-Lite", {"attention_bias": True}, "attention_bias", "True"),
    ("BAAI/bge-m3", {"position_embedding_type": "relative_key"}, "position_embedding_type", "'relative_key'"),
    ("BAAI/bge-m3", {"pad_token_id": 8193}, "pad_token_id", "8193"),
    ("BAAI/bge-m3", {"quantization_config": 7}, "quantization_config", "7"),
    ("facebook/opt-125m", {"word_embed_proj_dim": 512}, "word_embed_proj_dim", "512"),
    ("facebook/opt-125m", {"do_layer_norm_before": False}, "do_layer_norm_before", "False"),
    ("microsoft/phi-2", {"qk_layernorm": True}, "qk_layernorm", "True"),
    ("stabilityai/stablelm-3b-4e1t", {"use_parallel_residual": True}, "use_parallel_residual", "True"),
    ("Qwen/Qwen3-0.6B", {"head_dim": None}, "head_dim", "missing"),
    ("Qwen/Qwen3-0.6B", {"architectures": ["PhiMoEForCausalLM"]}, "architectures", "['PhiMoEForCausalLM']"),
    ("Qwen/Qwen3-0.6B", {"architectures": None}, "architectures", "missing"),
    ("Qwen/Qwen3-0.6B", {"architectures": []}, "architectures", "[]"),
    ("Qwen/Qwen3-0.6B", {"architectures": [["LlamaForCausalLM"]]}, "architectures", "[['LlamaForCausalLM']]"),
    ("Qwen/Qwen3-0.6B", {"architectures": ["a"] * 9}, "architectures", "a list of 9 entries"),
    ("Qwen/Qwen3-0.6B", {"num_experts": 8}, "num_experts", "8"),
    ("Qwen/Qwen3-0.6B", {"kv_lora_rank": 512}, "kv_lora_rank", "512"),
    ("Qwen/Qwen3-0.6B", {"mamba_d_state": 16}, "mamba_d_state", "16"),
    ("Qwen/Qwen3-0.6B", {"vision_config": {}}, "vision_config", "{}"),
    (
        "Qwen/Qwen3-0.6B",
        {"quantization_config": {"quant_method": "aqlm"}},
        "quantization_config.quant_method",
        "'aqlm'",
    ),
    ("Qwen/Qwen3-0.6B", {"is_encoder_decoder": True}, "is_encoder_decoder", "True"),
    ("Qwen/Qwen3-0.6B", {"layer_types": ["linear_attention"]}, "layer_types", "['linear_attention']"),
    ("Qwen/Qwen3-0.6B", {"layer_types": 7}, "layer_types", "7"),
    ("Qwen/Qwen3-0.6B", {"hidden_size": "1024"}, "hidden_size", "'1024'"),
    ("Qwen/Qwen3-0.6B", {"hidden_size": 0}, "hidden_size", "0"),
    ("Qwen/Qwen3-0.6B", {"hidden_size": -1}, "hidden_size", "-1"),
    ("Qwen/Qwen3-0.6B", {"hidden_size": True}, "hidden_size", "True"),
    ("Qwen/Qwen3-0.6B", {"hidden_size": float("nan")}, "hidden_size", "nan"),
    ("Qwen/Qwen3-0.6B", {"vocab_size": 10**5000}, "vocab_size", "a number out of range"),
    ("Qwen/Qwen3-0.6B", {"vocab_size": "x" * 500}, "vocab_size", f"'{'x' * 76}..."),
    ("Qwen/Qwen3-0.6B", {"num_hidden_layers": 100_000}, "num_hidden_layers", "100000"),
    ("Qwen/Qwen3-0.6B", {"max_position_embeddings": None}, "max_position_embeddings", "missing"),
    ("Qwen/Qwen3-0.6B", {"num_key_value_heads": 3}, "num_key_value_heads", "3"),
    ("Qwen/Qwen3-0.6B", {"tie_word_embeddings": "yes"}, "tie_word_embeddings", "'yes'"),
    ("Qwen/Qwen3-0.6B", {"torch_dtype": "float8_e4m3fn"}, "torch_dtype", "'float8_e4m3fn'"),
    ("Qwen/Qwen3-0.6B", {"dtype": 16}, "dtype", "16"),
    ("Qwen/Qwen3-0.6B", {"use_sliding_window": True, "sliding_window": "4k"}, "sliding_window", "'4k'"),
    ("facebook/opt-125m", {"num_attention_heads": 11}, "num_attention_heads", "11"),
]


@pytest.mark.parametrize(("model_id", "changes", "key", "value"), UNKNOWN)
def test_an_unknown_layout_names_its_key_and_value(
    model_id: str, changes: dict[str, object], key: str, value: str
) -> None:
    unknown = parse_model_config(a_model_config(model_id, **changes))
    assert isinstance(unknown, UnknownLayout)
    assert (unknown.key, unknown.value) == (key, value)
    assert unknown.message.startswith(f"config.json: {key} is {value}: ")


def test_another_architecture_is_answered_with_those_that_are_known() -> None:
    unknown = parse_model_config(a_model_config(UNKNOWN_LAYOUT))
    assert isinstance(unknown, UnknownLayout)
    assert unknown.key == "architectures"
    assert all(name in unknown.message for name in supported_architectures())


def test_a_dtype_that_vllm_does_not_have_is_unknown() -> None:
    unknown = parse_model_config(a_model_config(), dtype_override="int4")
    assert isinstance(unknown, UnknownLayout)
    assert unknown.key == "dtype"


def test_known_layer_types_are_accepted() -> None:
    kinds = ["sliding_attention", "full_attention"] * 13
    assert a_model_profile("google/gemma-2-2b-it", layer_types=kinds) == a_model_profile("google/gemma-2-2b-it")


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(supported_architectures()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.sampled_from(
    sorted(set().union(*(a_model_config(name) for name in MODELS)) | {change for row in UNKNOWN for change in row[1]})
)


@given(st.sampled_from(MODELS), st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_a_damaged_config_gives_a_profile_or_a_reason(model_id: str, damage: dict[str, object]) -> None:
    result = parse_model_config({**a_model_config(model_id), **damage})
    if isinstance(result, ModelProfile):
        assert result.parameters >= result.active_parameters > 0
        assert (result.kv_elements_per_token > 0) == (result.kv_layers > 0)
    else:
        assert result.key in result.message


@given(st.dictionaries(st.text(), _VALUES))
def test_garbage_gives_a_reason(config: dict[str, object]) -> None:
    assert isinstance(parse_model_config(config), UnknownLayout)
