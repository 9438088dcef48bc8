"""What is measured of the replicas and of the GPUs: one frozen sample each, as adapters read them. No rule lives here.

None means unknown: no data, NaN, too old, partial or contradictory. Zero is a measurement. Windows are the adapters'
(in PromQL); their lengths are named here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import exp, inf, log

__all__ = ["LATE", "LONG", "PEAK", "RECENT", "SHORT", "GpuReading", "Latencies", "LoadSample"]

SHORT = timedelta(minutes=1)
"""Rates and percentiles: four scrapes at Prometheus' usual 15 s."""
RECENT = timedelta(seconds=30)
"""Arrivals over the last scrapes: two or three at 15 s."""
LATE = timedelta(minutes=2)
"""Latencies of single requests: long enough for some hundred of them, short enough to show what a change came to."""
PEAK = timedelta(minutes=10)
LONG = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Requests by one latency of theirs: the increase of vLLM's histogram over LATE."""

    at_most: tuple[tuple[float, float], ...]
    """Upper bound of a bucket in seconds, and the requests at or below it; both rise, the last bound is infinite."""

    @property
    def requests(self) -> float:
        """All of them."""
        return self.at_most[-1][1] if self.at_most else 0.0

    @property
    def rises(self) -> bool:
        """Whether it is a histogram at all: bounds above 0 s and counts that rise, up to all of the requests."""
        bounds, counts = [bound for bound, _ in self.at_most], [count for _, count in self.at_most]
        steady = all(one <= other for one, other in pairwise(counts))
        return bool(bounds) and bounds[0] > 0 and bounds[-1] == inf and steady and bounds == sorted(set(bounds))

    def over(self, bound_s: float) -> float | None:
        """Part of the requests above a bound; None without a request, and for a bound within the first bucket.

        Within a bucket the part falls as a power of the latency (a straight line between logarithms), as tails do: a
        line would count most of a wide bucket as late. Where no request is above the bucket, half a one is taken there.
        Beyond the last finite bound all that is above that one counts.
        """
        count, lower, before = self.requests, 0.0, 1.0
        if not count > 0:
            return None
        for upper, within in self.at_most:
            after = 1.0 - within / count
            if bound_s <= upper:
                return _between(bound_s, (lower, before), (upper, max(after, 0.0)), least=0.5 / count)
            lower, before = upper, after
        return None


def _between(at_s: float, low: tuple[float, float], high: tuple[float, float], *, least: float) -> float | None:
    """The part above a latency, of the parts above the bounds of its bucket."""
    (lower, before), (upper, after) = low, high
    if at_s == upper:
        return after
    if lower <= 0.0:
        return None
    if before <= 0.0 or upper == inf:
        return max(0.0, before)
    way = log(at_s / lower) / log(upper / lower)
    return exp(log(before) + way * log(max(after, min(before, least)) / before))


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
    ttft_of: Latencies | None = None
    """By the time to first token; of requests that had theirs within LATE."""
    tpot_of: Latencies | None = None
    """By the mean time of each further token; of requests that ended within LATE."""
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
