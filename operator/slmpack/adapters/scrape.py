"""The replicas' own /metrics, where no Prometheus is configured.

The windows are a ring of samples in this process: after a restart of the operator, or a change of its leader, they
start anew, and what they say of an hour is of what there is. GPUs are not measured this way: power is unknown.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import aiohttp

from slmpack.adapters.loads import Reading, count_replicas, sort_out, why_partial
from slmpack.adapters.metric_names import EngineNames
from slmpack.adapters.pod_session import pod_session
from slmpack.adapters.scrape_windows import Figures, History, Ring, figures_of, read_figures
from slmpack.domain.load import LoadSample
from slmpack.domain.snapshot import Key
from slmpack.ports import Clock, EnginePod, Unavailable, Watched

__all__ = ["ReplicaScraper"]

AT_ONCE = 16
LARGEST_BYTES = 4 * 1024 * 1024


class ReplicaScraper:
    """`loads.Source` over the replicas of SLMDeployments with spec.scaling."""

    def __init__(
        self, *, names: EngineNames, clock: Clock, timeout: timedelta, deadline: timedelta, proxy: str | None = None
    ) -> None:
        self._names = names
        self._clock = clock
        self._timeout = timeout.total_seconds()
        self._deadline = deadline.total_seconds()
        self._proxy = proxy
        self._rings: dict[tuple[str, int], Ring] = {}
        self._arrivals: dict[Key, History] = defaultdict(History)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def read(self, watched: Watched) -> Reading:
        """Every engine once. Raises nothing: one that does not answer is not heard."""
        pods = tuple(pod for pod in watched.pods if pod.deployment in watched.scaled)
        due = [(pod, port) for pod in pods if pod.ready and pod.address for port in pod.ports]
        heard, why = await self._scrape(due)
        now = self._clock.monotonic()
        for pod, port in heard:
            ring = self._rings.setdefault((pod.uid, port), Ring(deployment=pod.deployment))
            ring.add(now, heard[pod, port])
        self._forget(now, watched)
        counts = Counter(pod.key for pod, _ in heard)
        if due and not heard:
            return Reading(trouble=f"no replica answers: {why}")
        return Reading(loads={key: self._sample(key, pods, counts, now) for key in watched.scaled})

    async def _scrape(self, due: list[tuple[EnginePod, int]]) -> tuple[dict[tuple[EnginePod, int], Figures], str]:
        """What each said, and why the first of the others said nothing."""
        tasks = [asyncio.create_task(self._one(pod.address, port), name=f"scrape {pod.key}") for pod, port in due]
        if tasks:
            try:
                await asyncio.wait(tasks, timeout=self._deadline)
            finally:
                for task in tasks:
                    task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        failed = (it for it in found if isinstance(it, BaseException) and not isinstance(it, asyncio.CancelledError))
        heard = {at: it for at, it in zip(due, found, strict=True) if not isinstance(it, BaseException)}
        return heard, next((str(it) or type(it).__name__ for it in failed), "no time was left")

    async def _one(self, address: str, port: int) -> Figures:
        """Raises Unavailable."""
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{port}/metrics"
        try:
            async with (
                self._slots,
                asyncio.timeout(self._timeout),
                self._open().get(url, proxy=self._proxy, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise Unavailable(f"{url} answered {response.status}")
                return read_figures(await _text(response.content, url), self._names)
        except TimeoutError as error:
            raise Unavailable(f"{url} did not answer within {self._timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{url}: {str(error) or type(error).__name__}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = pod_session(**{"Accept": "text/plain", "Accept-Encoding": "identity"})
        return self._session

    def _forget(self, now: float, watched: Watched) -> None:
        """Engines that are gone count as long as they are within a window."""
        rings = {at: ring for at, ring in self._rings.items() if ring.deployment in watched.scaled}
        self._rings = {at: ring for at, ring in rings.items() if ring.forget(now)}
        for key in self._arrivals.keys() - watched.scaled:
            del self._arrivals[key]

    def _sample(self, key: Key, all_pods: tuple[EnginePod, ...], heard: Mapping[Key, int], now: float) -> LoadSample:
        pods = tuple(pod for pod in all_pods if pod.deployment == key)
        counted = count_replicas(pods, heard, now=self._clock.now())
        known: dict[str, Any] = {}
        troubles = why_partial(counted, pods)
        if not troubles:
            found = figures_of([ring for ring in self._rings.values() if ring.deployment == key], now)
            known, troubles = sort_out({**found, **self._arrivals[key].add(found["arrivals_s"], now)})
        return LoadSample(
            at=self._clock.now(),
            reporting=counted.reporting,
            trouble=troubles if counted.reporting else why_partial(counted, pods),
            **known,
        )


async def _text(content: aiohttp.StreamReader, url: str) -> str:
    found = bytearray()
    async for chunk in content.iter_chunked(65536):
        found += chunk
        if len(found) > LARGEST_BYTES:
            raise Unavailable(f"{url}: its answer is longer than {LARGEST_BYTES} bytes")
    return found.decode()
