"""From a demand to what one replica needs: its engine, its device memory, its part of the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slmpack.domain.engine import EngineVersion, kv_element_bytes
from slmpack.domain.footprint import Footprint
from slmpack.domain.gpu import GpuCatalogue
from slmpack.domain.model import ModelProfile, Task
from slmpack.domain.quantity import MIB, format_bytes
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.room import Room, least_bytes, make_room
from slmpack.domain.serving import Engine
from slmpack.domain.sharing import Exclusive, MigSlice, Share, limit_bytes
from slmpack.domain.snapshot import Demand, ModelUnknown, Policy, ReplicaRecord

__all__ = ["Need", "engine_of", "make_engine", "nearest_fit", "need_bytes", "room_in", "size_replica"]

DEFAULT_MAX_LORAS, DEFAULT_LORA_RANK = 1, 16
"""vLLM's defaults of --max-loras and --max-lora-rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one replica of a deployment needs."""

    footprint: Footprint
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int
    """KV cache tokens that must fit at least: one request of maxModelLen, and the least batch at the mean length."""
    cpu_millicores: int
    memory_bytes: int
    loading_bytes: int = 0
    """Weights on the device while they are loaded: more than afterwards where vLLM quantises them itself."""

    def requests(self, resource: str, *, engines: int = 1) -> dict[str, int]:
        """What a pod with so many engines takes of a node: each has cores and host memory of its own (D6a)."""
        cpu, memory = engines * self.cpu_millicores, engines * self.memory_bytes
        return {resource: 1, "cpu": cpu, "memory": memory, "pods": 1}


def size_replica(demand: Demand, policy: Policy, records: Iterable[ReplicaRecord]) -> Need | Problem:
    """The least need, by the model's config; while that is unknown, what replicas of the same spec were placed with."""
    engine = engine_of(demand, policy)
    if isinstance(engine, Engine):
        sequences = engine.first_num_seqs
        return Need(
            footprint=engine.footprint(sequences),
            max_model_len=engine.max_model_len,
            max_num_seqs=sequences,
            max_num_batched_tokens=engine.batched_tokens(sequences),
            kv_tokens=engine.least_kv_tokens(demand.workload.live_tokens),
            cpu_millicores=demand.cpu_millicores,
            memory_bytes=demand.memory_bytes,
            loading_bytes=engine.model.loading_bytes,
        )
    known = next((r for r in records if r.spec_hash == demand.spec_hash and r.footprint and r.max_model_len), None)
    if not isinstance(demand.model, ModelUnknown) or known is None or not known.footprint or not known.max_model_len:
        return engine
    return _need_as_recorded(demand, known.footprint, known.max_model_len, known.max_num_seqs, policy)


def _need_as_recorded(
    demand: Demand, footprint: Footprint, max_model_len: int, max_num_seqs: int | None, policy: Policy
) -> Need:
    given, tokens = _batching(demand)
    least, _ = _batch_limits(given, tokens, policy)
    sequences = max_num_seqs or given or least
    return Need(
        footprint=footprint,
        max_model_len=max_model_len,
        max_num_seqs=sequences,
        max_num_batched_tokens=max(tokens or policy.max_num_batched_tokens, sequences),
        kv_tokens=max(max_model_len, round(least * demand.workload.live_tokens)),
        cpu_millicores=demand.cpu_millicores,
        memory_bytes=demand.memory_bytes,
    )


def engine_of(demand: Demand, policy: Policy) -> Engine | Problem:
    """The engine that a demand asks for; a Problem where the model is unknown or its context too short."""
    model, args = demand.model, dict(demand.engine_args)
    if isinstance(model, ModelUnknown):
        return Problem(reason=model.reason, message=model.message, field="spec.model.source")
    length = demand.max_model_len or min(model.max_positions, policy.default_max_model_len)
    if length > model.max_positions:
        return _too_long(length, model)
    asked = demand.workload.input_tokens + demand.workload.output_tokens
    if asked > length and model.task is Task.GENERATE:
        return _workload_too_long(asked, length, model)
    given, tokens = _batching(demand)
    lora = "--enable-lora" in args
    return make_engine(
        model,
        demand.engine_version,
        policy,
        max_model_len=length,
        max_num_seqs=given,
        max_num_batched_tokens=tokens,
        kv_cache_dtype=args.get("--kv-cache-dtype"),
        enforce_eager="--enforce-eager" in args,
        cpu_cores=demand.cpu_millicores / 1000,
        max_loras=int(args.get("--max-loras") or DEFAULT_MAX_LORAS) if lora else 0,
        max_lora_rank=int(args.get("--max-lora-rank") or DEFAULT_LORA_RANK) if lora else 0,
    )


