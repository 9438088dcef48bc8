"""A model's shape, read from its config.json: exact parameter count and KV cache geometry, or why it is unknown.

Closed world: an architecture counts only if `_ARCHITECTURES` states its tensors, and a key that would change them
(experts, latent attention, quantisation, a second tower) makes the layout unknown. Nothing is guessed: where a key may
be absent, the default is that of the architecture's configuration class in Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["ModelProfile", "UnknownLayout", "parse_model_config", "supported_architectures"]

_LARGEST = 2**31 - 1
_MOST_LAYERS = 1024
_DTYPES = {"half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float": "float32", "float32": "float32"}
_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_TOWERS = ("text_config", "vision_config", "audio_config", "encoder", "decoder", "llm_config", "thinker_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size", "num_experts_per_tok")
_LATENT = ("kv_lora_rank", "q_lora_rank")
_STATE_SPACE = ("mamba_d_state", "mamba_n_heads", "ssm_state_size", "state_size", "attn_layer_indices", "conv_kernel")
_ATTENTIONS = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """What the footprint needs to know of a dense decoder."""

    architecture: str
    parameters: int
    """Of the tensors that vLLM loads: tied embeddings count once."""
    weight_bytes: int
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    """`max_position_embeddings`: the longest context that the config states."""
    dtype: str
    """float16, bfloat16 or float32, as vLLM's `--dtype auto` resolves the config: float32 is loaded as 16 bits."""
    dtype_bytes: int
    kv_layers: int
    """Layers that keep a KV cache; those with a sliding window count as full, an upper bound."""
    sliding_window: int | None
    """Tokens that a sliding-window layer sees, where the config switches one on."""
    quantization: str | None = None
    """None: quantised checkpoints are an unknown layout."""

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers that one token leaves in the KV cache: 2 * layers * kv_heads * head_dim."""
        return 2 * self.kv_layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownLayout:
    """Why a config gives no footprint: the key to look at, its value, and what would work."""

    key: str
    value: str
    message: str


def supported_architectures() -> tuple[str, ...]:
    """Every name that `architectures` may hold."""
    return tuple(sorted(_ARCHITECTURES))


def parse_model_config(
    config: Mapping[str, object], *, dtype_override: str | None = None
) -> ModelProfile | UnknownLayout:
    """The profile of a config.json; `dtype_override` is what the user gave vLLM as --dtype."""
    try:
        return _parse(config, dtype_override=dtype_override)
    except _UnknownError as unknown:
        return unknown.layout


class _UnknownError(Exception):
    """Leaves the parser; never leaves this module."""

    def __init__(self, *, key: str, value: object, rule: str) -> None:
        super().__init__(rule)
        shown = _shown(value)
        self.layout = UnknownLayout(key=key, value=shown, message=f"config.json: {key} is {shown}: {rule}")


@dataclass(frozen=True, slots=True)
class _Flag:
    """A tensor that is there if this key of the config says so."""

    key: str
    default: bool


_Rule = bool | _Flag


@dataclass(frozen=True, slots=True)
class _Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """Which tensors a decoder layer and its surroundings have."""

    qkv_bias: _Rule = False
    output_bias: _Rule = False
    mlp_bias: _Rule = False
    gated_mlp: bool = True
    norms: int = 2
    """Normalisations of hidden_size in a layer; those of the heads are `qk_norm`."""
    norm_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    """transformers' default of tie_word_embeddings."""
    head_bias: bool = False
    head_dim_required: bool = False
    """Where hidden_size / heads is not what an absent head_dim means."""
    intermediate_key: str = "intermediate_size"
    must_be_false: tuple[str, ...] = ()
    window_by_default: bool = True
    """What an absent use_sliding_window means where sliding_window is there."""
    surroundings: Callable[[_Config, _Shape], int] | None = None
    """Parameters outside the layers, embeddings, output head and final normalisation."""


