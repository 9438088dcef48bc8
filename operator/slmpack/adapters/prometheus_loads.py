"""Samples from Prometheus' answers: all questions of one round are about one instant, by Prometheus' own clock.

How old a scrape is, is judged by that clock too: a difference to ours changes nothing. What an answer lacks, or says
that cannot be, is unknown with a reason.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from slmpack.adapters.gpu_readings import gpu_readings
from slmpack.adapters.latencies import latencies_of
from slmpack.adapters.loads import (
    FULL,
    NOT_EVERY_REPLICA,
    OVERFULL,
    Found,
    Reading,
    Unknown,
    count_replicas,
    sort_out,
    why_partial,
)
from slmpack.adapters.metric_names import MetricNames
from slmpack.adapters.prometheus import PrometheusClient, Series
from slmpack.adapters.promql import DEPLOYMENT, NOW, EngineQueries, gateway_query, gpu_queries
from slmpack.domain.load import SHORT, Latencies, LoadSample
from slmpack.domain.snapshot import Key
from slmpack.ports import Clock, EnginePod, PortError, Unavailable, Watched

__all__ = ["PrometheusLoads"]

logger = logging.getLogger(__name__)

SECOND = timedelta(seconds=1)
SKEW = timedelta(seconds=30)
"""More between Prometheus' clock and ours is told in the log."""
GPU = "gpu "
GATEWAY = "gateway "
BATCH = 50
"""SLMDeployments in one query to gateways."""
ROUNDING = 1.0
"""Seconds by which a scrape may seem to be later than the instant that was asked about."""
HIGHEST = "kv_usage"
SUMS = {
    "arrivals_s": "arrivals",
    "completions_s": "completions",
    "prompt_tok_s": "prompt_rate",
    "generation_tok_s": "generation_rate",
}
"""By field of LoadSample: the query. Nothing at all runs: they are zero."""
HISTORY = {"arrivals_peak_s": "arrivals_peak", "arrivals_high_s": "arrivals_high", "arrivals_mean_s": "arrivals_mean"}
MEANS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "ttft_s": "ttft",
    "itl_s": "itl",
    "itl_p95_s": "itl_p95",
    "queue_s": "queue",
}
"""NaN where no request came: then there is nothing to know."""
SPARSE = {"arrivals_now_s": "arrivals_now"}
"""No series where scrapes are far apart, which is no trouble."""
LATENCIES = {"ttft_of": "ttft_buckets", "tpot_of": "tpot_buckets"}
"""No series where engines are too old to have the histogram, which is no trouble."""
GAUGES = ("running", "waiting", HIGHEST)

T = TypeVar("T")
Answers = Mapping[str, tuple[Series, ...] | PortError]


class _Engine(NamedTuple):
    """One series of a gauge."""

    pod: Key
    instance: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What all SLMDeployments' samples of one round are made from."""

    at: float
    """Prometheus' now."""
    now: datetime
    """Ours."""
    scraped: Mapping[Key, Mapping[_Engine, float]]
    """By pod: when each of its engines was scraped that was scraped lately."""
    gauges: Mapping[str, Mapping[_Engine, float] | PortError]
    windows: Mapping[str, Mapping[Key, float] | PortError]
    latencies: Mapping[str, Mapping[Key, Latencies | Unknown | None] | PortError]
    gateway: Mapping[Key, float | PortError]
    asked: frozenset[Key]
    """About whom the gateway was asked."""


