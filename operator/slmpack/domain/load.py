"""What is measured of the replicas and of the GPUs: one frozen sample each, as adapters read them. No rule lives here.

None means unknown: no data, NaN, too old, partial or contradictory. Zero is a measurement. Windows are the adapters'
(in PromQL); their lengths are named here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["LONG", "PEAK", "RECENT", "SHORT", "GpuReading", "LoadSample"]

SHORT = timedelta(minutes=1)
"""Rates and percentiles: four scrapes at Prometheus' usual 15 s."""
RECENT = timedelta(seconds=30)
"""Arrivals over the last scrapes: two or three at 15 s."""
PEAK = timedelta(minutes=10)
LONG = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """One SLMDeployment's load; sums over its replicas but where it says otherwise. Seconds, tokens, requests."""

    at: datetime
    """When the newest scrape behind it was taken."""
    reporting: int
    """Replicas with a fresh scrape."""
    running: float | None = None
    """Requests in an engine's batch, now."""
    waiting: float | None = None
    """Requests that wait in an engine's queue, now."""
    arrivals_s: float | None = None
    """Requests a second over SHORT: completions, and the change of running and waiting (D8a)."""
    arrivals_now_s: float | None = None
    """The same over RECENT, which sees a rise sooner and chance more; None too where scrapes are too far apart."""
    arrivals_peak_s: float | None = None
    """The highest of those rates within PEAK."""
    arrivals_high_s: float | None = None
    """Their 99th percentile within LONG; of what there is, where the series are younger."""
    arrivals_mean_s: float | None = None
    """Their mean within LONG."""
    completions_s: float | None = None
    """Requests finished a second, over SHORT."""
    input_tokens: float | None = None
    """Mean tokens of a prompt, over PEAK; None too where no request came."""
    output_tokens: float | None = None
    """Mean tokens of an answer, over PEAK; None too where no request ended."""
    prompt_tok_s: float | None = None
    generation_tok_s: float | None = None
    """Tokens a second over SHORT."""
    kv_usage: float | None = None
    """Of the fullest replica, 0 to 1, now."""
    ttft_s: float | None = None
    """95th percentile of the time to first token over SHORT; None too where no request came."""
    itl_s: float | None = None
    """Mean inter-token latency over SHORT."""
    itl_p95_s: float | None = None
    queue_s: float | None = None
    """Mean time in the queue over SHORT."""
    gateway_waiting: float | None = None
    """Requests that a gateway holds, or could not hand over within SHORT; None where no gateway is asked."""
    trouble: tuple[str, ...] = ()
    """Why something is unknown, for people; empty where all that traffic allows is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One physical GPU, as dcgm-exporter sees it. Power is the board's, whoever uses it."""

    node: str
    uuid: str
    at: datetime
    power_w: float | None = None
    """The rate of the energy counter over two minutes (it is read every 30 s), else the gauge's mean over SHORT."""
    gr_engine_active: float | None = None
    dram_active: float | None = None
    """Parts of the time, 0 to 1, over SHORT; of MIG instances their mean by slices is not known and left out."""
    fb_used_bytes: int | None = None
    xid: int | None = None
    """Of an error within SHORT; None: none was seen."""
    pods: tuple[str, ...] = ()
    """namespace/name of the pods that the exporter attributes it to; under sharing without virtual GPUs only one, or
    another each time."""
