"""What a model is to the footprint and to the performance model: sizes, caches and work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["AttentionGroup", "CacheGroup", "Experts", "LinearGroup", "ModelProfile", "Task", "UnknownLayout"]


class Task(Enum):
    """What a model answers with."""

    GENERATE = "generate"
    EMBED = "embed"
    """One vector a request. Encoders keep no KV cache; decoders that embed do, as vLLM runs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers whose KV caches are alike."""

    layers: int
    elements_per_token: int
    """Numbers that one token leaves in one layer: 2 * kv_heads * head_dim; with MLA kv_lora_rank + qk_rope_head_dim."""
    window: int | None
    """Tokens that a sliding-window layer looks back on, itself included; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGroup:
    """Layers whose attention costs alike."""

    layers: int
    width: int
    """Multiply-adds for one query token and one position that it sees: heads * (score width + value width)."""
    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearGroup:
    """Linear layers of one shape inside the transformer layers; those that the engine fuses count one by one."""

    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The routed experts of a mixture; a shared expert that every token passes is part of the dense weights."""

    layers: int
    """Layers that have experts."""
    count: int
    """Routed experts in each of them."""
    per_token: int
    """How many of them one token passes."""
    parameters_each: int
    bytes_each: int

    @property
    def all_bytes(self) -> int:
        """Resident bytes of every expert of every layer."""
        return self.layers * self.count * self.bytes_each

    def touched(self, tokens: float) -> float:
        """Experts of one layer that a step over so many tokens reads, if the router spreads tokens evenly."""
        missed: float = (1.0 - self.per_token / self.count) ** tokens
        return self.count * (1.0 - missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """A model's sizes. Bytes are those of one engine on one GPU."""

    architecture: str
    task: Task
    parameters: int
    """Of the tensors that vLLM loads: tied embeddings count once."""
    active_parameters: int
    """That one token multiplies: no lookup tables, no experts but its own; tied embeddings count once, as the head."""
    weight_bytes: int
    """Resident on the device: from the config, or from the checkpoint's metadata where that says more."""
    config_weight_bytes: int
    """What the config alone says."""
    checkpoint_bytes: int
    """What the config says that the checkpoint's tensors take as stored, before a change of dtype or quantisation."""
    stored_dtype_bytes: int
    """Of one unquantised number in the checkpoint, where the config says it."""
    loading_bytes: int
    """Most that weights take while they load: more than weight_bytes where vLLM itself quantises 16-bit weights."""
    lookup_bytes: int
    """Of weight_bytes, what a step does not stream: an untied input embedding, learned positions."""
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
    cache: tuple[CacheGroup, ...]
    """Empty where no KV cache is kept."""
    state_bytes_per_sequence: int
    """Recurrent state of one sequence, whatever its length; 0 for models of attention only."""
    attention: tuple[AttentionGroup, ...]
    experts: Experts | None
    """None for dense models."""
    sliding_window: int | None
    """Tokens that a sliding-window layer sees, where the config switches one on."""
    linears: tuple[LinearGroup, ...]
    """What LoRA adapters may sit on."""
    quantization: str | None
    """The method by vLLM's name; None: unquantised."""
    compute_dtype: str
    """bf16, fp16, fp32 or fp8: what the matrix products run in, where the GPU has it. int8 counts as 16 bits."""
    weights_note: str | None = None
    """A warning where the checkpoint's metadata and the config disagree by more than 3 %: which is used, and why."""

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers that one token leaves in the KV cache of all layers."""
        return sum(group.layers * group.elements_per_token for group in self.cache)

    def cache_bytes_per_token(self, element_bytes: int) -> int:
        """KV cache bytes that the footprint charges for a token: every layer, windows ignored (an upper bound)."""
        return self.kv_elements_per_token * element_bytes

    def cache_read_bytes(self, context: float, element_bytes: int) -> float:
        """KV cache bytes that decoding one token reads when `context` tokens are there; a window caps its layers."""
        return sum(
            group.layers * group.elements_per_token * element_bytes * _seen(context, group.window)
            for group in self.cache
        )

    def read_bytes(self, tokens: float) -> float:
        """Weight bytes that a step over `tokens` tokens streams from memory.

        All but the lookup tables, and of the experts those that a token chose, if routing is uniform and independent
        (real routers are skewed and touch fewer).
        """
        dense = self.weight_bytes - self.lookup_bytes
        if self.experts is None:
            return float(dense)
        routed = self.experts.layers * self.experts.touched(tokens) * self.experts.bytes_each
        return dense - self.experts.all_bytes + routed

    def linear_flops(self, tokens: float) -> float:
        """FLOPs of all matrix products with weights for so many tokens: 2 a parameter; the head counts for each."""
        return 2.0 * self.active_parameters * tokens

    def attention_flops(self, tokens: float, context: float) -> float:
        """FLOPs of the score and value products of `tokens` tokens that each see `context` positions.

        4 * heads * head_dim a layer, token and position; a window caps the positions of its layers.
        """
        return sum(2.0 * group.layers * group.width * tokens * _seen(context, group.window) for group in self.attention)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownLayout:
    """Why a config gives no footprint: the key to look at, its value, and what would work."""

    key: str
    value: str
    message: str


def _seen(context: float, window: int | None) -> float:
    return context if window is None else min(context, window)
