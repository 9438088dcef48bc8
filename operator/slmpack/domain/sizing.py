"""From a demand to what one replica needs, and from a share to the engine flags that keep the replica inside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor
from typing import assert_never

from slmpack.domain.engine import kv_element_bytes
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.footprint import KV_BLOCK_TOKENS, Footprint, Serving, estimate_footprint
from slmpack.domain.gpu import GpuCatalogue
from slmpack.domain.model import ModelProfile
from slmpack.domain.quantity import MIB, format_bytes
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare, Share, cuda_total_bytes, limit_bytes
from slmpack.domain.snapshot import Demand, ModelUnknown, Policy, ReplicaRecord

__all__ = [
    "Need",
    "at_batch",
    "batch_limits",
    "fit_settings",
    "is_eager",
    "kv_bytes_of",
    "kv_pool_tokens",
    "nearest_fit",
    "need_bytes",
    "size_replica",
    "usable_bytes",
]

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

    def requests(self, resource: str) -> dict[str, int]:
        """What its pod takes of a node."""
        return {resource: 1, "cpu": self.cpu_millicores, "memory": self.memory_bytes, "pods": 1}


def size_replica(demand: Demand, policy: Policy, records: Iterable[ReplicaRecord]) -> Need | Problem:
    """The least need, by the model's config; while that is unknown, what replicas of the same spec were placed with."""
    model = demand.model
    if isinstance(model, ModelUnknown):
        known = next((r for r in records if r.spec_hash == demand.spec_hash and r.footprint and r.max_model_len), None)
        if known is None or known.footprint is None or known.max_model_len is None:
            return Problem(reason=model.reason, message=model.message, field="spec.model.source")
        sequences = known.max_num_seqs or batch_limits(demand, policy)[0]
        return _need(
            demand, policy, footprint=known.footprint, max_model_len=known.max_model_len, max_num_seqs=sequences
        )
    length = demand.max_model_len or min(model.max_positions, policy.default_max_model_len)
    if length > model.max_positions:
        return _too_long(length, model)
    least, _ = batch_limits(demand, policy)
    serving = _serving(demand, model, policy, max_model_len=length, max_num_seqs=least)
    footprint = estimate_footprint(model, serving, runtime=policy.engines.runtime_for(demand.engine_version))
    return _need(demand, policy, footprint=footprint, max_model_len=length, max_num_seqs=least)


def _need(demand: Demand, policy: Policy, *, footprint: Footprint, max_model_len: int, max_num_seqs: int) -> Need:
    live = round(batch_limits(demand, policy)[0] * demand.workload.live_tokens)
    return Need(
        footprint=footprint,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(_batched_tokens(demand, policy), max_num_seqs),
        kv_tokens=max(max_model_len, live),
        cpu_millicores=demand.cpu_millicores,
        memory_bytes=demand.memory_bytes,
        loading_bytes=0 if isinstance(demand.model, ModelUnknown) else demand.model.loading_bytes,
    )


def fit_settings(share: Share, need: Need, policy: Policy) -> EngineSettings | None:
    """The flags that keep the engine inside its share, or None if its KV cache would be too small there.

    vLLM's budget is utilisation x CUDA's total, and its start-up check counts the context as taken already, so
    utilisation <= (limit - what lies outside the budget) / total, rounded down (facts: vLLM 0.33.0 `request_memory`).
    """
    footprint, total = need.footprint, cuda_total_bytes(share)
    utilization = _utilization(share, footprint, policy)
    if utilization <= 0:
        return None
    kv_bytes = int(utilization * total) - footprint.fixed_inside_bytes
    if kv_bytes < footprint.kv_bytes(need.kv_tokens) or limit_bytes(share) < _while_loading(need):
        return None
    match share:
        case Exclusive() | MigSlice():
            stated_kv = None  # alone on its device: vLLM measures what is left, which is better than our estimate
        case MpsShare():
            block = footprint.kv_bytes_per_token * KV_BLOCK_TOKENS
            stated_kv = kv_bytes // block * block if block else None  # an encoder has no KV cache
        case _:
            assert_never(share)
    return EngineSettings(
        gpu_memory_utilization=utilization,
        kv_cache_memory_bytes=stated_kv,
        max_model_len=need.max_model_len,
        max_num_seqs=need.max_num_seqs,
        max_num_batched_tokens=need.max_num_batched_tokens,
    )


