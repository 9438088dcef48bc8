"""What one vLLM engine needs of a GPU, term by term, in bytes, each as an interval.

`data/engines.yaml` holds each coefficient with its source; `python -m benchmarks footprint` repeats the fit.

* weights: resident parameter bytes * `weights_factor` (padding of the vocabulary, buffers), and LoRA slots beside them.
* KV cache: elements of all layers * element size a token, exact; rounded up to blocks of 16 tokens.
* activations: the larger of the sampler's logits (`logits_copies` * sequences * vocabulary * 4 bytes) and the MLP's
  peak (`mlp_factor` * batched tokens * dtype * (3 * intermediate + 5 * hidden)), plus a constant. In a mixture a token
  passes several experts; vLLM's fused kernel keeps two buffers for each. A model that embeds has no sampler.
* CUDA graphs: a base and a share for each captured batch size, twice as many with LoRA; none with enforce-eager.
* non-torch memory and the CUDA context: constants of the engine generation.

Inside vLLM's budget (gpu-memory-utilization) lie weights, activations, non-torch memory, the KV cache and, since
0.20.2, the CUDA graphs; the context never does. With --kv-cache-memory-bytes vLLM profiles nothing, so that nothing of
this is measured then.

Margin policy, the only one: what start-up logs show (weights, activations, non-torch) is planned at its expected value
plus `margin_bytes`, which is wider for engine versions without logs of their own; what few of them show (graphs,
context) is planned at its high. The margin lies inside the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor

from slmpack.domain.engine import EngineRuntime
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.lora import lora_bytes
from slmpack.domain.model_profile import ModelProfile, Task
from slmpack.domain.quantity import format_bytes

__all__ = [
    "KV_BLOCK_TOKENS",
    "EngineRuntime",
    "Footprint",
    "Serving",
    "TermRow",
    "Terms",
    "estimate_footprint",
    "estimate_terms",
    "explain",
    "explain_terms",
]

KV_BLOCK_TOKENS = 16
"""vLLM's default --block-size on CUDA; the flag is refused."""
_LOGIT_BYTES = 4
_MLP_INTERMEDIATES = 3
_MLP_HIDDENS = 5
_MOST_CAPTURED = 512
"""Batches are captured up to min(2 * max-num-seqs, 512), in steps of 8, from 256 on of 16 (vllm/config/vllm.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The engine settings that memory depends on."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_dtype_bytes: int
    """Bytes of one KV cache element: 2 for 16-bit caches, 1 for fp8."""
    enforce_eager: bool
    max_loras: int = 0
    """--max-loras with --enable-lora; 0: no adapters."""
    max_lora_rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The estimate as it is known: every term an interval in bytes."""

    weights: Interval
    activations: Interval
    non_torch: Interval
    cuda_graphs: Interval
    context: Interval
    margin_bytes: int
    kv_bytes_per_token: int
    cuda_graphs_inside_budget: bool
    validated: bool
    """Whether logs of this engine version were among those that the constants were fitted on."""

    @property
    def non_kv(self) -> Interval:
        """Budget less the KV cache."""
        inside = (self.weights, self.activations, self.non_torch)
        return _sum((*inside, self.cuda_graphs) if self.cuda_graphs_inside_budget else inside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Device memory of one engine as it is planned with: one safe number for each term."""

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
    """Where the figures come from: modelled, or measured where a measurement corrected them."""
    non_kv_low_bytes: int | None = None
    """Ends of `non_kv`; None in records of operators that did not write them."""
    non_kv_high_bytes: int | None = None

    @property
    def fixed_inside_bytes(self) -> int:
        """All that lies inside vLLM's budget except the KV cache."""
        graphs = self.cuda_graph_bytes if self.cuda_graphs_inside_budget else 0
        return self.weights_bytes + self.activation_bytes + self.non_torch_bytes + self.margin_bytes + graphs

    @property
    def outside_bytes(self) -> int:
        """What a hard limit must hold beyond vLLM's budget."""
        return self.context_bytes + (0 if self.cuda_graphs_inside_budget else self.cuda_graph_bytes)

    @property
    def non_kv(self) -> Interval:
        """Budget less the KV cache: what the engine may turn out to take; without the margin as expected."""
        expected = self.fixed_inside_bytes - self.margin_bytes
        low = expected if self.non_kv_low_bytes is None else min(expected, self.non_kv_low_bytes)
        high = self.fixed_inside_bytes if self.non_kv_high_bytes is None else max(expected, self.non_kv_high_bytes)
        basis = Basis.MEASURED if self.basis == Basis.MEASURED.value else Basis.MODELLED
        return Interval(low=low, expected=expected, high=high, basis=basis)

    def kv_bytes(self, kv_tokens: int) -> int:
        """KV cache for this many tokens, in whole blocks."""
        blocks = -(-kv_tokens // KV_BLOCK_TOKENS)
        return blocks * KV_BLOCK_TOKENS * self.kv_bytes_per_token

    def total_bytes(self, kv_tokens: int) -> int:
        """What the engine takes of the device with a KV cache for this many tokens."""
        return self.fixed_inside_bytes + self.outside_bytes + self.kv_bytes(kv_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TermRow:
    """One row of the breakdown."""

    label: str
    planned_bytes: int
    spread: Interval
    note: str


def estimate_terms(model: ModelProfile, serving: Serving, *, runtime: EngineRuntime) -> Terms:
    """Every term with its spread, in bytes."""
    return Terms(
        weights=_spread(lambda end: _weight_bytes(model, serving, runtime, end)),
        activations=_spread(lambda end: _activation_bytes(model, serving, runtime, end)),
        non_torch=runtime.non_torch_bytes,
        cuda_graphs=_spread(lambda end: _graph_bytes(serving, runtime, end)),
        context=runtime.context_bytes,
        margin_bytes=runtime.margin_bytes,
        kv_bytes_per_token=model.kv_elements_per_token * serving.kv_cache_dtype_bytes,
        cuda_graphs_inside_budget=runtime.cuda_graphs_inside_budget,
        validated=runtime.validated,
    )


def estimate_footprint(model: ModelProfile, serving: Serving, *, runtime: EngineRuntime) -> Footprint:
    """The footprint to plan with; every term rounds up."""
    terms = estimate_terms(model, serving, runtime=runtime)
    return Footprint(
        weights_bytes=_weight_bytes(model, serving, runtime, _expected),
        kv_bytes_per_token=terms.kv_bytes_per_token,
        activation_bytes=_activation_bytes(model, serving, runtime, _expected),
        non_torch_bytes=ceil(runtime.non_torch_bytes.expected),
        cuda_graph_bytes=_graph_bytes(serving, runtime, _high),
        cuda_graphs_inside_budget=runtime.cuda_graphs_inside_budget,
        context_bytes=ceil(runtime.context_bytes.high),
        margin_bytes=runtime.margin_bytes,
        basis=Basis.MODELLED.value,
        non_kv_low_bytes=floor(terms.non_kv.low),
        non_kv_high_bytes=ceil(terms.non_kv.high),
    )


def explain(footprint: Footprint) -> tuple[tuple[str, int, str], ...]:
    """Rows of the breakdown: label, bytes, note. KV cache is per token; the other rows are per engine."""
    graphs = "inside" if footprint.cuda_graphs_inside_budget else "outside"
    return (
        ("weights", footprint.weights_bytes, "parameters with padding, LoRA slots"),
        ("activations", footprint.activation_bytes, "peak of one step: logits or MLP"),
        ("non-torch", footprint.non_torch_bytes, "libraries' own allocations"),
        ("CUDA graphs", footprint.cuda_graph_bytes, f"{graphs} vLLM's budget; 0 with enforce-eager"),
        ("margin", footprint.margin_bytes, "kept for what the estimate does not know"),
        ("CUDA context", footprint.context_bytes, "outside vLLM's budget"),
        (
            "KV cache per token",
            footprint.kv_bytes_per_token,
            f"exact; {format_bytes(footprint.kv_bytes(1024))} for 1,024 tokens",
        ),
    )


def explain_terms(footprint: Footprint, terms: Terms) -> tuple[TermRow, ...]:
    """The breakdown with what each term may turn out to be; the margin is what the plan adds, the last row the sum."""
    spreads = (
        terms.weights,
        terms.activations,
        terms.non_torch,
        terms.cuda_graphs,
        Interval.exactly(terms.margin_bytes, Basis.ASSUMED),
        terms.context,
        Interval.exactly(terms.kv_bytes_per_token, Basis.MODELLED),
    )
    rows = [
        TermRow(label=label, planned_bytes=size, spread=spread, note=_note(label, note, terms))
        for (label, size, note), spread in zip(explain(footprint), spreads, strict=True)
    ]
    note = "what vLLM's budget holds beside the KV cache"
    total = TermRow(
        label="budget less KV cache", planned_bytes=footprint.fixed_inside_bytes, spread=terms.non_kv, note=note
    )
    return (*rows, total)


def _note(label: str, note: str, terms: Terms) -> str:
    if label != "margin":
        return note
    return f"{note}; " + (
        "logs of this engine generation" if terms.validated else "unvalidated: no logs of this version"
    )


_End = Callable[[Interval], float]


def _low(interval: Interval) -> float:
    return interval.low


def _expected(interval: Interval) -> float:
    return interval.expected


def _high(interval: Interval) -> float:
    return interval.high


def _spread(at: Callable[[_End], float]) -> Interval:
    return Interval(low=at(_low), expected=at(_expected), high=at(_high), basis=Basis.MODELLED)


def _sum(terms: tuple[Interval, ...]) -> Interval:
    return _spread(lambda end: sum(map(end, terms)))


def _weight_bytes(model: ModelProfile, serving: Serving, runtime: EngineRuntime, end: _End) -> int:
    adapters = lora_bytes(
        model, max_loras=serving.max_loras, max_rank=serving.max_lora_rank, dtype_bytes=model.dtype_bytes
    )
    return _times(model.weight_bytes, end(runtime.weights_factor)) + adapters


def _activation_bytes(model: ModelProfile, serving: Serving, runtime: EngineRuntime, end: _End) -> int:
    sequences = serving.max_num_seqs if model.task is Task.GENERATE else 0
    logits = _times(sequences * model.vocab_size * _LOGIT_BYTES, end(runtime.logits_copies))
    mlp = _times(serving.max_num_batched_tokens * model.dtype_bytes * _widest(model), end(runtime.mlp_factor))
    return max(logits, mlp) + ceil(end(runtime.activation_constant_bytes))


def _widest(model: ModelProfile) -> int:
    """Numbers of one token that are there at once in the widest layer."""
    routed, experts = 0, model.experts
    if experts is not None:
        # fused_moe keeps [tokens, top_k, max(2 * N, hidden)] and [tokens * top_k, N], N the width of one expert.
        width = experts.parameters_each // (3 * model.hidden_size)
        routed = experts.per_token * (max(2 * width, model.hidden_size) + width)
    return max(_MLP_INTERMEDIATES * model.intermediate_size, routed) + _MLP_HIDDENS * model.hidden_size


def _graph_bytes(serving: Serving, runtime: EngineRuntime, end: _End) -> int:
    if serving.enforce_eager:
        return 0
    graphs = _captured(serving) * (2 if serving.max_loras else 1)
    return ceil(end(runtime.cuda_graph_base_bytes)) + graphs * ceil(end(runtime.cuda_graph_each_bytes))


def _captured(serving: Serving) -> int:
    """How many batch sizes vLLM captures a graph for."""
    largest = min(2 * serving.max_num_seqs, serving.max_num_batched_tokens, _MOST_CAPTURED)
    few = sum(size <= largest for size in (1, 2, 4))
    return few + len(range(8, min(largest + 1, 256), 8)) + len(range(256, largest + 1, 16))


def _times(number: int, factor: float) -> int:
    """Rounded up; the factor counts as the decimal that the table has, so that nothing depends on the platform."""
    numerator, denominator = _ratio(factor)
    return -(-number * numerator // denominator)


@lru_cache(maxsize=256)
def _ratio(factor: float) -> tuple[int, int]:
    return Fraction(str(factor)).as_integer_ratio()
