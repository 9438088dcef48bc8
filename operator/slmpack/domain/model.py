"""A model's profile, read from its config.json: exact parameters, cache geometry and bytes, or why they are unknown.

Closed world: an architecture counts only if `architectures.ARCHITECTURES` states its tensors, and a key that would
change them (a second tower, state-space layers, an unknown quantisation) makes the layout unknown. Nothing is guessed:
where a key may be absent, the default is that of the architecture's configuration class in Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slmpack.domain.architectures import ARCHITECTURES, Architecture, Shared
from slmpack.domain.attention_layers import windows_of
from slmpack.domain.checkpoint import CHECKPOINT_KEY, MOST_CHECKPOINT_BYTES, with_checkpoint_bytes
from slmpack.domain.decoder import Shape, decoder_tensors, expert_layers, latent_of, shape_of, width_of
from slmpack.domain.encoder import encoder_tensors, usable_positions
from slmpack.domain.model_config import Config, UnknownError
from slmpack.domain.model_profile import (
    AttentionGroup,
    CacheGroup,
    Experts,
    LinearGroup,
    ModelProfile,
    Task,
    UnknownLayout,
)
from slmpack.domain.quantization import Quantization
from slmpack.domain.quantization_config import quantization_of
from slmpack.domain.tensors import Matrix, Role, Tensors

__all__ = [
    "AttentionGroup",
    "CacheGroup",
    "Experts",
    "LinearGroup",
    "ModelProfile",
    "Task",
    "UnknownLayout",
    "parse_model_config",
    "supported_architectures",
]

_DTYPES = {"half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float": "float32", "float32": "float32"}
_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_COMPUTE = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
_TOWERS = ("text_config", "vision_config", "audio_config", "encoder", "decoder", "llm_config", "thinker_config")
_EXPERTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_intermediate_size",
    "num_experts_per_tok",
    "shared_expert_intermediate_size",
    "n_shared_experts",
)
_LATENT = ("kv_lora_rank", "q_lora_rank")
_STATE_SPACE = ("mamba_d_state", "mamba_n_heads", "ssm_state_size", "state_size", "attn_layer_indices", "conv_kernel")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dtype:
    """How unquantised tensors are kept."""

    name: str
    stored_bytes: int
    """Of one number in the checkpoint."""

    @property
    def bytes(self) -> int:
        return _DTYPE_BYTES[self.name]


def supported_architectures() -> tuple[str, ...]:
    """Every name that `architectures` may hold."""
    return tuple(sorted(ARCHITECTURES))


def parse_model_config(
    config: Mapping[str, object],
    *,
    dtype_override: str | None = None,
    quantization_override: str | None = None,
    task: Task | None = None,
) -> ModelProfile | UnknownLayout:
    """The profile of a config.json.

    `dtype_override` and `quantization_override` are what the user gave vLLM as --dtype and --quantization; `task` is
    what the engine is told to do with a decoder, None: what its architecture is for. Where the config carries
    `checkpoint.CHECKPOINT_KEY`, the weights are checked against it.
    """
    read = Config(config)
    try:
        profile = _parse(read, dtype_override=dtype_override, override=quantization_override, task=task)
        stored = read.number(CHECKPOINT_KEY, default=0, least=0, largest=MOST_CHECKPOINT_BYTES)
    except UnknownError as unknown:
        return unknown.layout
    return with_checkpoint_bytes(profile, stored) if stored else profile


def _parse(config: Config, *, dtype_override: str | None, override: str | None, task: Task | None) -> ModelProfile:
    name = _architecture_name(config)
    architecture = ARCHITECTURES[name]
    task = architecture.task if task is None else task
    _refuse_other_layouts(config, architecture)
    if architecture.encoder and task is not Task.EMBED:
        raise config.unknown("architectures", rule="an encoder can only embed")
    shape = shape_of(config, architecture)
    quantization = quantization_of(config, override=override)
    dtype = _dtype(config, override=dtype_override, task=task)
    if architecture.encoder:
        tensors = encoder_tensors(config, shape)
    else:
        tensors = decoder_tensors(config, architecture, shape, with_head=task is Task.GENERATE)
    _check_exclusions(tensors, quantization, layers=shape.layers)
    return _profile(config, name, shape, tensors=tensors, dtype=dtype, quantization=quantization, task=task)


def _profile(  # noqa: PLR0913 - what has been read, one by one
    config: Config,
    name: str,
    shape: Shape,
    *,
    tensors: Tensors,
    dtype: _Dtype,
    quantization: Quantization | None,
    task: Task,
) -> ModelProfile:
    architecture = ARCHITECTURES[name]
    cache, attention = _attention(config, architecture, shape)
    experts = _experts(config, architecture, shape, tensors=tensors, dtype=dtype, quantization=quantization)
    weights = _bytes(tensors, quantization, dtype_bytes=dtype.bytes)
    stored = _bytes(tensors, _as_stored(quantization), dtype_bytes=dtype.stored_bytes)
    whole = tensors.parameters * dtype.bytes if quantization is not None and quantization.loads_whole else 0
    weights += _absorbed(config, architecture, shape, quantization) * dtype.bytes
    windows = [group.window for group in attention if group.window is not None]
    return ModelProfile(
        architecture=name,
        task=task,
        parameters=tensors.parameters,
        active_parameters=_active(tensors, experts),
        weight_bytes=weights,
        config_weight_bytes=weights,
        checkpoint_bytes=stored,
        stored_dtype_bytes=dtype.stored_bytes,
        loading_bytes=max(weights, whole),
        lookup_bytes=tensors.lookup_parameters * dtype.bytes,
        layers=shape.layers,
        hidden_size=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_positions=usable_positions(config, architecture, shape.positions),
        dtype=dtype.name,
        dtype_bytes=dtype.bytes,
        kv_layers=sum(group.layers for group in cache),
        cache=cache,
        state_bytes_per_sequence=0,
        attention=attention,
        experts=experts,
        sliding_window=max(windows, default=None),
        linears=tensors.linears,
        quantization=None if quantization is None else quantization.method,
        compute_dtype="fp8" if quantization is not None and quantization.computes_in_fp8 else _COMPUTE[dtype.name],
    )


def _architecture_name(config: Config) -> str:
    value = config.raw("architectures")
    names = value if isinstance(value, list | tuple) else []
    if len(names) == 1 and isinstance(names[0], str) and names[0] in ARCHITECTURES:
        return names[0]
    raise config.unknown(
        "architectures", rule=f"the footprint is known for one of: {', '.join(supported_architectures())}"
    )


def _refuse_other_layouts(config: Config, architecture: Architecture) -> None:
    own = _own_keys(architecture)
    for keys, what in (
        (_TOWERS, "a nested or multimodal model is not modelled"),
        (_EXPERTS, "this mixture of experts is not modelled"),
        (_LATENT, "latent attention (MLA) is not modelled here"),
        (_STATE_SPACE, "state-space and hybrid layers are not modelled"),
    ):
        for key in keys:
            if config.has(key) and key not in own:
                raise config.unknown(key, rule=what)
    for key in ("is_encoder_decoder", *architecture.must_be_false):
        if config.flag(key, default=False):
            raise config.unknown(key, rule="only false is modelled")


def _own_keys(architecture: Architecture) -> frozenset[str]:
    own = set(_LATENT) if architecture.latent else set()
    mixture = architecture.mixture
    if mixture is not None:
        own |= mixture.keys
        own |= {Shared.GATED: {"shared_expert_intermediate_size"}, Shared.COUNTED: {"n_shared_experts"}}.get(
            mixture.shared, set()
        )
    return frozenset(own)


def _dtype(config: Config, *, override: str | None, task: Task) -> _Dtype:
    """The rule of vLLM (config/model.py): auto takes the config's dtype, 16 bits where that is float32 or absent."""
    key = "dtype" if config.has("dtype") else "torch_dtype"
    value = config.raw(key)
    if value is not None and (not isinstance(value, str) or value not in _DTYPES):
        raise config.unknown(key, rule=f"only {', '.join(_DTYPES)} are modelled")
    stated = None if value is None else _DTYPES[str(value)]
    if override not in {None, "auto"}:
        if override not in _DTYPES:
            raise UnknownError(key="dtype", value=override, rule=f"use auto or one of {', '.join(_DTYPES)}")
        used = _DTYPES[str(override)]
    elif stated is None or stated == "float32":
        used = "bfloat16" if task is Task.GENERATE else "float16"
    else:
        used = stated
    return _Dtype(name=used, stored_bytes=_DTYPE_BYTES[stated or used])


