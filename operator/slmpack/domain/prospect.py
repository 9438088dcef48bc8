"""One engine in one part of a GPU: what it holds there at a batch, and the largest batch whose KV cache it holds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from slmpack.domain.engine import EngineRuntime
from slmpack.domain.footprint import Footprint, Serving, estimate_footprint
from slmpack.domain.model import ModelProfile
from slmpack.domain.prediction import Tenant
from slmpack.domain.sharing import Exclusive, MigSlice, cuda_total_bytes
from slmpack.domain.snapshot import Policy
from slmpack.domain.whatif import Cut, Room, make_room
from slmpack.domain.workload import Workload

__all__ = ["Engine", "Part", "largest_part", "own_hit_rate", "part_at", "tenant_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A model and the settings that somebody gave; None where they are ours to choose."""

    model: ModelProfile
    runtime: EngineRuntime
    max_model_len: int
    max_num_seqs: int | None
    max_num_batched_tokens: int
    """At least; a larger batch takes as many tokens."""
    kv_element_bytes: int
    enforce_eager: bool
    gpu_memory_utilization: float | None
    cpu_cores: float
    _footprints: dict[int, Footprint] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Worked out once for each batch: a search over many GPUs asks again and again."""

    def batched_tokens(self, sequences: int) -> int:
        """Tokens of one step: vLLM wants one for each sequence at least."""
        return max(self.max_num_batched_tokens, sequences)

    def serving(self, sequences: int) -> Serving:
        """The settings that memory depends on."""
        return Serving(
            max_model_len=self.max_model_len,
            max_num_seqs=sequences,
            max_num_batched_tokens=self.batched_tokens(sequences),
            kv_cache_dtype_bytes=self.kv_element_bytes,
            enforce_eager=self.enforce_eager,
        )

    def footprint(self, sequences: int) -> Footprint:
        """Device memory of the engine when it runs so many sequences at a time."""
        known = self._footprints.get(sequences)
        if known is not None:
            return known
        found = estimate_footprint(self.model, self.serving(sequences), runtime=self.runtime)
        self._footprints[sequences] = found
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The engine in one replica's part."""

    cut: Cut
    sequences: int
    """--max-num-seqs."""
    max_model_len: int
    footprint: Footprint
    room: Room

    @property
    def needed_bytes(self) -> int:
        """The least that a share must hold: the KV cache of one request of max_model_len in it."""
        return self.footprint.total_bytes(self.max_model_len)

    @property
    def fits(self) -> bool:
        """Whether the engine would start there."""
        return self.room.shortfall is None


def part_at(engine: Engine, cut: Cut, sequences: int, *, policy: Policy) -> Part:
    """The part at a batch."""
    footprint = engine.footprint(sequences)
    room = make_room(
        cut,
        footprint,
        max_model_len=engine.max_model_len,
        ceiling=policy.utilization_ceiling,
        wanted=engine.gpu_memory_utilization,
    )
    return Part(cut=cut, sequences=sequences, max_model_len=engine.max_model_len, footprint=footprint, room=room)


def largest_part(engine: Engine, cut: Cut, *, grid: Sequence[int], live_tokens: float, policy: Policy) -> Part:
    """The part at the largest batch of the grid whose KV cache it holds at the mean length.

    At the batch that somebody gave, where one is given; at the least that is considered where none is held.
    """
    if engine.max_num_seqs is not None:
        return part_at(engine, cut, engine.max_num_seqs, policy=policy)
    tried = [batch for batch in sorted(grid) if policy.least_num_seqs < batch <= policy.max_num_seqs]

    def holds_not(batch: int) -> bool:
        part = part_at(engine, cut, batch, policy=policy)
        short = part.room.kv_cache_tokens < batch * live_tokens
        return not part.fits or (short and engine.model.kv_elements_per_token > 0)

    held = bisect_left(tried, True, key=holds_not)  # a larger batch takes more of everything
    return part_at(engine, cut, tried[held - 1] if held else policy.least_num_seqs, policy=policy)


def own_hit_rate(engine: Engine, part: Part, workload: Workload, *, policy: Policy) -> float:
    """Prefix hits of one of the part's replicas: they shrink as its KV pool does (the rule of `choice`)."""
    if part.cut.replicas == 1 or not part.room.kv_cache_tokens or isinstance(part.cut.share, MigSlice):
        return workload.prefix_hit_rate
    whole = Exclusive(resource=part.cut.share.resource, memory_bytes=cuda_total_bytes(part.cut.share))
    pool = part_at(engine, replace(part.cut, share=whole), part.sequences, policy=policy).room.kv_cache_tokens
    return workload.prefix_hit_rate * min(1.0, part.room.kv_cache_tokens / pool)


def tenant_of(
    engine: Engine, part: Part, workload: Workload, *, in_flight: float, prefix_hit_rate: float | None = None
) -> Tenant:
    """The part's replica as the performance model takes it; without its own prefix hits, those of the workload."""
    return Tenant(
        model=engine.model,
        in_flight=in_flight,
        kv_cache_tokens=part.room.kv_cache_tokens,
        max_num_seqs=part.sequences,
        max_num_batched_tokens=engine.batched_tokens(part.sequences),
        kv_element_bytes=engine.kv_element_bytes,
        enforce_eager=engine.enforce_eager,
        cpu_cores=engine.cpu_cores,
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        prefix_hit_rate=workload.prefix_hit_rate if prefix_hit_rate is None else prefix_hit_rate,
    )
