"""What an engine may take of its share of a GPU: the utilisation, the budget, the KV cache in it, and whether it fits.

vLLM's budget is utilisation x CUDA's total, and its start-up check counts the context as taken already, so
utilisation <= (limit - what lies outside the budget) / total, rounded down (facts: vLLM 0.33.0 `request_memory`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import assert_never

from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.footprint import KV_BLOCK_TOKENS, Footprint
from slmpack.domain.quantity import format_bytes
from slmpack.domain.sharing import (
    DraClaim,
    Exclusive,
    MigSlice,
    MpsPack,
    MpsShare,
    Share,
    cuda_total_bytes,
    limit_bytes,
)

__all__ = ["Room", "least_bytes", "make_room"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one engine would ask for in its share, and what it must find there."""

    share: Share
    footprint: Footprint
    kv_tokens: int
    """KV cache tokens that must fit at least."""
    loading_bytes: int
    """Weights on the device while they load: more than afterwards where vLLM quantises them itself."""
    most_utilization: float
    """What the share has room for, of CUDA's total."""
    gpu_memory_utilization: float
    """What is asked for, of CUDA's total."""
    requested_bytes: int
    """vLLM's budget: utilisation * CUDA's total."""
    kv_cache_bytes: int
    """What is left of the budget for the KV cache, in whole blocks; 0 where it does not fit."""
    kv_cache_tokens: int

    @property
    def fits(self) -> bool:
        """Whether the engine starts there with the KV cache that it must have."""
        enough = self.requested_bytes >= self.footprint.fixed_inside_bytes + self.footprint.kv_bytes(self.kv_tokens)
        return self.gpu_memory_utilization <= self.most_utilization and enough and self._loads

    @property
    def _loads(self) -> bool:
        return _while_loading(self.footprint, self.loading_bytes) <= limit_bytes(self.share)

    @property
    def needed_bytes(self) -> int:
        """Device memory that a share must at least have."""
        return least_bytes(self.footprint, kv_tokens=self.kv_tokens, loading_bytes=self.loading_bytes)

    @property
    def offered_bytes(self) -> int:
        """What the engine may take of the share: its budget there, and what lies outside of it."""
        return min(limit_bytes(self.share), self.requested_bytes + self.footprint.outside_bytes)

    @property
    def shortfall(self) -> str | None:
        """Why it does not fit; None: it does."""
        if self.fits:
            return None
        limit = format_bytes(limit_bytes(self.share))
        if self.gpu_memory_utilization > self.most_utilization:
            outside = format_bytes(self.footprint.outside_bytes)
            return (
                f"a utilisation of {self.gpu_memory_utilization:g} asks for {format_bytes(self.requested_bytes)}, and"
                f" {outside} lie outside of it: more than the share's {limit}; at most {self.most_utilization:g} works"
            )
        if not self._loads and self.needed_bytes > self.footprint.total_bytes(self.kv_tokens):
            return (
                f"the weights take {format_bytes(self.loading_bytes)} while they load, before vLLM quantises them:"
                f" {format_bytes(self.needed_bytes)} in all, more than the share's {limit}"
            )
        return self._too_small()

    def _too_small(self) -> str:
        footprint = self.footprint
        terms = (
            ("weights", footprint.weights_bytes),
            (f"KV cache of {self.kv_tokens:,} tokens", footprint.kv_bytes(self.kv_tokens)),
            ("activations", footprint.activation_bytes),
            ("graphs", footprint.cuda_graph_bytes),
            ("context", footprint.context_bytes),
            ("other", footprint.non_torch_bytes + footprint.margin_bytes),
        )
        parts = " + ".join(f"{name} {format_bytes(size)}" for name, size in terms)
        needed = format_bytes(footprint.total_bytes(self.kv_tokens))
        return f"a replica needs {needed}: {parts}; the share offers {format_bytes(self.offered_bytes)}"

    def holds(self, kv_tokens: int) -> bool:
        """Whether the KV cache holds so many tokens; a model that keeps none is never short of it."""
        return self.footprint.kv_bytes(kv_tokens) <= self.kv_cache_bytes

    def settings(self, *, max_model_len: int, max_num_seqs: int, max_num_batched_tokens: int) -> EngineSettings:
        """The flags that keep the engine inside the share."""
        match self.share:
            case Exclusive() | MigSlice() | DraClaim():
                stated_kv = None  # alone on its device: vLLM measures what is left, which is better than our estimate
            case MpsShare() | MpsPack():
                stated_kv = self.kv_cache_bytes or None  # an encoder has no KV cache
            case _:
                assert_never(self.share)
        return EngineSettings(
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_memory_bytes=stated_kv,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
        )


def make_room(  # noqa: PLR0913 - the share, the footprint, and what is asked of them
    share: Share,
    footprint: Footprint,
    *,
    kv_tokens: int,
    loading_bytes: int,
    ceiling: float,
    wanted: float | None = None,
) -> Room:
    """The room of an engine in a share.

    `wanted` is a utilisation that somebody asks for; else it is as much as the share holds, at most `ceiling`.
    """
    total = cuda_total_bytes(share)
    most = floor(max(0, limit_bytes(share) - footprint.outside_bytes) / total * 1000) / 1000
    utilization = min(ceiling, most) if wanted is None else wanted
    requested = int(utilization * total)
    block = footprint.kv_bytes(KV_BLOCK_TOKENS)
    blocks = max(0, requested - footprint.fixed_inside_bytes) // block if block else 0
    return Room(
        share=share,
        footprint=footprint,
        kv_tokens=kv_tokens,
        loading_bytes=loading_bytes,
        most_utilization=most,
        gpu_memory_utilization=utilization,
        requested_bytes=requested,
        kv_cache_bytes=blocks * block,
        kv_cache_tokens=blocks * KV_BLOCK_TOKENS,
    )


def least_bytes(footprint: Footprint, *, kv_tokens: int, loading_bytes: int) -> int:
    """Device memory that a share must at least have: what the engine takes when it runs, and while it loads."""
    return max(footprint.total_bytes(kv_tokens), _while_loading(footprint, loading_bytes))


def _while_loading(footprint: Footprint, loading_bytes: int) -> int:
    return loading_bytes + footprint.non_torch_bytes + footprint.context_bytes
