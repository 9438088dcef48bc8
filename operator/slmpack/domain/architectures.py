"""Which tensors each architecture has: the table behind `parse_model_config`, and nothing else.

Sources: the modelling and configuration files of Hugging Face transformers, one folder an architecture. A default here
is the default of that configuration class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from slmpack.domain.model_config import Flag, Rule
from slmpack.domain.model_profile import Task

__all__ = ["ARCHITECTURES", "Architecture", "Mixture", "Norms", "Shared", "Windows"]


class Windows(Enum):
    """Which layers look back on a window only, where `layer_types` does not say it."""

    ALL = "all"
    """All of them, if `sliding_window` is there (and `use_sliding_window` not false)."""
    LATE = "late"
    """Those from `max_window_layers` on, if `use_sliding_window` is true."""
    ALTERNATE = "alternate"
    """Layers 0, 2, 4 ..."""
    PATTERN = "pattern"
    """All but every `sliding_window_pattern`-th."""


class Norms(Enum):
    """Normalisations of queries and keys."""

    NONE = "none"
    HEAD = "head"
    """head_dim numbers for the queries and for the keys."""
    FULL = "full"
    """A number for each of all query and key channels."""


class Shared(Enum):
    """Which experts every token passes."""

    NONE = "none"
    GATED = "gated"
    """One of shared_expert_intermediate_size, with a gate of one output."""
    COUNTED = "counted"
    """n_shared_experts, each of the routed experts' width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture of experts, by the config keys that state it."""

    count: str
    """Key of the number of routed experts."""
    width: str
    """Key of an expert's intermediate size."""
    shared: Shared = Shared.NONE
    stepped: bool = False
    """Whether decoder_sparse_step and mlp_only_layers choose the layers."""
    dense_first: bool = False
    """Whether first_k_dense_replace and moe_layer_freq choose the layers."""
    bias: bool = False
    """Whether router and experts have biases."""
    names: tuple[str, str, str, str] = ("mlp.experts.0", "gate_proj", "up_proj", "down_proj")
    router: str = "mlp.gate"

    @property
    def keys(self) -> frozenset[str]:
        """Config keys that this mixture understands."""
        return frozenset({self.count, self.width, "num_experts_per_tok"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Which tensors a layer and its surroundings have."""

    task: Task = Task.GENERATE
    encoder: bool = False
    """A bidirectional encoder of the BERT family: none of the other fields then counts but `padded_positions`."""
    padded_positions: bool = False
    """Whether the first pad_token_id + 1 rows of the position table are not positions."""
    qkv_bias: Rule = False
    output_bias: Rule = False
    mlp_bias: Rule = False
    gated_mlp: bool = True
    norms: int = 2
    """Normalisations of hidden_size in a layer; those of the heads are `qk_norm`."""
    norm_bias: bool = False
    qk_norm: Norms = Norms.NONE
    sinks: bool = False
    """A learned number for each head, which takes attention from all positions."""
    latent: bool = False
    """Multi-head latent attention (MLA)."""
    mixture: Mixture | None = None
    tied: bool = False
    """transformers' default of tie_word_embeddings."""
    head_bias: bool = False
    head_dim_required: bool = False
    """Where hidden_size / heads is not what an absent head_dim means."""
    intermediate_key: str = "intermediate_size"
    must_be_false: tuple[str, ...] = ()
    windows: Windows = Windows.ALL
    window_by_default: int | None = None
    """What an absent sliding_window means."""
    learned_positions: bool = False
    """OPT: a table of positions, two rows more than max_position_embeddings."""
    layers_at: str = "model.layers"


_BIAS = Flag("attention_bias", default=False)
_MLP_BIAS = Flag("mlp_bias", default=False)
_GPT_NEOX_BIAS = Flag("attention_bias", default=True)
_OPT_BIAS = Flag("enable_bias", default=True)
_LLAMA = Architecture(qkv_bias=_BIAS, output_bias=_BIAS, mlp_bias=_MLP_BIAS)
_QWEN2_BIAS = Flag("qkv_bias", default=True)
_GEMMA2 = Architecture(
    qkv_bias=_BIAS,
    output_bias=_BIAS,
    tied=True,
    head_dim_required=True,
    norms=4,
    windows=Windows.ALTERNATE,
    window_by_default=4096,
)
_DEEPSEEK = Architecture(
    latent=True,
    must_be_false=("attention_bias", "mlp_bias"),
    mixture=Mixture(count="n_routed_experts", width="moe_intermediate_size", shared=Shared.COUNTED, dense_first=True),
)

_GENERATORS: Mapping[str, Architecture] = {
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "GPTNeoXForCausalLM": Architecture(
        qkv_bias=_GPT_NEOX_BIAS,
        output_bias=_GPT_NEOX_BIAS,
        mlp_bias=True,
        gated_mlp=False,
        norm_bias=True,
        layers_at="gpt_neox.layers",
    ),
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": Architecture(
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        tied=True,
        head_dim_required=True,
        norms=4,
        qk_norm=Norms.HEAD,
        windows=Windows.PATTERN,
        window_by_default=4096,
    ),
    "GemmaForCausalLM": Architecture(qkv_bias=_BIAS, output_bias=_BIAS, tied=True, head_dim_required=True),
    "GptOssForCausalLM": Architecture(
        qkv_bias=Flag("attention_bias", default=True),
        output_bias=Flag("attention_bias", default=True),
        sinks=True,
        head_dim_required=True,
        windows=Windows.ALTERNATE,
        window_by_default=128,
        mixture=Mixture(count="num_local_experts", width="intermediate_size", bias=True, router="mlp.router"),
    ),
    "GraniteMoeForCausalLM": Architecture(
        must_be_false=("attention_bias",),
        mixture=Mixture(
            count="num_local_experts",
            width="intermediate_size",
            names=("block_sparse_moe", "input_linear.0", "input_linear.1", "output_linear"),
            router="block_sparse_moe.router.layer",
        ),
    ),
    "InternLM2ForCausalLM": Architecture(qkv_bias=Flag("bias", default=False), output_bias=Flag("bias", default=False)),
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": Architecture(),
    "MixtralForCausalLM": Architecture(
        mixture=Mixture(
            count="num_local_experts",
            width="intermediate_size",
            names=("block_sparse_moe.experts.0", "w1", "w3", "w2"),
            router="block_sparse_moe.gate",
        )
    ),
    "OPTForCausalLM": Architecture(
        qkv_bias=_OPT_BIAS,
        output_bias=_OPT_BIAS,
        mlp_bias=_OPT_BIAS,
        gated_mlp=False,
        norm_bias=True,
        tied=True,
        intermediate_key="ffn_dim",
        learned_positions=True,
        layers_at="model.decoder.layers",
    ),
    "OlmoeForCausalLM": Architecture(
        must_be_false=("attention_bias",),
        qk_norm=Norms.FULL,
        mixture=Mixture(count="num_experts", width="intermediate_size"),
    ),
    "Phi3ForCausalLM": Architecture(must_be_false=("attention_bias", "mlp_bias")),
    "PhiForCausalLM": Architecture(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        norms=1,
        norm_bias=True,
        head_bias=True,
        must_be_false=("qk_layernorm",),
    ),
    "Qwen2ForCausalLM": Architecture(qkv_bias=True, windows=Windows.LATE),
    "Qwen2MoeForCausalLM": Architecture(
        qkv_bias=_QWEN2_BIAS,
        windows=Windows.LATE,
        mixture=Mixture(count="num_experts", width="moe_intermediate_size", shared=Shared.GATED, stepped=True),
    ),
    "Qwen3ForCausalLM": Architecture(
        qkv_bias=_BIAS, output_bias=_BIAS, qk_norm=Norms.HEAD, head_dim_required=True, windows=Windows.LATE
    ),
    "Qwen3MoeForCausalLM": Architecture(
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=Norms.HEAD,
        head_dim_required=True,
        windows=Windows.LATE,
        mixture=Mixture(count="num_experts", width="moe_intermediate_size", stepped=True),
    ),
    "SmolLM3ForCausalLM": Architecture(
        qkv_bias=_BIAS, output_bias=_BIAS, mlp_bias=_MLP_BIAS, tied=True, must_be_false=("use_sliding_window",)
    ),
    "StableLmForCausalLM": Architecture(
        qkv_bias=Flag("use_qkv_bias", default=False),
        norm_bias=True,
        must_be_false=("qk_layernorm", "use_parallel_residual"),
    ),
}
_EMBEDDERS: Mapping[str, Architecture] = {
    "BertModel": Architecture(task=Task.EMBED, encoder=True),
    "RobertaModel": Architecture(task=Task.EMBED, encoder=True, padded_positions=True),
    "XLMRobertaModel": Architecture(task=Task.EMBED, encoder=True, padded_positions=True),
} | {
    name.replace("ForCausalLM", "Model"): replace(_GENERATORS[name], task=Task.EMBED)
    for name in (
        "Gemma2ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    )
}

ARCHITECTURES: Mapping[str, Architecture] = {**_GENERATORS, **_EMBEDDERS}
"""By the name that `architectures` holds."""
