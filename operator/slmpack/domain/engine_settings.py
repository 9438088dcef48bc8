"""The vLLM flags that the plan sets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EngineSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The flags that bound one engine."""

    gpu_memory_utilization: float
    """Fraction of the total that CUDA reports, rounded down to three decimals."""
    kv_cache_memory_bytes: int | None
    """Set where engines share a GPU; None lets vLLM measure and take what is left of its budget."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
