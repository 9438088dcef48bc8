"""What was seen of an engine, scrape by scrape, and what follows from it: PromQL's windows, done by hand.

Rates are a counter's growth between the first and the last scrape within a window, over the time between the two;
a counter that falls began anew at zero.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from slmpack.adapters.latencies import latencies_of
from slmpack.adapters.loads import FULL, NOT_EVERY_REPLICA, OVERFULL, Found, Unknown
from slmpack.adapters.metric_names import EngineNames
from slmpack.domain.load import LATE, LONG, PEAK, RECENT, SHORT
from slmpack.domain.snapshot import Key

__all__ = ["Figures", "History", "Ring", "figures_of", "read_figures"]

SLACK = 1.0
"""Seconds by which a round may be late and still be within its window."""
HISTOGRAMS = ("request_prompt_tokens", "request_generation_tokens", "ttft", "itl", "queue_time")
QUANTILES = ("ttft", "itl")
BUCKETS_ONLY = ("tpot",)
FIGURES = tuple(EngineNames.model_fields)
BUCKET = "_bucket"
QUANTILE = 0.95
HIGH_QUANTILE = 0.99
TWICE = Unknown("two rounds of scrapes are needed")

LARGEST = 1e15
"""No figure of an engine is as large."""
LONGEST_LINE = 4096
MOST_LINES = 4096
"""Of those that we read; an engine has a few hundred, of a few hundred characters. The parser takes time in the square
of a line's length, and holds up the operator meanwhile."""

Figures = Mapping[str, float]
"""Of one engine at one time: by the names of EngineNames; of histograms with _sum, _count and _bucket:BOUND."""
Scrapes = deque[tuple[float, Figures]]


@dataclass(slots=True)
class Ring:
    """What was seen of one engine; times are the monotonic clock's."""

    deployment: Key
    counters: Scrapes = field(default_factory=deque)
    """Over PEAK."""
    buckets: Scrapes = field(default_factory=deque)
    """Over LATE: they are many."""

    def add(self, at: float, figures: Figures) -> None:
        """A new scrape."""
        self.counters.append((at, {name: value for name, value in figures.items() if BUCKET not in name}))
        self.buckets.append((at, {name: value for name, value in figures.items() if BUCKET in name}))

    def forget(self, now: float) -> bool:
        """Drop what no window holds any more; False if nothing is left."""
        _drop(self.counters, now - _seconds(PEAK))
        _drop(self.buckets, now - _seconds(LATE))
        return bool(self.counters)

    @property
    def newest(self) -> Figures:
        """The last scrape's."""
        return self.counters[-1][1]

    @property
    def last(self) -> float:
        """When that was."""
        return self.counters[-1][0]


class History:
    """Arrival rates of one SLMDeployment, round by round."""

    def __init__(self) -> None:
        self._rates: deque[tuple[float, float]] = deque()

    def add(self, arrivals: Found, now: float) -> dict[str, Found]:
        """The fields of LoadSample about PEAK and LONG."""
        if isinstance(arrivals, float):
            self._rates.append((now, arrivals))
        while self._rates and self._rates[0][0] < now - _seconds(LONG):
            self._rates.popleft()
        rates = [rate for _, rate in self._rates]
        recent = [rate for at, rate in self._rates if at >= now - _seconds(PEAK)]
        if not recent:
            return dict.fromkeys(("arrivals_peak_s", "arrivals_high_s", "arrivals_mean_s"), TWICE)
        return {
            "arrivals_peak_s": max(recent),
            "arrivals_high_s": _quantile_of(sorted(rates), HIGH_QUANTILE),
            "arrivals_mean_s": sum(rates) / len(rates),
        }