class _Config:
    """Typed access to a config.json that may hold anything."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._raw.get(key) is not None

    def raw(self, key: str) -> object:
        """The value as it stands."""
        return self._raw.get(key)

    def number(self, key: str, *, largest: int = _LARGEST) -> int:
        """A positive whole number."""
        value = self.raw(key)
        if value is None:
            raise _UnknownError(key=key, value=None, rule="the key is needed and its value is never guessed; add it")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
            raise _UnknownError(key=key, value=value, rule=f"a whole number from 1 to {largest} is needed")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _UnknownError(key=key, value=value, rule="true or false is needed")
        return value

    def holds(self, rule: _Rule) -> bool:
        """Whether a tensor exists."""
        return self.flag(rule.key, default=rule.default) if isinstance(rule, _Flag) else rule


def _parse(raw: Mapping[str, object], *, dtype_override: str | None) -> ModelProfile:
    config = _Config(raw)
    name = _architecture_name(config)
    architecture = _ARCHITECTURES[name]
    _refuse_other_layouts(config, architecture)
    shape = _shape(config, architecture)
    dtype = _dtype(config, override=dtype_override)
    parameters = _parameters(config, architecture, shape)
    return ModelProfile(
        architecture=name,
        parameters=parameters,
        weight_bytes=parameters * _DTYPE_BYTES[dtype],
        layers=shape.layers,
        hidden_size=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_positions=shape.positions,
        dtype=dtype,
        dtype_bytes=_DTYPE_BYTES[dtype],
        kv_layers=shape.layers,
        sliding_window=_sliding_window(config, architecture),
    )


def _architecture_name(config: _Config) -> str:
    value = config.raw("architectures")
    names = value if isinstance(value, list | tuple) else []
    if len(names) == 1 and isinstance(names[0], str) and names[0] in _ARCHITECTURES:
        return names[0]
    known = ", ".join(supported_architectures())
    raise _UnknownError(key="architectures", value=value, rule=f"the footprint is known for one of: {known}")


def _refuse_other_layouts(config: _Config, architecture: _Architecture) -> None:
    for keys, what in (
        (_TOWERS, "a nested or multimodal model is not modelled"),
        (_EXPERTS, "a mixture of experts is not modelled"),
        (_LATENT, "latent attention (MLA) is not modelled"),
        (_STATE_SPACE, "state-space and hybrid layers are not modelled"),
        (("quantization_config", "compression_config"), "quantised weights are not modelled; use the 16-bit model"),
    ):
        for key in keys:
            if config.has(key):
                raise _UnknownError(key=key, value=config.raw(key), rule=what)
    for key in ("is_encoder_decoder", *architecture.must_be_false):
        if config.flag(key, default=False):
            raise _UnknownError(key=key, value=True, rule="only false is modelled")
    kinds = config.raw("layer_types")
    if kinds is not None and not (
        isinstance(kinds, list | tuple) and all(isinstance(kind, str) and kind in _ATTENTIONS for kind in kinds)
    ):
        raise _UnknownError(
            key="layer_types", value=kinds, rule=f"only {' and '.join(sorted(_ATTENTIONS))} are modelled"
        )


def _shape(config: _Config, architecture: _Architecture) -> _Shape:
    hidden = config.number("hidden_size")
    heads = config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads") if config.has("num_key_value_heads") else heads
    if heads % kv_heads:
        raise _UnknownError(
            key="num_key_value_heads", value=kv_heads, rule=f"it must divide num_attention_heads, {heads}"
        )
    if config.has("head_dim") or architecture.head_dim_required:
        head_dim = config.number("head_dim")
    elif hidden % heads:
        raise _UnknownError(
            key="num_attention_heads", value=heads, rule=f"without head_dim it must divide hidden_size, {hidden}"
        )
    else:
        head_dim = hidden // heads
    return _Shape(
        layers=config.number("num_hidden_layers", largest=_MOST_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=config.number(architecture.intermediate_key),
        vocab=config.number("vocab_size"),
        positions=config.number("max_position_embeddings"),
    )


def _parameters(config: _Config, architecture: _Architecture, shape: _Shape) -> int:
    norm = shape.hidden * (2 if architecture.norm_bias else 1)
    layer = _attention(config, architecture, shape) + _mlp(config, architecture, shape) + architecture.norms * norm
    embeddings = shape.vocab * shape.hidden
    head = 0 if config.flag("tie_word_embeddings", default=architecture.tied) else embeddings
    if architecture.head_bias:
        head += shape.vocab
    if architecture.surroundings is not None:
        return shape.layers * layer + architecture.surroundings(config, shape) + head
    return shape.layers * layer + embeddings + head + norm


def _attention(config: _Config, architecture: _Architecture, shape: _Shape) -> int:
    queries = shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    count = shape.hidden * (queries + 2 * keys) + queries * shape.hidden
    if config.holds(architecture.qkv_bias):
        count += queries + 2 * keys
    if config.holds(architecture.output_bias):
        count += shape.hidden
    return count + (2 * shape.head_dim if architecture.qk_norm else 0)


def _mlp(config: _Config, architecture: _Architecture, shape: _Shape) -> int:
    wide = 2 if architecture.gated_mlp else 1
    count = (wide + 1) * shape.hidden * shape.intermediate
    if config.holds(architecture.mlp_bias):
        count += wide * shape.intermediate + shape.hidden
    return count


def _opt_surroundings(config: _Config, shape: _Shape) -> int:
    """Embeddings, the learned positions (two rows more than positions) and the final normalisation of OPT."""
    width = config.number("word_embed_proj_dim") if config.has("word_embed_proj_dim") else shape.hidden
    if width != shape.hidden:
        raise _UnknownError(key="word_embed_proj_dim", value=width, rule="only the value of hidden_size is modelled")
    if not config.flag("do_layer_norm_before", default=True):
        raise _UnknownError(key="do_layer_norm_before", value=False, rule="only true is modelled")
    final = 0 if config.flag("_remove_final_layer_norm", default=False) else 2 * shape.hidden
    return shape.vocab * shape.hidden + (shape.positions + 2) * shape.hidden + final


def _dtype(config: _Config, *, override: str | None) -> str:
    """The rule of vLLM (config/model.py): auto takes the config's dtype, 16 bits where that is float32 or absent."""
    if override not in {None, "auto"}:
        if override not in _DTYPES:
            raise _UnknownError(key="dtype", value=override, rule=f"use auto or one of {', '.join(_DTYPES)}")
        return _DTYPES[override]
    key = "dtype" if config.has("dtype") else "torch_dtype"
    value = config.raw(key)
    if value is None:
        return "bfloat16"
    if not isinstance(value, str) or value not in _DTYPES:
        raise _UnknownError(key=key, value=value, rule=f"only {', '.join(_DTYPES)} are modelled")
    return "bfloat16" if _DTYPES[value] == "float32" else _DTYPES[value]


