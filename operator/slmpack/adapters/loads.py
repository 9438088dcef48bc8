"""The newest measurements of every SLMDeployment and GPU: asked for in the background, held while they are fresh.

Whatever goes wrong becomes something unknown with its reason. Neither a source that hangs nor one that breaks reaches
the planner's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, Self

from slmpack.domain.load import GpuReading, Latencies, LoadSample
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Key
from slmpack.ports import Clock, EnginePod, Watched

__all__ = [
    "FULL",
    "NOT_EVERY_REPLICA",
    "OVERFULL",
    "Counted",
    "Found",
    "LoadPoller",
    "Reading",
    "Source",
    "Unknown",
    "count_replicas",
    "sort_out",
    "why_partial",
]

logger = logging.getLogger(__name__)

NEW = timedelta(seconds=45)
"""An engine that has become Ready is found by Prometheus and scraped within this; it has not served much before."""
SHOWN = 3
APART = timedelta(seconds=1)
"""Two scrapes of an engine are further apart; the time of one is known less well, as two clocks tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one round of questions brought."""

    loads: Mapping[Key, LoadSample] = field(default_factory=dict)
    gpus: tuple[GpuReading, ...] = ()
    trouble: str = ""
    """Why nothing could be measured; empty where something was."""


class Source(Protocol):
    """Prometheus, or the replicas themselves."""

    async def read(self, watched: Watched) -> Reading:
        """One round. Takes a bounded time."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many of an SLMDeployment's engines were heard."""

    reporting: int
    trouble: str = ""
    """Why the sum over them is not the sum over all; empty if it is."""


def count_replicas(pods: Iterable[EnginePod], heard: Mapping[Key, int], *, now: datetime) -> Counted:
    """`heard` says how many engines of a pod have a fresh scrape. One that has just become Ready is not missed yet."""
    reporting, missing, doubled = 0, [], []
    ready = 0
    for pod in pods:
        found = heard.get(pod.key, 0)
        reporting += min(found, pod.engines)
        ready += pod.ready
        if found > pod.engines:
            doubled.append(f"{pod.key.name} with {found} instead of {pod.engines}")
        is_new = pod.ready_since is not None and now - pod.ready_since < NEW
        if found < pod.ready and not is_new:
            missing.append(pod.key.name)
    if doubled:
        return Counted(
            reporting=reporting,
            trouble=f"more engines report than there are ({_some(doubled)}): is a pod scraped under two addresses?",
        )
    if missing:
        return Counted(
            reporting=reporting,
            trouble=f"{reporting} of {ready} Ready replicas report: no fresh scrape of {_some(missing)}",
        )
    return Counted(reporting=reporting)


def why_partial(counted: Counted, pods: Iterable[EnginePod]) -> tuple[str, ...]:
    """Why nothing is known of all engines, though something may be of some."""
    if counted.trouble:
        return (counted.trouble,)
    if not counted.reporting and any(pod.ready for pod in pods):
        return ("no replica has been scraped since it became Ready",)
    return ()


class Unknown(NamedTuple):
    """A value that should be there, and is not."""

    why: str


FULL = 1.001
"""A KV cache cannot be fuller, but for rounding."""
OVERFULL = Unknown("a KV cache more than full")
NOT_EVERY_REPLICA = Unknown("not every replica tells it")
Found = float | Latencies | Unknown | None
"""None: there is nothing to know, as no request came."""