def read_figures(text: str, names: EngineNames) -> Figures:
    """Sums over the engines of one server (data parallelism), of kv_usage the highest; ValueError for no exposition."""
    wanted = tuple(f"{name}{part}" for figure in FIGURES for name in getattr(names, figure) for part in _parts(figure))
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    if len(lines) > MOST_LINES or any(len(line) > LONGEST_LINE for line in lines):
        raise ValueError(f"it has more than {MOST_LINES} lines of ours, or one of more than {LONGEST_LINE} characters")
    series: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for family in text_string_to_metric_families("".join(f"{line}\n" for line in lines)):
        for sample in family.samples:
            series[sample.name].append((sample.labels.get("le", ""), sample.value))
    found: dict[str, float] = {}
    for figure in FIGURES:
        for part in _parts(figure):
            name = next((f"{it}{part}" for it in getattr(names, figure) if f"{it}{part}" in series), "")
            for bound, value in series[name]:
                if not 0 <= value < LARGEST or (part == BUCKET and not float(bound) >= 0):
                    raise ValueError(f"{name} is {value}{bound and f' up to {bound}'}, which cannot be")
                key = f"{figure}{part}:{bound}" if part == BUCKET else f"{figure}{part}"
                found[key] = max(found.get(key, 0.0), value) if figure == "kv_usage" else found.get(key, 0.0) + value
    if "running" not in found:
        raise ValueError(f"it has no {' and no '.join(names.running)}")
    return found


def _parts(figure: str) -> tuple[str, ...]:
    if figure in BUCKETS_ONLY:
        return (BUCKET,)
    if figure not in HISTOGRAMS:
        return ("",)
    return ("_sum", "_count", BUCKET) if figure in QUANTILES else ("_sum", "_count")


def figures_of(rings: Sequence[Ring], now: float) -> dict[str, Found]:
    """Fields of LoadSample from what was seen of one SLMDeployment's engines; those that were seen now are alive.

    Empty for one of which nothing runs but `running`, `waiting` and the rates, which are zero.
    """
    alive = [ring for ring in rings if ring.last == now]
    rates = {
        "completions_s": _rate(rings, "finished", now),
        "prompt_tok_s": _rate(rings, "prompt_tokens", now),
        "generation_tok_s": _rate(rings, "generation_tokens", now),
        "arrivals_s": _arrivals(rings, now),
    }
    if not alive:
        return {
            "running": 0.0,
            "waiting": 0.0,
            **{name: it if isinstance(it, float) else 0.0 for name, it in rates.items()},
        }
    recent = _arrivals(rings, now, RECENT)
    return {
        "running": _now(alive, "running"),
        "waiting": _now(alive, "waiting"),
        "arrivals_now_s": recent if isinstance(recent, float) else None,
        "kv_usage": _fullest(alive),
        **rates,
        "input_tokens": _mean(rings, "request_prompt_tokens", now, PEAK),
        "output_tokens": _mean(rings, "request_generation_tokens", now, PEAK),
        "ttft_s": _quantile(rings, "ttft", now),
        "itl_s": _mean(rings, "itl", now, SHORT),
        "itl_p95_s": _quantile(rings, "itl", now),
        "queue_s": _mean(rings, "queue_time", now, SHORT),
        "ttft_of": _late(rings, "ttft", now),
        "tpot_of": _late(rings, "tpot", now),
    }


def _now(alive: Iterable[Ring], name: str) -> Found:
    values = [ring.newest.get(name) for ring in alive]
    return NOT_EVERY_REPLICA if None in values else float(sum(value for value in values if value is not None))


def _fullest(alive: Iterable[Ring]) -> Found:
    values = [ring.newest.get("kv_usage") for ring in alive]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return NOT_EVERY_REPLICA
    return max(known) if max(known) <= FULL else OVERFULL


def _rate(rings: Iterable[Ring], name: str, now: float, window: timedelta = SHORT) -> Found:
    rates = [_growth(ring.counters, name, now, window) for ring in rings]
    known = [rate for rate in rates if rate is not None]
    return float(sum(known)) if known else TWICE