class PrometheusLoads:
    """`loads.Source` over Prometheus."""

    def __init__(  # noqa: PLR0913 - who is asked, what, and within which bounds
        self,
        client: PrometheusClient,
        *,
        names: MetricNames,
        clock: Clock,
        gateway: str,
        max_age: timedelta,
        deadline: timedelta,
    ) -> None:
        self._client = client
        self._names = names
        self._clock = clock
        self._gateway = gateway
        self._max_age = max_age.total_seconds()
        self._deadline = deadline.total_seconds()
        self._skewed = False

    async def read(self, watched: Watched) -> Reading:
        """Every question once. Raises nothing: what has no answer is unknown."""
        until = asyncio.get_running_loop().time() + self._deadline
        try:
            async with asyncio.timeout_at(until):
                at = await self._present()
        except TimeoutError:
            return Reading(trouble=f"Prometheus did not answer within {self._deadline:g} s")
        except PortError as error:
            return Reading(trouble=str(error))
        answers = await self._ask(self._questions(watched), at, until=until)
        fresh = answers["fresh"]
        if isinstance(fresh, PortError):
            return Reading(trouble=str(fresh))
        about = self._round(watched, answers, fresh, at)
        pods: dict[Key, list[EnginePod]] = defaultdict(list)
        for pod in watched.pods:
            pods[pod.deployment].append(pod)
        gpus = {name.removeprefix(GPU): it for name, it in answers.items() if name.startswith(GPU)}
        return Reading(
            loads={key: _sample(key, pods[key], about) for key in watched.deployments},
            gpus=gpu_readings(
                {name: () if isinstance(it, PortError) else it for name, it in gpus.items()},
                labels=self._names.labels,
                users=watched.gpu_users,
                age_of=lambda then: about.now - timedelta(seconds=at - then) if self._is_fresh(then, at) else None,
            ),
        )

    async def close(self) -> None:
        """Nothing to do: threads that still wait end with their request, or with the process."""

    async def _present(self) -> float:
        found = await self._client.ask(NOW)
        if len(found) != 1 or not math.isfinite(found[0].value):
            raise Unavailable("Prometheus does not tell its time")
        skew = timedelta(seconds=found[0].value - self._clock.now().timestamp())
        if (abs(skew) > SKEW) != self._skewed:
            self._skewed = not self._skewed
            logger.warning(
                "Prometheus' clock differs from ours by %.0f s; ages are judged by its own", abs(skew / SECOND)
            )
        return found[0].value

    def _questions(self, watched: Watched) -> dict[str, str]:
        queries = EngineQueries(names=self._names, deployments=tuple(sorted(watched.deployments)))
        fields = {**{name: name for name in GAUGES}, **SUMS, **HISTORY, **MEANS, **SPARSE, **LATENCIES}
        questions = {field: getattr(queries, query)() for field, query in fields.items()}
        questions |= {f"{GPU}{name}": text for name, text in gpu_queries(self._names).items()}
        if self._gateway:
            for number, keys in enumerate(_batches(watched.scaled)):
                questions[f"{GATEWAY}{number}"] = gateway_query(self._gateway, keys)
        return {"fresh": queries.fresh(), **questions}

    def _is_fresh(self, then: float, at: float) -> bool:
        return -ROUNDING <= at - then <= self._max_age

    def _round(self, watched: Watched, answers: Answers, fresh: tuple[Series, ...], at: float) -> _Round:
        scraped: dict[Key, dict[_Engine, float]] = defaultdict(dict)
        for engine, then in self._engines(fresh):
            if self._is_fresh(then, at):
                scraped[engine.pod][engine] = then
        gauges = {name: _mapped(answers[name], lambda it: dict(self._engines(it))) for name in GAUGES}
        windows = {name: _mapped(answers[name], _by_deployment) for name in (*SUMS, *HISTORY, *MEANS, *SPARSE)}
        latencies = {name: _mapped(answers[name], _latencies) for name in LATENCIES}
        gateway: dict[Key, float | PortError] = {}
        for number, keys in enumerate(_batches(watched.scaled)):
            answer = answers.get(f"{GATEWAY}{number}", ())
            gateway |= dict.fromkeys(keys, answer) if isinstance(answer, PortError) else _by_deployment(answer)
        return _Round(
            at=at,
            now=self._clock.now(),
            scraped=scraped,
            gauges=gauges,
            windows=windows,
            latencies=latencies,
            gateway=gateway,
            asked=watched.scaled if self._gateway else frozenset(),
        )

    async def _ask(
        self, questions: Mapping[str, str], at: float, *, until: float
    ) -> dict[str, tuple[Series, ...] | PortError]:
        """All of them; those without an answer at the deadline (`until`, by the loop's clock) are given up."""
        tasks = {
            name: asyncio.create_task(self._client.ask(text, at=at), name=f"ask {name}")
            for name, text in questions.items()
        }
        try:
            await asyncio.wait(tasks.values(), timeout=max(0.0, until - asyncio.get_running_loop().time()))
        finally:
            for task in tasks.values():
                task.cancel()
        found = await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {name: self._answer(it) for name, it in zip(tasks, found, strict=True)}

    def _answer(self, found: tuple[Series, ...] | BaseException) -> tuple[Series, ...] | PortError:
        if isinstance(found, asyncio.CancelledError):
            return Unavailable(f"no answer within {self._deadline:g} s")
        if isinstance(found, BaseException) and not isinstance(found, PortError):
            raise found
        return found

    def _engines(self, series: Iterable[Series]) -> Iterable[tuple[_Engine, float]]:
        labels = self._names.labels
        for it in series:
            pod = Key(it.labels.get(labels.namespace, ""), it.labels.get(labels.pod, ""))
            yield _Engine(pod, it.labels.get(labels.instance, ""), it.labels.get(labels.engine, "")), it.value