def _sliding_window(config: _Config, architecture: _Architecture) -> int | None:
    switched_on = config.flag("use_sliding_window", default=architecture.window_by_default)
    if not switched_on or not config.has("sliding_window"):
        return None
    return config.number("sliding_window")


def _shown(value: object) -> str:
    match value:
        case None:
            return "missing"
        case int() if abs(value) > _LARGEST:
            return "a number out of range"
        case Mapping() | list() | tuple() if len(value) > 8:
            return f"a {type(value).__name__} of {len(value)} entries"
        case _:
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:77]}..."


_BIAS = _Flag("attention_bias", default=False)
_MLP_BIAS = _Flag("mlp_bias", default=False)
_ARCHITECTURES: Mapping[str, _Architecture] = {
    "GPTNeoXForCausalLM": _Architecture(
        qkv_bias=_Flag("attention_bias", default=True),
        output_bias=_Flag("attention_bias", default=True),
        mlp_bias=True,
        gated_mlp=False,
        norm_bias=True,
    ),
    "Gemma2ForCausalLM": _Architecture(qkv_bias=_BIAS, output_bias=_BIAS, tied=True, head_dim_required=True, norms=4),
    "Gemma3ForCausalLM": _Architecture(
        qkv_bias=_BIAS, output_bias=_BIAS, tied=True, head_dim_required=True, norms=4, qk_norm=True
    ),
    "GemmaForCausalLM": _Architecture(qkv_bias=_BIAS, output_bias=_BIAS, tied=True, head_dim_required=True),
    "InternLM2ForCausalLM": _Architecture(
        qkv_bias=_Flag("bias", default=False), output_bias=_Flag("bias", default=False)
    ),
    "LlamaForCausalLM": _Architecture(qkv_bias=_BIAS, output_bias=_BIAS, mlp_bias=_MLP_BIAS),
    "MistralForCausalLM": _Architecture(),
    "OPTForCausalLM": _Architecture(
        qkv_bias=_Flag("enable_bias", default=True),
        output_bias=_Flag("enable_bias", default=True),
        mlp_bias=_Flag("enable_bias", default=True),
        gated_mlp=False,
        norm_bias=True,
        tied=True,
        intermediate_key="ffn_dim",
        surroundings=_opt_surroundings,
    ),
    "Phi3ForCausalLM": _Architecture(must_be_false=("attention_bias", "mlp_bias")),
    "PhiForCausalLM": _Architecture(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        norms=1,
        norm_bias=True,
        head_bias=True,
        must_be_false=("qk_layernorm",),
    ),
    "Qwen2ForCausalLM": _Architecture(qkv_bias=True, window_by_default=False),
    "Qwen3ForCausalLM": _Architecture(
        qkv_bias=_BIAS, output_bias=_BIAS, qk_norm=True, head_dim_required=True, window_by_default=False
    ),
    "SmolLM3ForCausalLM": _Architecture(qkv_bias=_BIAS, output_bias=_BIAS, mlp_bias=_MLP_BIAS, tied=True),
    "StableLmForCausalLM": _Architecture(
        qkv_bias=_Flag("use_qkv_bias", default=False),
        norm_bias=True,
        must_be_false=("qk_layernorm", "use_parallel_residual"),
    ),
}
