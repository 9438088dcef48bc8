"""What the operator would be told by a Prometheus that scrapes the simulated replicas and GPUs.

Windows and figures are those of adapters/promql.py, over scrapes every 15 s. A replica is scraped while it is ready or
ends: until then its port refuses connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf

import numpy as np
from numpy.typing import NDArray

from slmpack.domain.load import LATE, LONG, PEAK, RECENT, SHORT, GpuReading, Latencies, LoadSample
from slmpack.domain.snapshot import Key
from slmpack.simulate.readings import ITL_BUCKETS, QUEUE_BUCKETS, TTFT_BUCKETS, Scrape
from slmpack.simulate.windows import Series, histogram_quantile, quantile

__all__ = ["EPOCH", "LAG_S", "SCRAPE_S", "GpuPlace", "Signals"]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When every trace begins."""
SCRAPE_S = 15.0
LAG_S = 1.0
"""From a scrape to the first answer that knows of it."""
STALE_S = 300.0
"""Prometheus' lookback; a replica that has gone is marked stale by the next scrape."""
STEP_S = 15.0
LONG_STEPS = 2
"""Of the subqueries of adapters/promql.py: 15 s over PEAK, twice that over LONG."""
POWER_WINDOW_S = 120.0
PERCENTILE = 0.95
HIGH = 0.99
_RECENT, _SHORT = RECENT.total_seconds(), SHORT.total_seconds()
_LATE, _PEAK, _LONG = LATE.total_seconds(), PEAK.total_seconds(), LONG.total_seconds()

Floats = NDArray[np.float64]

