"""What one vLLM engine needs of a GPU, term by term, in bytes.

Formulas and their errors were fitted on public vLLM logs; `data/engines.yaml` holds each coefficient with its source.

* weights: parameter bytes * `weights_factor` (padding of the vocabulary, buffers).
* KV cache: 2 * layers * kv_heads * head_dim * element size a token, exact; rounded up to blocks of 16 tokens.
* activations: the larger of the sampler's logits (`logits_copies` * sequences * vocabulary * 4 bytes) and the MLP's
  peak (batched tokens * dtype * (3 * intermediate + 5 * hidden)), plus a constant.
* non-torch memory, CUDA graphs and the CUDA context: constants of the engine generation.

Margin policy, the only one: every constant is the largest value logged for the supported engines (graphs: the 90th
percentile of 56 logs), and `margin_bytes` adds the worst under-prediction of the activations in 19 logs. The margin
lies inside the engine's budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from slmpack.domain.engine import EngineRuntime
from slmpack.domain.model import ModelProfile
from slmpack.domain.quantity import format_bytes

__all__ = ["KV_BLOCK_TOKENS", "EngineRuntime", "Footprint", "Serving", "estimate_footprint", "explain"]

KV_BLOCK_TOKENS = 16
"""vLLM's default --block-size on CUDA; the flag is refused."""
_LOGIT_BYTES = 4
_MLP_INTERMEDIATES = 3
_MLP_HIDDENS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The engine settings that memory depends on."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_dtype_bytes: int
    """Bytes of one KV cache element: 2 for 16-bit caches, 1 for fp8."""
    enforce_eager: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Device memory of one engine."""

    weights_bytes: int
    kv_bytes_per_token: int
    activation_bytes: int
    non_torch_bytes: int
    cuda_graph_bytes: int
    cuda_graphs_inside_budget: bool
    """Whether vLLM counts its CUDA graphs within gpu-memory-utilization."""
    context_bytes: int
    """CUDA context and libraries: never inside the budget."""
    margin_bytes: int
    basis: str
    """Where the figures come from: modelled, or later measured."""

    @property
    def fixed_inside_bytes(self) -> int:
        """All that lies inside vLLM's budget except the KV cache."""
        graphs = self.cuda_graph_bytes if self.cuda_graphs_inside_budget else 0
        return self.weights_bytes + self.activation_bytes + self.non_torch_bytes + self.margin_bytes + graphs

    @property
    def outside_bytes(self) -> int:
        """What a hard limit must hold beyond vLLM's budget."""
        return self.context_bytes + (0 if self.cuda_graphs_inside_budget else self.cuda_graph_bytes)

    def kv_bytes(self, kv_tokens: int) -> int:
        """KV cache for this many tokens, in whole blocks."""
        blocks = -(-kv_tokens // KV_BLOCK_TOKENS)
        return blocks * KV_BLOCK_TOKENS * self.kv_bytes_per_token

    def total_bytes(self, kv_tokens: int) -> int:
        """What the engine takes of the device with a KV cache for this many tokens."""
        return self.fixed_inside_bytes + self.outside_bytes + self.kv_bytes(kv_tokens)


def estimate_footprint(model: ModelProfile, serving: Serving, *, runtime: EngineRuntime) -> Footprint:
    """The footprint by formula; every term rounds up."""
    return Footprint(
        weights_bytes=_up(model.weight_bytes * _exact(runtime.weights_factor)),
        kv_bytes_per_token=model.kv_elements_per_token * serving.kv_cache_dtype_bytes,
        activation_bytes=_activation_bytes(model, serving, runtime=runtime),
        non_torch_bytes=runtime.non_torch_bytes,
        cuda_graph_bytes=0 if serving.enforce_eager else runtime.cuda_graph_bytes,
        cuda_graphs_inside_budget=runtime.cuda_graphs_inside_budget,
        context_bytes=runtime.context_bytes,
        margin_bytes=runtime.margin_bytes,
        basis="modelled",
    )


def explain(footprint: Footprint) -> tuple[tuple[str, int, str], ...]:
    """Rows of the breakdown: label, bytes, note. KV cache is per token; the other rows are per engine."""
    graphs = "inside" if footprint.cuda_graphs_inside_budget else "outside"
    return (
        ("weights", footprint.weights_bytes, "parameters with padding"),
        ("activations", footprint.activation_bytes, "peak of one step: logits or MLP"),
        ("non-torch", footprint.non_torch_bytes, "libraries' own allocations"),
        ("CUDA graphs", footprint.cuda_graph_bytes, f"{graphs} vLLM's budget; 0 with enforce-eager"),
        ("margin", footprint.margin_bytes, "worst under-prediction seen in logs"),
        ("CUDA context", footprint.context_bytes, "outside vLLM's budget"),
        (
            "KV cache per token",
            footprint.kv_bytes_per_token,
            f"exact; {format_bytes(footprint.kv_bytes(1024))} for 1,024 tokens",
        ),
    )


def _activation_bytes(model: ModelProfile, serving: Serving, *, runtime: EngineRuntime) -> int:
    logits = _exact(runtime.logits_copies) * serving.max_num_seqs * model.vocab_size * _LOGIT_BYTES
    widest = _MLP_INTERMEDIATES * model.intermediate_size + _MLP_HIDDENS * model.hidden_size
    mlp = Fraction(serving.max_num_batched_tokens * model.dtype_bytes * widest)
    return _up(max(logits, mlp)) + runtime.activation_constant_bytes


def _exact(number: float) -> Fraction:
    """A table's decimal as written, so that a sum does not depend on the platform's rounding."""
    return Fraction(str(number))


def _up(number: Fraction) -> int:
    return -(-number.numerator // number.denominator)
