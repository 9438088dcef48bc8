"""What the simulated cluster shows: a scrape of its metrics at a time, and the outcome of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ITL_BUCKETS", "QUEUE_BUCKETS", "TTFT_BUCKETS", "Histograms", "Outcome", "Scrape"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
ITL_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
QUEUE_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
"""Upper bounds in seconds of vLLM's histograms (its own /metrics); one more bucket, +Inf, follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histograms:
    """One histogram for each replica of a scrape, cumulative since the replica began."""

    counts: Ints
    """[replica, bucket]: observations in each bucket, not below it; the last one is +Inf."""
    sums: Floats
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """Metrics at one time: arrays by replica that holds a place (in the order of their ids), by GPU, by tenant.

    Counters are cumulative since the replica began, as vLLM's are. A starting replica shows zeros.
    """

    at: float
    replica: Ints
    """Ids, as Cluster.add gave them; starting, ready and ending ones."""
    tenant: Ints
    gpu: Ints
    ready: Bools
    """In the Service. Neither ready nor ending: starting."""
    ending: Bools
    """Removed, but with requests left."""
    running: Ints
    waiting: Ints
    kv_usage: Floats
    """0 to 1."""
    completions: Ints
    preemptions: Ints
    prompt_tokens: Ints
    generation_tokens: Ints
    ttft: Histograms
    """From the request's arrival at the replica (as vLLM measures; not the wait at the gateway)."""
    tpot: Histograms
    """By request that ended: the mean of its time for each further token; the buckets are those of `itl`."""
    itl: Histograms
    queue: Histograms
    watts: Floats
    """By GPU: of the board, over the moment before `at` (a second, or since the last change)."""
    joules: Floats
    """By GPU: of the board since 0 s, also while it is empty."""
    active: Floats
    """By GPU: seconds since 0 s in which any engine had work."""
    gateway_waiting: Ints
    """By tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of everything until `at`. Sums only grow, so a warm-up is taken away by subtraction."""

    at: float
    ttft_s: Floats
    """By request of the trace, from its arrival, wait at the gateway included; NaN: no token yet, or rejected."""
    tpot_s: Floats
    """By request: mean seconds a token after the first; 0 with one token, NaN: not finished, or rejected."""
    output_tokens: Ints
    """By request: made so far."""
    finished: Bools
    rejected: Bools
    replica: Ints
    """By request: that serves it; -1: none yet, or rejected."""
    preemptions: Ints
    """By request."""
    itl_bounds: Floats
    """Seconds: upper bounds of the bins of `itl_counts`, 2 % apart; one more bin follows."""
    itl_counts: Ints
    """[tenant, bin]: tokens."""
    gpu_s: Floats
    """By GPU: seconds with any starting, ready or ending replica."""
    joules: Floats
    """By GPU: of the board since 0 s, also while it is empty."""
    replica_s: Floats
    """By replica: seconds from its creation to its end."""
    replica_tenant: Ints
    replica_gpu: Ints