COMPLETIONS, PROMPT, GENERATION, ITL_SUM, QUEUE_SUM = range(5)
"""Places in a replica's vector of counters; the buckets of TTFT, ITL, queue time and time per output token follow."""
TTFT = slice(5, 5 + len(TTFT_BUCKETS) + 1)
ITL = slice(TTFT.stop, TTFT.stop + len(ITL_BUCKETS) + 1)
QUEUE = slice(ITL.stop, ITL.stop + len(QUEUE_BUCKETS) + 1)
TPOT = slice(QUEUE.stop, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlace:
    """What names a GPU to the operator."""

    node: str
    cut: bool
    """Into MIG instances: profiling metrics are then per instance, and no whole GPU's."""


@dataclass(slots=True, kw_only=True)
class _Replica:
    tenant: int
    counters: Series = field(default_factory=lambda: Series(keep_s=_PEAK + SCRAPE_S))
    gauges: Series = field(default_factory=lambda: Series(keep_s=_SHORT + SCRAPE_S))
    """Running, waiting, KV usage."""
    seen: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Tenant:
    replicas: dict[int, _Replica] = field(default_factory=dict)
    arrivals: deque[tuple[float, float]] = field(default_factory=deque)
    """At each step within LONG: the rate of arrivals over SHORT."""


class Signals:
    """Scrapes in, samples out."""

    def __init__(self, keys: Sequence[Key], gpus: Sequence[GpuPlace]) -> None:
        self._keys = tuple(keys)
        self._tenants = [_Tenant() for _ in keys]
        self._places = tuple(gpus)
        self._boards = Series(keep_s=POWER_WINDOW_S + SCRAPE_S)
        """Joules and seconds of work, by GPU."""
        self._scraped: deque[tuple[float, Scrape]] = deque()
        self._next_step = STEP_S

    def take(self, scrape: Scrape) -> None:
        """A scrape of everything."""
        self._scraped.append((scrape.at, scrape))
        while len(self._scraped) > 2 and self._scraped[1][0] <= scrape.at - LAG_S:
            self._scraped.popleft()
        self._boards.put(scrape.at, np.concatenate([scrape.joules, scrape.active]))
        for place in np.flatnonzero(scrape.ready | scrape.ending).tolist():
            tenant, name = int(scrape.tenant[place]), int(scrape.replica[place])
            known = self._tenants[tenant].replicas
            replica = known.setdefault(name, _Replica(tenant=tenant))
            replica.counters.put(scrape.at, _counters(scrape, place))
            gauges = (scrape.running[place], scrape.waiting[place], scrape.kv_usage[place])
            replica.gauges.put(scrape.at, np.array(gauges, dtype=np.float64))
            replica.seen = scrape.at
        for one in self._tenants:
            gone = [name for name, it in one.replicas.items() if it.seen < scrape.at - _PEAK - SCRAPE_S]
            for name in gone:
                del one.replicas[name]
        self._step(scrape.at)

    def loads(self, now: float) -> dict[Key, LoadSample]:
        """Of every SLMDeployment of which there is a scrape."""
        at = self.newest(now)
        if at is None:
            return {}
        self._step(now)
        return {key: self._load(tenant, at, now) for tenant, key in enumerate(self._keys)}

    def gpus(self, now: float, *, pods: Mapping[int, tuple[str, ...]]) -> tuple[GpuReading, ...]:
        """Of every GPU, in order."""
        at = self.newest(now)
        if at is None:
            return ()
        count = len(self._places)
        watts, busy = self._boards.rate(now, POWER_WINDOW_S), self._boards.rate(now, _SHORT)
        return tuple(
            GpuReading(
                node=place.node,
                uuid=f"GPU-{gpu}",
                at=EPOCH + timedelta(seconds=at),
                power_w=None if watts is None else float(watts[gpu]),
                gr_engine_active=None if busy is None or place.cut else min(1.0, float(busy[count + gpu])),
                pods=pods.get(gpu, ()) if place.cut else pods.get(gpu, ())[:1],
            )
            for gpu, place in enumerate(self._places)
        )

    def newest(self, now: float) -> float | None:
        """When the newest scrape was that an answer knows of."""
        return next((at for at, _ in reversed(self._scraped) if at <= now - LAG_S), None)

    def _known(self, now: float) -> Scrape:
        return next(scrape for at, scrape in reversed(self._scraped) if at <= now - LAG_S)

    def _step(self, now: float) -> None:
        """Bring the subqueries' points up to date; their steps are aligned to the epoch."""
        while self._next_step <= now:
            at = self._next_step
            for one in self._tenants:
                rate = _arrivals(one, at)
                if rate is not None:
                    one.arrivals.append((at, rate))
                while one.arrivals and one.arrivals[0][0] <= at - _LONG:
                    one.arrivals.popleft()
            self._next_step += STEP_S

    def _load(self, tenant: int, at: float, now: float) -> LoadSample:
        one, seen = self._tenants[tenant], now - LAG_S
        gauges = [
            value for it in one.replicas.values() if (value := it.gauges.last(seen, within_s=SCRAPE_S)) is not None
        ]
        short, peak, late = (_rates(one, seen, window) for window in (_SHORT, _PEAK, _LATE))
        points = [(when, rate) for when, rate in one.arrivals if when <= now]
        long = [rate for when, rate in points if round(when / STEP_S) % LONG_STEPS == 0]
        none = None if gauges else 0.0
        """What nothing that runs has done: as adapters/prometheus_loads.py reads it."""
        return LoadSample(
            at=EPOCH + timedelta(seconds=at),
            reporting=len(gauges),
            running=float(sum(value[0] for value in gauges)),
            waiting=float(sum(value[1] for value in gauges)),
            arrivals_s=_or(_arrivals(one, seen), none),
            arrivals_now_s=_arrivals(one, seen, _RECENT),
            arrivals_peak_s=max((rate for when, rate in points if when > now - _PEAK), default=None),
            arrivals_high_s=quantile(HIGH, long) if long else None,
            arrivals_mean_s=sum(long) / len(long) if long else None,
            completions_s=none if short is None else float(short[COMPLETIONS]),
            input_tokens=_mean(peak, PROMPT, COMPLETIONS),
            output_tokens=_mean(peak, GENERATION, COMPLETIONS),
            prompt_tok_s=none if short is None else float(short[PROMPT]),
            generation_tok_s=none if short is None else float(short[GENERATION]),
            kv_usage=max((float(value[2]) for value in gauges), default=None),
            ttft_s=None if short is None else histogram_quantile(PERCENTILE, TTFT_BUCKETS, short[TTFT]),
            itl_s=_mean_of(short, ITL_SUM, ITL),
            itl_p95_s=None if short is None else histogram_quantile(PERCENTILE, ITL_BUCKETS, short[ITL]),
            queue_s=_mean_of(short, QUEUE_SUM, QUEUE),
            ttft_of=None if late is None else _latencies(TTFT_BUCKETS, late[TTFT]),
            tpot_of=None if late is None else _latencies(ITL_BUCKETS, late[TPOT]),
            gateway_waiting=float(self._known(now).gateway_waiting[tenant]),
        )


def _latencies(bounds: Sequence[float], rates: Floats) -> Latencies | None:
    """None where no request was counted."""
    within = np.cumsum(rates) * _LATE
    return Latencies(at_most=tuple(zip((*bounds, inf), within.tolist(), strict=True))) if within[-1] > 0 else None


def _or(value: float | None, other: float | None) -> float | None:
    return other if value is None else value


def _counters(scrape: Scrape, place: int) -> Floats:
    scalars = (
        scrape.completions[place],
        scrape.prompt_tokens[place],
        scrape.generation_tokens[place],
        scrape.itl.sums[place],
        scrape.queue.sums[place],
    )
    histograms = (scrape.ttft, scrape.itl, scrape.queue, scrape.tpot)
    buckets = (each.counts[place] for each in histograms)
    return np.concatenate([np.array(scalars, dtype=np.float64), *buckets])


def _rates(tenant: _Tenant, now: float, window_s: float) -> Floats | None:
    """The sum over the replicas that have two samples in the window; None where none has."""
    found = [rate for it in tenant.replicas.values() if (rate := it.counters.rate(now, window_s)) is not None]
    return np.sum(found, axis=0) if found else None


def _arrivals(tenant: _Tenant, now: float, window_s: float = _SHORT) -> float | None:
    """Completions, and the change of running and waiting; never below 0."""
    rates = [
        float(rate[COMPLETIONS] + slope[0] + slope[1])
        for it in tenant.replicas.values()
        if (rate := it.counters.rate(now, window_s)) is not None
        and (slope := it.gauges.slope(now, window_s)) is not None
    ]
    return max(0.0, sum(rates)) if rates else None


def _mean(rates: Floats | None, total: int, count: int) -> float | None:
    return None if rates is None or not rates[count] > 0 else float(rates[total] / rates[count])


def _mean_of(rates: Floats | None, total: int, buckets: slice) -> float | None:
    if rates is None:
        return None
    count = float(np.sum(rates[buckets]))
    return float(rates[total]) / count if count > 0 else None