def _check_exclusions(tensors: Tensors, quantization: Quantization | None, *, layers: int) -> None:
    if quantization is None:
        return
    unused = quantization.exclusions.unused((matrix.name for matrix in tensors.matrices), layers=layers)
    if unused is not None:
        rule = "an excluded module that this architecture is not known to have; the layout is unsure"
        raise UnknownError(key="quantization_config", value=unused, rule=rule)


def _attention(
    config: Config, architecture: Architecture, shape: Shape
) -> tuple[tuple[CacheGroup, ...], tuple[AttentionGroup, ...]]:
    latent = latent_of(config, architecture)
    elements = 2 * shape.kv_heads * shape.head_dim if latent is None else latent.cached
    windows = ((None, shape.layers),) if architecture.encoder else windows_of(config, architecture, shape.layers)
    attention = tuple(
        AttentionGroup(layers=layers, width=width_of(shape, latent), window=window) for window, layers in windows
    )
    if architecture.encoder:
        return (), attention
    cache = tuple(CacheGroup(layers=layers, elements_per_token=elements, window=window) for window, layers in windows)
    return cache, attention


def _experts(  # noqa: PLR0913 - what has been read, one by one
    config: Config,
    architecture: Architecture,
    shape: Shape,
    *,
    tensors: Tensors,
    dtype: _Dtype,
    quantization: Quantization | None,
) -> Experts | None:
    mixture = architecture.mixture
    if mixture is None:
        return None
    layers = expert_layers(config, mixture, shape.layers)
    if not layers:
        return None
    routed = [matrix for matrix in tensors.matrices if matrix.role is Role.EXPERT]
    kept = sum(_matrix_bytes(matrix, quantization, dtype_bytes=dtype.bytes) for matrix in routed)
    return Experts(
        layers=len(layers),
        count=config.number(mixture.count),
        per_token=config.number("num_experts_per_tok"),
        parameters_each=sum(matrix.parameters for matrix in routed) // len(layers),
        bytes_each=kept // len(layers),
    )