def make_engine(  # noqa: PLR0913 - one for each flag
    model: ModelProfile,
    version: EngineVersion,
    policy: Policy,
    *,
    max_model_len: int,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    kv_cache_dtype: str | None,
    enforce_eager: bool,
    cpu_cores: float,
    gpu_memory_utilization: float | None = None,
    max_loras: int = 0,
    max_lora_rank: int = 0,
) -> Engine:
    """The engine with these flags; None where they are ours to choose."""
    least, most = _batch_limits(max_num_seqs, max_num_batched_tokens, policy)
    return Engine(
        model=model,
        runtime=policy.engines.runtime_for(version),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        least_num_seqs=least,
        most_num_seqs=most,
        max_num_batched_tokens=max_num_batched_tokens or policy.max_num_batched_tokens,
        kv_element_bytes=kv_element_bytes(kv_cache_dtype, model_dtype_bytes=model.dtype_bytes),
        enforce_eager=enforce_eager,
        cpu_cores=cpu_cores,
        gpu_memory_utilization=gpu_memory_utilization,
        max_loras=max_loras,
        max_lora_rank=max_lora_rank,
    )


def _batching(demand: Demand) -> tuple[int | None, int | None]:
    """The user's --max-num-seqs and --max-num-batched-tokens."""
    args = dict(demand.engine_args)
    given, tokens = args.get("--max-num-seqs"), args.get("--max-num-batched-tokens")
    return int(given) if given else None, int(tokens) if tokens else None


def _batch_limits(given: int | None, tokens: int | None, policy: Policy) -> tuple[int, int]:
    """The sequences that a share must hold at least, and the largest batch that is considered."""
    most = given or min(policy.max_num_seqs, tokens or policy.max_num_seqs)
    return min(policy.least_num_seqs, most), most


def room_in(share: Share, need: Need, policy: Policy) -> Room:
    """What a replica of this need may take of a share, and whether it fits."""
    return make_room(
        share,
        need.footprint,
        kv_tokens=need.kv_tokens,
        loading_bytes=need.loading_bytes,
        ceiling=policy.utilization_ceiling,
    )


def need_bytes(need: Need) -> int:
    """Device memory that a share must at least have, in bytes."""
    return least_bytes(need.footprint, kv_tokens=need.kv_tokens, loading_bytes=need.loading_bytes)


def nearest_fit(need: Need, policy: Policy) -> str:
    """The smallest MIG slice and the smallest whole GPU of the catalogue that would hold the replica."""
    options = [
        next((name for share, name in sorted(kind, key=_by_size) if room_in(share, need, policy).fits), None)
        for kind in _catalogue_shares(policy.gpus)
    ]
    return " or ".join(option for option in options if option) or "no GPU of the catalogue"


def _by_size(option: tuple[Share, str]) -> tuple[int, str]:
    return limit_bytes(option[0]), option[1]


def _catalogue_shares(catalogue: GpuCatalogue) -> tuple[list[tuple[Share, str]], list[tuple[Share, str]]]:
    slices: list[tuple[Share, str]] = [
        (
            MigSlice(resource="", profile=p.name, memory_bytes=p.memory_mib * MIB),
            f"a {p.name} slice of {gpu.id} ({format_bytes(p.memory_mib * MIB)})",
        )
        for gpu in catalogue.models
        for p in gpu.mig_profiles
        if p.memory_mib
    ]
    gpus: list[tuple[Share, str]] = [
        (Exclusive(resource="", memory_bytes=size), f"a whole {gpu.id} ({format_bytes(size)})")
        for gpu in catalogue.models
        for size in (gpu.cuda_total_mib * MIB,)
    ]
    return slices, gpus


def _workload_too_long(asked: int, length: int, model: ModelProfile) -> Problem:
    works = f"set spec.engine.maxModelLen to {asked} or more"
    if asked > model.max_positions:
        works = f"the model has {model.max_positions} positions: state shorter requests, or take another model"
    return Problem(
        reason=Reason.WORKLOAD_TOO_LONG,
        field="spec.workload",
        message=f"spec.workload: inputTokens and outputTokens are {asked} together, more than the {length} tokens that "
        f"the engine takes (maxModelLen); {works}",
    )


def _too_long(length: int, model: ModelProfile) -> Problem:
    return Problem(
        reason=Reason.MODEL_LEN_TOO_LONG,
        field="spec.engine.maxModelLen",
        message=f"spec.engine.maxModelLen: {length} is more than the model's {model.max_positions} positions; "
        f"at most {model.max_positions} works",
    )
