"""One model as vLLM serves it: its settings, what it takes of a device at a batch, and what the batch may be."""

from __future__ import annotations

from dataclasses import dataclass, field

from slmpack.domain.engine import EngineRuntime
from slmpack.domain.footprint import Footprint, Serving, estimate_footprint
from slmpack.domain.model_profile import ModelProfile
from slmpack.domain.prediction import Tenant
from slmpack.domain.workload import Workload

__all__ = ["Engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A model and the settings that somebody gave; None where they are ours to choose."""

    model: ModelProfile
    runtime: EngineRuntime
    max_model_len: int
    max_num_seqs: int | None
    """The batch that somebody gave."""
    least_num_seqs: int
    """A share whose KV cache holds fewer sequences at their mean length is too small."""
    most_num_seqs: int
    """The largest batch that is considered."""
    max_num_batched_tokens: int
    """At least; a larger batch takes as many tokens."""
    kv_element_bytes: int
    enforce_eager: bool
    cpu_cores: float
    gpu_memory_utilization: float | None = None
    max_loras: int = 0
    """Adapters on the device at a time; 0: none are served."""
    max_lora_rank: int = 0
    _footprints: dict[int, Footprint] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Worked out once for each batch: a search over many GPUs asks again and again."""

    @property
    def first_num_seqs(self) -> int:
        """The batch that somebody gave, else the least."""
        return self.max_num_seqs or self.least_num_seqs

    def batched_tokens(self, sequences: int) -> int:
        """Tokens of one step: vLLM wants one for each sequence at least.

        The same for every batch up to the one that somebody gave, so that a curve is of the engine that runs.
        """
        return max(self.max_num_batched_tokens, self.max_num_seqs or 0, sequences)

    def least_kv_tokens(self, live_tokens: float) -> int:
        """KV cache that a share must hold: one request of max_model_len, and the least batch at its mean length."""
        return max(self.max_model_len, round(self.least_num_seqs * live_tokens))

    def serving(self, sequences: int) -> Serving:
        """The settings that memory depends on."""
        return Serving(
            max_model_len=self.max_model_len,
            max_num_seqs=sequences,
            max_num_batched_tokens=self.batched_tokens(sequences),
            kv_cache_dtype_bytes=self.kv_element_bytes,
            enforce_eager=self.enforce_eager,
            max_loras=self.max_loras,
            max_lora_rank=self.max_lora_rank,
        )

    def footprint(self, sequences: int) -> Footprint:
        """Device memory of the engine when it runs so many sequences at a time."""
        known = self._footprints.get(sequences)
        if known is not None:
            return known
        found = estimate_footprint(self.model, self.serving(sequences), runtime=self.runtime)
        self._footprints[sequences] = found
        return found

    def tenant(
        self, workload: Workload, *, in_flight: float, sequences: int, kv_cache_tokens: int, prefix_hit_rate: float
    ) -> Tenant:
        """One replica as the performance model takes it, with so many requests of the workload's lengths at it."""
        return Tenant(
            model=self.model,
            in_flight=in_flight,
            kv_cache_tokens=kv_cache_tokens,
            max_num_seqs=sequences,
            max_num_batched_tokens=self.batched_tokens(sequences),
            kv_element_bytes=self.kv_element_bytes,
            enforce_eager=self.enforce_eager,
            cpu_cores=self.cpu_cores,
            input_tokens=workload.input_tokens,
            output_tokens=workload.output_tokens,
            prefix_hit_rate=prefix_hit_rate,
        )
