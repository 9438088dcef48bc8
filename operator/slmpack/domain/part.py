"""One engine in one replica's part of a GPU: what it holds there at a batch, and the largest batch that it holds."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import ceil

from slmpack.domain.cut import Cut
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.footprint import Footprint
from slmpack.domain.prediction import Tenant
from slmpack.domain.room import Room, make_room
from slmpack.domain.serving import Engine
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, cuda_total_bytes
from slmpack.domain.snapshot import Policy
from slmpack.domain.workload import Workload

__all__ = ["Part", "largest_part", "own_hit_rate", "part_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The engine in one replica's part."""

    engine: Engine
    cut: Cut
    sequences: int
    """--max-num-seqs."""
    room: Room

    @property
    def footprint(self) -> Footprint:
        """Device memory of the engine at this batch."""
        return self.room.footprint

    @property
    def fits(self) -> bool:
        """Whether the part holds what the engine must have."""
        return self.room.fits

    @property
    def settings(self) -> EngineSettings:
        """The flags that keep the engine inside its part."""
        return self.room.settings(
            max_model_len=self.engine.max_model_len,
            max_num_seqs=self.sequences,
            max_num_batched_tokens=self.engine.batched_tokens(self.sequences),
        )

    def tenant(self, workload: Workload, *, in_flight: float, prefix_hit_rate: float) -> Tenant:
        """The replica as the performance model takes it."""
        return self.engine.tenant(
            workload,
            in_flight=in_flight,
            sequences=self.sequences,
            kv_cache_tokens=self.room.kv_cache_tokens,
            prefix_hit_rate=prefix_hit_rate,
        )


def part_at(engine: Engine, cut: Cut, sequences: int, *, kv_tokens: int, policy: Policy) -> Part:
    """The part at a batch; `kv_tokens` are what its KV cache must hold at least."""
    room = make_room(
        cut.share,
        engine.footprint(sequences),
        kv_tokens=kv_tokens,
        loading_bytes=engine.model.loading_bytes,
        ceiling=policy.utilization_ceiling,
        wanted=engine.gpu_memory_utilization,
    )
    return Part(engine=engine, cut=cut, sequences=sequences, room=room)


def largest_part(engine: Engine, cut: Cut, *, live_tokens: float, kv_tokens: int, policy: Policy) -> Part:
    """The part at the largest batch of the knee's grid whose KV cache it holds at the mean length.

    At the batch that somebody gave, where one is given; at the least that is considered where none is held.
    """
    least, most = engine.first_num_seqs, engine.most_num_seqs
    tried = [batch for batch in sorted({most, *policy.choice.knee.grid}) if least < batch <= most]

    def holds_not(batch: int) -> bool:
        part = part_at(engine, cut, batch, kv_tokens=kv_tokens, policy=policy)
        return not (part.fits and part.room.holds(ceil(batch * live_tokens)))

    held = bisect_left(tried, True, key=holds_not)  # a larger batch takes more of everything
    return part_at(engine, cut, tried[held - 1] if held else least, kv_tokens=kv_tokens, policy=policy)


def own_hit_rate(part: Part, workload: Workload, *, policy: Policy) -> float:
    """Prefix hits of one of the part's replicas: they shrink as its KV pool does (the rule of `choice`)."""
    share, room = part.cut.share, part.room
    if part.cut.replicas == 1 or not room.kv_cache_tokens or isinstance(share, MigSlice | DraClaim):
        return workload.prefix_hit_rate
    whole = replace(part.cut, share=Exclusive(resource=share.resource, memory_bytes=cuda_total_bytes(share)))
    alone = part_at(part.engine, whole, part.sequences, kv_tokens=room.kv_tokens, policy=policy)
    return workload.prefix_hit_rate * min(1.0, room.kv_cache_tokens / alone.room.kv_cache_tokens)