def kv_pool_tokens(share: Share, need: Need, policy: Policy) -> int:
    """KV cache tokens that an engine of this need has room for in a share, by estimate; 0 where it does not fit."""
    footprint = need.footprint
    budget = int(max(0.0, _utilization(share, footprint, policy)) * cuda_total_bytes(share))
    left = max(0, budget - footprint.fixed_inside_bytes)
    return left // max(1, footprint.kv_bytes_per_token) // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS


def usable_bytes(share: Share, need: Need, policy: Policy) -> int:
    """What a replica may take of a share: vLLM's budget there, and what lies outside of it."""
    budget = int(max(0.0, _utilization(share, need.footprint, policy)) * cuda_total_bytes(share))
    return min(limit_bytes(share), budget + need.footprint.outside_bytes)


def _utilization(share: Share, footprint: Footprint, policy: Policy) -> float:
    budget = limit_bytes(share) - footprint.outside_bytes
    return floor(min(policy.utilization_ceiling, budget / cuda_total_bytes(share)) * 1000) / 1000


def need_bytes(need: Need) -> int:
    """Device memory that a share must at least have, in bytes."""
    return max(need.footprint.total_bytes(need.kv_tokens), _while_loading(need))


def _while_loading(need: Need) -> int:
    return need.loading_bytes + need.footprint.non_torch_bytes + need.footprint.context_bytes


def nearest_fit(need: Need, policy: Policy) -> str:
    """The smallest MIG slice and the smallest whole GPU of the catalogue that would hold the replica."""
    options = [
        next((name for share, name in sorted(kind, key=_by_size) if fit_settings(share, need, policy)), None)
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


def at_batch(need: Need, demand: Demand, policy: Policy, *, max_num_seqs: int) -> Need:
    """The need of an engine that runs so many sequences at a time; while the model is unknown, the need as it is."""
    if isinstance(demand.model, ModelUnknown) or max_num_seqs == need.max_num_seqs:
        return need
    serving = _serving(demand, demand.model, policy, max_model_len=need.max_model_len, max_num_seqs=max_num_seqs)
    return replace(
        need,
        footprint=estimate_footprint(demand.model, serving, runtime=policy.engines.runtime_for(demand.engine_version)),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=serving.max_num_batched_tokens,
    )


def batch_limits(demand: Demand, policy: Policy) -> tuple[int, int]:
    """The least and the most sequences that an engine may run at a time: the user's --max-num-seqs is both."""
    args = dict(demand.engine_args)
    given, tokens = args.get("--max-num-seqs"), args.get("--max-num-batched-tokens")
    if given:
        return int(given), int(given)
    most = min(policy.max_num_seqs, int(tokens or policy.max_num_seqs))
    return min(policy.least_num_seqs, most), most


def is_eager(demand: Demand) -> bool:
    """Whether the engine runs without CUDA graphs."""
    return "--enforce-eager" in dict(demand.engine_args)


def _serving(demand: Demand, model: ModelProfile, policy: Policy, *, max_model_len: int, max_num_seqs: int) -> Serving:
    args = dict(demand.engine_args)
    return Serving(
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(_batched_tokens(demand, policy), max_num_seqs),
        kv_cache_dtype_bytes=kv_bytes_of(demand, model),
        enforce_eager=is_eager(demand),
        max_loras=int(args.get("--max-loras") or DEFAULT_MAX_LORAS) if "--enable-lora" in args else 0,
        max_lora_rank=int(args.get("--max-lora-rank") or DEFAULT_LORA_RANK) if "--enable-lora" in args else 0,
    )


def kv_bytes_of(demand: Demand, model: ModelProfile) -> int:
    """Bytes of one element of the engine's KV cache."""
    return kv_element_bytes(dict(demand.engine_args).get("--kv-cache-dtype"), model_dtype_bytes=model.dtype_bytes)


def _batched_tokens(demand: Demand, policy: Policy) -> int:
    return int(dict(demand.engine_args).get("--max-num-batched-tokens") or policy.max_num_batched_tokens)


def _too_long(length: int, model: ModelProfile) -> Problem:
    return Problem(
        reason=Reason.MODEL_LEN_TOO_LONG,
        field="spec.engine.maxModelLen",
        message=f"spec.engine.maxModelLen: {length} is more than the model's {model.max_positions} positions; "
        f"at most {model.max_positions} works",
    )