def _sample(key: Key, pods: list[EnginePod], about: _Round) -> LoadSample:
    """Of one SLMDeployment, from the engines of these pods."""
    engines = {engine: then for pod in pods for engine, then in about.scraped.get(pod.key, {}).items()}
    servers = Counter(pod for pod, _ in {(it.pod, it.instance) for it in engines})
    counted = count_replicas(pods, servers, now=about.now)
    known: dict[str, Any] = {}
    troubles = why_partial(counted, pods)
    if not troubles:
        known, troubles = _known(key, tuple(engines), about)
    gateway, no_gateway = _gateway(key, about, anything_runs=bool(pods))
    newest = max(engines.values(), default=about.at)
    return LoadSample(
        at=about.now - timedelta(seconds=about.at - newest),
        reporting=counted.reporting,
        gateway_waiting=gateway,
        trouble=(*troubles, *no_gateway),
        **known,
    )


def _known(key: Key, engines: tuple[_Engine, ...], about: _Round) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of LoadSample, and a sentence for each cause for which some are unknown."""
    found: dict[str, Found] = {name: _gauge(about.gauges[name], engines, highest=name == HIGHEST) for name in GAUGES}
    found |= {field: _window(about.windows[field], key) for field in (*SUMS, *HISTORY)}
    found |= {field: _window(about.windows[field], key, nan_is_nothing=True) for field in MEANS}
    for field, answer in about.latencies.items():
        found[field] = Unknown(str(answer)) if isinstance(answer, PortError) else answer.get(key)
    known, troubles = sort_out(found)
    sparse = {field: _window(about.windows[field], key) for field in SPARSE}
    known |= {field: value for field, value in sparse.items() if isinstance(value, float)}
    return (known, troubles) if engines else ({**dict.fromkeys((*SUMS, "running", "waiting"), 0.0), **known}, ())


def _gauge(answer: Mapping[_Engine, float] | PortError, engines: tuple[_Engine, ...], *, highest: bool) -> Found:
    """Summed over these engines, or the highest part of one."""
    if isinstance(answer, PortError):
        return Unknown(str(answer))
    values = [answer[engine] for engine in engines if engine in answer]
    if len(values) < len(engines):
        return NOT_EVERY_REPLICA
    if not all(_is_possible(value) for value in values):
        return Unknown("a replica tells a value that cannot be")
    if not highest:
        return float(sum(values))
    fullest = max(values, default=None)
    return OVERFULL if fullest is not None and fullest > FULL else fullest


def _window(answer: Mapping[Key, float] | PortError, key: Key, *, nan_is_nothing: bool = False) -> Found:
    """What PromQL made of a window."""
    if isinstance(answer, PortError):
        return Unknown(str(answer))
    value = answer.get(key)
    if value is None:
        return Unknown(f"no such series, or not two scrapes of it within {SHORT.total_seconds():g} s")
    if nan_is_nothing and math.isnan(value):
        return None
    return value if _is_possible(value) else Unknown("a value that cannot be")


def _gateway(key: Key, about: _Round, *, anything_runs: bool) -> tuple[float | None, tuple[str, ...]]:
    """Requests that wait before the engines. That nobody tells matters only where nothing runs that could be asked."""
    value = about.gateway.get(key)
    if key not in about.asked:
        return None, ()
    if isinstance(value, PortError):
        return None, (f"gateway_waiting: {value}",)
    if value is not None and _is_possible(value):
        return value, ()
    return None, () if anything_runs else ("gateway_waiting: nothing runs, and no gateway tells of requests that wait",)


def _mapped(answer: tuple[Series, ...] | PortError, read: Callable[[tuple[Series, ...]], T]) -> T | PortError:
    return answer if isinstance(answer, PortError) else read(answer)


def _by_deployment(answer: tuple[Series, ...]) -> dict[Key, float]:
    return {Key(it.labels.get("namespace", ""), it.labels.get(DEPLOYMENT, "")): it.value for it in answer}


def _latencies(answer: tuple[Series, ...]) -> dict[Key, Latencies | Unknown | None]:
    buckets: dict[Key, list[tuple[str, float]]] = defaultdict(list)
    for it in answer:
        key = Key(it.labels.get("namespace", ""), it.labels.get(DEPLOYMENT, ""))
        buckets[key].append((it.labels.get("le", ""), it.value))
    return {key: latencies_of(increases) for key, increases in buckets.items()}


def _batches(keys: Iterable[Key]) -> Iterable[list[Key]]:
    ordered = sorted(keys)
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def _is_possible(value: float) -> bool:
    return math.isfinite(value) and value >= 0