def sort_out(found: Mapping[str, Found]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is known of these fields of LoadSample, and one sentence for each cause for which some are not."""
    known = {name: value for name, value in found.items() if not isinstance(value, Unknown)}
    causes: dict[str, list[str]] = defaultdict(list)
    for name, value in found.items():
        if isinstance(value, Unknown):
            causes[value.why].append(name)
    return known, tuple(f"{', '.join(names)}: {why}" for why, names in causes.items())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(sorted(names)[:SHOWN])}{more}"


class LoadPoller:
    """`ports.Loads`. Use it as an async context manager. `wake` is called when there is something new to decide on."""

    def __init__(
        self, source: Source, *, wake: Callable[[], object], clock: Clock, period: timedelta, keep: timedelta
    ) -> None:
        self._source = source
        self._wake = wake
        self._clock = clock
        self._period = period
        self._keep = keep
        self._watched = Watched()
        self._risen: dict[str, tuple[int, datetime | None]] = {}
        self._due = asyncio.Event()
        self._loads: dict[Key, LoadSample] = {}
        self._told: dict[Key, LoadSample] = {}
        """As they were when the loop was woken last."""
        self._gpus: dict[str, GpuReading] = {}
        self._trouble = "nothing has been measured yet"
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._poll(), name="loads")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._source.close()

    def watch(self, watched: Watched) -> None:
        """Note what exists; a new SLMDeployment or engine is asked about at once."""
        pods = tuple(self._with_rise(pod) for pod in watched.pods)
        self._risen = {pod.uid: (pod.ready, pod.ready_since) for pod in pods}
        before, self._watched = self._watched, replace(watched, pods=pods)
        if watched.deployments - before.deployments or _engines(self._watched) - _engines(before):
            self._due.set()

    def samples(self) -> Mapping[Key, LoadSample]:
        """Those that are fresh, of SLMDeployments that exist."""
        there = self._watched.deployments
        return {key: it for key, it in self._loads.items() if key in there and self._is_fresh(it.at)}

    def gpus(self) -> tuple[GpuReading, ...]:
        """Those that are fresh."""
        return tuple(it for it in self._gpus.values() if self._is_fresh(it.at))

    def blind(self) -> Problem | None:
        """Why there is nothing."""
        if not self._watched.deployments or self.samples():
            return None
        return Problem(reason=Reason.METRICS_UNKNOWN, message=self._trouble or "what was measured is too old by now")

    def _is_fresh(self, at: datetime) -> bool:
        return self._clock.now() - at <= self._keep

    def _with_rise(self, pod: EnginePod) -> EnginePod:
        """When engines of a pack become Ready later than its pod, that is when they are new."""
        known = self._risen.get(pod.uid)
        if known is None:
            return pod
        ready, since = known
        return replace(pod, ready_since=self._clock.now() if pod.ready > ready else since)

    async def _poll(self) -> None:
        while True:
            self._due.clear()
            if self._watched.deployments:
                await self._ask()
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period.total_seconds()):
                    await self._due.wait()

    async def _ask(self) -> None:
        try:
            reading = await self._source.read(self._watched)
        except Exception as error:  # a bug must not blind the operator for ever
            logger.exception("measuring failed")
            reading = Reading(trouble=f"{type(error).__name__}: {error}")
        said = self._trouble
        self._say(reading.trouble)
        now = self._watched.deployments
        self._loads = {key: it for key, it in {**self._loads, **reading.loads}.items() if key in now}
        gpus = {**self._gpus, **{it.uuid: it for it in reading.gpus}}
        self._gpus = {uuid: it for uuid, it in gpus.items() if self._is_fresh(it.at)}
        if self._trouble != said or _is_news(self._told, self._loads):
            self._told = self._loads
            self._wake()

    def _say(self, trouble: str) -> None:
        """One line in the log for each change."""
        if trouble and trouble != self._trouble:
            logger.warning("nothing is measured: %s", trouble)
        elif self._trouble and not trouble:
            logger.info("loads are measured")
        self._trouble = trouble


def _is_news(before: Mapping[Key, LoadSample], now: Mapping[Key, LoadSample]) -> bool:
    """Whether there is a newer scrape of any: windows that only moved on tell nothing. GPUs come along with them."""
    return before.keys() != now.keys() or any(_is_newer(before[key], it) for key, it in now.items())


def _is_newer(before: LoadSample, now: LoadSample) -> bool:
    def instant(sample: LoadSample) -> tuple[object, ...]:
        return sample.reporting, sample.running, sample.waiting, sample.gateway_waiting, sample.trouble

    return abs(now.at - before.at) >= APART or instant(before) != instant(now)


def _engines(watched: Watched) -> set[tuple[str, int]]:
    return {(pod.uid, engine) for pod in watched.pods for engine in range(pod.ready)}
