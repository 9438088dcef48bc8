"""The sweep: one point after another, each watched through the engine's own metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from slmpack.adapters.openai_endpoint import OpenAiEndpoint
from slmpack.api.profile import FaultDocument, PointDocument
from slmpack.cli.profile_load import ClientWatch, Load, Shape
from slmpack.domain.profile_faults import EngineSample, Evidence, FaultPolicy, Sighting, find_faults
from slmpack.ports import Invalid, PortError

__all__ = ["Limits", "Sweep", "SweepStoppedError", "Teller", "find_vocabulary", "require_idle"]

VOCABULARIES = (30_000, 8_000, 1_000, 256)
"""Sizes that are tried, the largest first: the API does not tell the model's."""
BUFFERED = (
    "all tokens of a request came at once, so their latency cannot be told; something between here and the engine"
    " buffers the stream"
)
IDLE_SECONDS = 5.0
IDLE_POLL_SECONDS = 0.05


class SweepStoppedError(Exception):
    """The sweep cannot go on; the message says why and at which concurrency."""


class Teller(Protocol):
    """Who shows the progress."""

    def step(self, concurrency: int, repeat: int) -> None:
        """A point's warm-up (0) or a repeat of it has ended."""
        ...

    def measured(self, point: PointDocument) -> None:
        """A point is complete."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the sweep may take, and what spoils a point."""

    max_seconds: float
    """Of the whole sweep."""
    point_seconds: float
    """Of one point, warm-up included."""
    poll_seconds: float
    """Between two looks at the metrics."""
    faults: FaultPolicy = field(default_factory=FaultPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All that the points have in common."""

    endpoint: OpenAiEndpoint
    model: str
    """As requests call it."""
    max_num_seqs: int | None
    shape: Shape
    limits: Limits
    keep: Callable[[PointDocument], object]
    """Called with each point as soon as it is complete."""
    teller: Teller

    async def run(self, grid: Sequence[int]) -> str | None:
        """Measure the points in turn; why it ended early, or None."""
        try:
            async with asyncio.timeout(self.limits.max_seconds):
                for concurrency in grid:
                    point = await self._measure(concurrency)
                    self.keep(point)
                    self.teller.measured(point)
        except TimeoutError:
            return f"the {self.limits.max_seconds:g} s of --max-seconds are over"
        except (SweepStoppedError, PortError) as error:
            return str(error)
        return None

    async def _measure(self, concurrency: int) -> PointDocument:
        before = await _when_idle(self.endpoint)
        send = partial(self.endpoint.complete, model=self.model)
        step = partial(self.teller.step, concurrency)
        load = Load(send, concurrency=concurrency, shape=self.shape, on_repeat=step)
        try:
            async with asyncio.timeout(self.limits.point_seconds), asyncio.TaskGroup() as group:
                tasks = [group.create_task(load.work(index)) for index in range(concurrency)]
                await load.warm.wait()
                watch = ClientWatch()
                tasks.append(group.create_task(watch.probe()))
                sightings, missed = await self._look_on(load)
                busy, lag = watch.busy, watch.lag_s
                for task in tasks:
                    task.cancel()
        except TimeoutError as error:
            limit = f"{self.limits.point_seconds:g} s of --point-seconds"
            raise SweepStoppedError(f"{concurrency} in flight: not measured within the {limit}") from error
        if load.failure is not None:
            raise SweepStoppedError(f"{concurrency} in flight: {load.failure}")
        itls = [itl for repeat in load.repeats for itl in repeat.itls]
        if not itls:
            raise SweepStoppedError(f"{concurrency} in flight: {BUFFERED}")
        evidence = Evidence(
            concurrency=concurrency,
            max_num_seqs=self.max_num_seqs,
            before=before,
            sightings=sightings,
            missed=missed,
            itl_s=sum(itls) / len(itls),
            client_busy=busy,
            client_lag_s=lag,
            errors=load.errors,
            last_error=load.last_error,
        )
        return _point(load, evidence, itls=itls, policy=self.limits.faults)

    async def _look_on(self, load: Load) -> tuple[tuple[Sighting, ...], int]:
        """The engine's metrics from the end of the warm-up to the end of the last repeat, and how many looks failed."""
        found: list[Sighting] = []
        missed = 0
        while True:
            last = load.done.is_set()
            try:
                engine = await self.endpoint.sample()
            except PortError as error:
                load.give_up(str(error))
                break
            if engine is None:
                missed += 1
            else:
                found.append(Sighting(engine=engine, received_tokens=load.received))
            if last:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.poll_seconds):
                    await load.done.wait()
        return tuple(found), missed


async def require_idle(endpoint: OpenAiEndpoint) -> None:
    """Raises SweepStoppedError if the server is serving others, PortError if it does not answer."""
    if (busy := _in_flight(await _when_idle(endpoint))) > 0:
        raise SweepStoppedError(
            f"{endpoint.url} is serving {busy:.0f} requests of others; profile a replica that nobody uses"
        )


async def find_vocabulary(endpoint: OpenAiEndpoint, *, model: str) -> int:
    """Below which number token ids are known to the model. It is a first request and warms it up. Raises PortError."""
    for size in VOCABULARIES[:-1]:
        with suppress(Invalid):
            await endpoint.complete([size - 1] * 4, model=model, output_tokens=2, on_tokens=lambda _: None)
            return size
    size = VOCABULARIES[-1]
    await endpoint.complete([size - 1] * 4, model=model, output_tokens=2, on_tokens=lambda _: None)
    return size


async def _when_idle(endpoint: OpenAiEndpoint) -> EngineSample | None:
    """The engine's metrics once it has nothing to do; what they are if that does not come soon."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + IDLE_SECONDS
    while True:
        engine = await endpoint.sample()
        if _in_flight(engine) == 0 or loop.time() > deadline:
            return engine
        await asyncio.sleep(IDLE_POLL_SECONDS)


def _in_flight(engine: EngineSample | None) -> float:
    return (engine.running or 0) + (engine.waiting or 0) if engine else 0


def _point(load: Load, evidence: Evidence, *, itls: list[float], policy: FaultPolicy) -> PointDocument:
    rates = [repeat.throughput for repeat in load.repeats]
    ttfts = [ttft for repeat in load.repeats for ttft in repeat.ttfts]
    itls.sort()
    ttfts.sort()
    return PointDocument(
        concurrency=evidence.concurrency,
        throughput_tok_s=_rounded(sum(rates) / len(rates)),
        throughput_low_tok_s=_rounded(min(rates)),
        throughput_high_tok_s=_rounded(max(rates)),
        itl_s=_rounded(evidence.itl_s),
        itl_p50_s=_rounded(_quantile(itls, 0.5)),
        itl_p99_s=_rounded(_quantile(itls, 0.99)),
        ttft_s=_rounded(sum(ttfts) / len(ttfts)) if ttfts else None,
        ttft_p99_s=_rounded(_quantile(ttfts, 0.99)) if ttfts else None,
        running=None if evidence.running is None else _rounded(evidence.running),
        preemptions=evidence.preemptions,
        requests=sum(repeat.requests for repeat in load.repeats),
        errors=evidence.errors,
        client_busy=_rounded(evidence.client_busy),
        faults=tuple(
            FaultDocument(fault=found.fault, message=found.message) for found in find_faults(evidence, policy=policy)
        ),
    )


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def _rounded(value: float) -> float:
    """Six digits: more are noise."""
    return float(f"{value:.6g}")