def _active(tensors: Tensors, experts: Experts | None) -> int:
    active = tensors.parameters - tensors.lookup_parameters
    if experts is None:
        return active
    return active - experts.layers * (experts.count - experts.per_token) * experts.parameters_each


def _matrix_bytes(matrix: Matrix, quantization: Quantization | None, *, dtype_bytes: int) -> int:
    if quantization is None:
        return matrix.parameters * dtype_bytes
    return quantization.bytes_of(matrix, dtype_bytes=dtype_bytes)


def _bytes(tensors: Tensors, quantization: Quantization | None, *, dtype_bytes: int) -> int:
    return tensors.vectors * dtype_bytes + sum(
        matrix.copies * _matrix_bytes(matrix, quantization, dtype_bytes=dtype_bytes) for matrix in tensors.matrices
    )


def _as_stored(quantization: Quantization | None) -> Quantization | None:
    """The checkpoint's own quantisation, without what the kernels pad."""
    if quantization is None or quantization.online:
        return None
    return replace(quantization, storage=replace(quantization.storage, hidden_multiple=1, width_multiple=1))


def _absorbed(config: Config, architecture: Architecture, shape: Shape, quantization: Quantization | None) -> int:
    """Numbers of the 16-bit copies of kv_b_proj that vLLM's MLA makes where the original is quantised."""
    latent = latent_of(config, architecture)
    if latent is None or quantization is None:
        return 0
    return shape.layers * latent.kv_rank * shape.heads * (latent.nope_dim + latent.value_dim)
