"""What the performance model is asked and what it answers: values only, no rule."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from slmpack.domain.gpu import GpuModel, MigProfile
from slmpack.domain.interval import Interval
from slmpack.domain.model import ModelProfile

__all__ = ["GpuPrediction", "Sharing", "Site", "Tenant", "TenantPrediction"]


class Sharing(Enum):
    """How the replicas of one GPU (or of one MIG instance) take turns on it."""

    NONE = "none"
    """One replica has the device to itself."""
    MIG = "mig"
    """Each replica has an instance to itself; instances share power and clock only."""
    MPS = "mps"
    """Kernels of several replicas run at once; memory bandwidth is shared."""
    TIMESLICE = "timeslice"
    """The driver gives the device to one process at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where replicas run."""

    gpu: GpuModel
    sharing: Sharing
    mig_profile: MigProfile | None = None
    """With Sharing.MIG: the instance that each replica has."""
    sm_percent: int | None = None
    """CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, a ceiling of 1 to 100 for each replica; None: no ceiling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One replica on the site, with its settings and the requests that it serves at a time."""

    model: ModelProfile
    in_flight: float
    """Requests in flight at this replica, running and waiting."""
    kv_cache_tokens: int
    """Its KV pool."""
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_element_bytes: int
    enforce_eager: bool
    cpu_cores: float
    input_tokens: int
    output_tokens: int
    prefix_hit_rate: float
    """Of this replica's own prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPrediction:
    """One replica in the steady state."""

    throughput_tok_s: Interval
    """Output tokens a second."""
    itl_s: Interval
    """Mean inter-token latency."""
    itl_p99_s: Interval
    ttft_s: Interval
    """Mean time to first token, queueing included."""
    effective_batch: float
    """Sequences that decode at a time: what is left of in_flight after max_num_seqs and the KV pool."""
    preemption: Interval
    """Part of the requests, 0 to 1, whose KV cache is thrown out at least once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPrediction:
    """The whole physical GPU: with MIG, all instances that the site's tenants fill."""

    tenants: tuple[TenantPrediction, ...]
    throughput_tok_s: Interval
    power_w: Interval
    energy_j_per_token: Interval