def _arrivals(rings: Iterable[Ring], now: float, window: timedelta = SHORT) -> Found:
    rates = []
    for ring in rings:
        scrapes = _within(ring.counters, now, window)
        finished = _growth(ring.counters, "finished", now, window)
        if finished is None:
            continue
        first, last = scrapes[0][1], scrapes[-1][1]
        if not all(name in figures for name in ("running", "waiting") for figures in (first, last)):
            return NOT_EVERY_REPLICA
        change = last["running"] + last["waiting"] - first["running"] - first["waiting"]
        rates.append(finished + change / _span(scrapes, now, window))
    return max(0.0, sum(rates)) if rates else TWICE


def _mean(rings: Iterable[Ring], name: str, now: float, window: timedelta) -> Found:
    """None where nothing was counted."""
    total, count = (_rate(rings, f"{name}_{part}", now, window) for part in ("sum", "count"))
    if not isinstance(total, float) or not isinstance(count, float):
        return TWICE
    return total / count if count else None


def _quantile(rings: Iterable[Ring], name: str, now: float) -> Found:
    """As PromQL's histogram_quantile; None where nothing was counted."""
    rates: dict[float, float] = defaultdict(float)
    known = False
    for ring in rings:
        if len(_within(ring.buckets, now, SHORT)) < 2:
            continue
        for bucket in (it for it in ring.buckets[-1][1] if it.startswith(f"{name}{BUCKET}:")):
            rates[float(bucket.rpartition(":")[2])] += _growth(ring.buckets, bucket, now, SHORT) or 0.0
            known = True
    return _interpolated(sorted(rates.items())) if known else TWICE


def _interpolated(buckets: list[tuple[float, float]]) -> float | None:
    wanted = QUANTILE * buckets[-1][1]
    if wanted <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def _late(rings: Iterable[Ring], name: str, now: float) -> Found:
    """None too where no engine has the histogram. Of engines of two versions the bounds that both have are told."""
    grown = [it for it in (_bucket_growth(ring.buckets, f"{name}{BUCKET}:", now) for ring in rings) if it]
    bounds = set.intersection(*map(set, grown)) if grown else set[str]()
    return latencies_of((bound, sum(it[bound] for it in grown)) for bound in bounds)


def _bucket_growth(scrapes: Scrapes, prefix: str, now: float) -> dict[str, float]:
    """By bound, over LATE; empty without two scrapes. Where one bucket falls, all of the engine's began anew."""
    inside = _within(scrapes, now, LATE)
    seen = [
        {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}
        for _, figures in inside
    ]
    grown = dict.fromkeys(seen[-1], 0.0) if len(seen) > 1 else {}
    for before, after in pairwise(seen):
        anew = any(after.get(bound, 0.0) < value for bound, value in before.items())
        for bound in grown:
            grown[bound] += after.get(bound, 0.0) - (0.0 if anew else before.get(bound, 0.0))
    return grown


def _growth(scrapes: Scrapes, name: str, now: float, window: timedelta) -> float | None:
    """A second; None without two scrapes that have it. A counter that an engine does not have yet is at zero."""
    inside = _within(scrapes, now, window)
    if len(inside) < 2 or name not in inside[-1][1]:
        return None
    values = [figures.get(name, 0.0) for _, figures in inside]
    grown = sum(after - before if after >= before else after for before, after in pairwise(values))
    return grown / _span(inside, now, window)


def _within(scrapes: Scrapes, now: float, window: timedelta) -> list[tuple[float, Figures]]:
    return [it for it in scrapes if it[0] >= now - _seconds(window) - SLACK]


def _span(scrapes: Sequence[tuple[float, Figures]], now: float, window: timedelta) -> float:
    """Of an engine that is gone the whole window: its growth is spread over it, as PromQL does."""
    first, last = scrapes[0][0], scrapes[-1][0]
    return last - first if last == now else max(last - first, _seconds(window))


def _drop(scrapes: Scrapes, before: float) -> None:
    while scrapes and scrapes[0][0] < before - SLACK:
        scrapes.popleft()


def _quantile_of(values: list[float], quantile: float) -> float:
    """As PromQL's quantile_over_time: linear between neighbours."""
    rank = quantile * (len(values) - 1)
    low = math.floor(rank)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (rank - low)


def _seconds(window: timedelta) -> float:
    return window.total_seconds()
