"""The load of one point: c workers that each send the next request as soon as the last one has ended."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

from slmpack.ports import PortError

__all__ = ["ClientWatch", "Load", "Repeat", "Send", "Shape"]

FIRST_TOKEN_ID = 10
"""Below it are the special tokens of most vocabularies."""
MOST_ERRORS = 5
"""With so many failed requests a point is given up: a server in trouble gets no more of them."""
ERROR_PAUSE_SECONDS = 0.2
LAG_PROBE_SECONDS = 0.01


class Send(Protocol):
    """Send one prompt and call `on_tokens` with how many tokens have just come; raises PortError."""

    async def __call__(self, prompt: list[int], *, output_tokens: int, on_tokens: Callable[[int], object]) -> None:
        """Return when the last token has come."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every request and every point looks like."""

    input_tokens: int
    output_tokens: int
    repeats: int
    min_seconds: float
    """Least length of a repeat."""
    vocabulary: int
    """Token ids are drawn below this."""


@dataclass(slots=True, kw_only=True)
class Repeat:
    """One stretch of the steady state: whole cycles, from the end of a request to the end of another."""

    started: float
    ended: float = 0.0
    tokens: int = 0
    requests: int = 0
    itls: list[float] = field(default_factory=list)
    """Seconds between tokens, one entry a token."""
    ttfts: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Output tokens a second."""
        return self.tokens / (self.ended - self.started)


class Load:
    """A closed loop. Prompts are random and never repeat, so that no prefix is found in a cache.

    The workers' first requests have rising lengths: without that, all would be in prefill together and in decode
    together, for ever. The warm-up ends when every worker has ended one request.
    """

    def __init__(self, send: Send, *, concurrency: int, shape: Shape, on_repeat: Callable[[int], object]) -> None:
        self._send, self._concurrency, self._shape, self._on_repeat = send, concurrency, shape, on_repeat
        self._now = asyncio.get_running_loop().time
        self._random = random.Random(random.SystemRandom().getrandbits(64))  # noqa: S311 - not for secrets
        self._current: Repeat | None = None
        self._warmed: set[int] = set()
        self._requests_a_repeat = 0
        self.warm, self.done = asyncio.Event(), asyncio.Event()
        self.repeats: list[Repeat] = []
        self.received = 0
        self.errors = 0
        self.last_error = ""
        self.failure: str | None = None
        """Why the point was given up."""

    async def work(self, index: int) -> None:
        """One worker, until cancelled or until too many requests have failed."""
        length = ceil(self._shape.output_tokens * (index + 1) / self._concurrency)
        while self.failure is None:
            sent = self._now()
            try:
                await self._request(length, sent)
            except PortError as error:
                self._failed(error)
                await asyncio.sleep(ERROR_PAUSE_SECONDS)
                continue
            self._ended(index, seconds=self._now() - sent)
            length = self._shape.output_tokens

    def give_up(self, why: str) -> None:
        """End the point without a result."""
        self.failure = why
        self.warm.set()
        self.done.set()

    async def _request(self, output_tokens: int, sent: float) -> None:
        last = 0.0

        def on_tokens(count: int) -> None:
            nonlocal last
            now = self._now()
            self.received += count
            current = self._current
            if current is not None:
                current.tokens += count
                if last:
                    current.itls.extend([(now - last) / count] * count)
                else:
                    current.ttfts.append(now - sent)
            last = now

        ids = range(FIRST_TOKEN_ID, self._shape.vocabulary)
        prompt = self._random.choices(ids, k=self._shape.input_tokens)
        await self._send(prompt, output_tokens=output_tokens, on_tokens=on_tokens)

    def _failed(self, error: PortError) -> None:
        self.errors += 1
        self.last_error = str(error)
        if self.errors >= MOST_ERRORS:
            self.give_up(f"{self.errors} requests failed, the last with: {error}")

    def _ended(self, index: int, *, seconds: float) -> None:
        current = self._current
        if current is not None:
            current.requests += 1
            if current.requests >= self._requests_a_repeat:
                self._close(current)
        elif not self.warm.is_set():
            self._warmed.add(index)
            if len(self._warmed) == self._concurrency:
                self._requests_a_repeat = self._concurrency * max(1, ceil(self._shape.min_seconds / seconds))
                self._current = Repeat(started=self._now())
                self.warm.set()
                self._on_repeat(0)

    def _close(self, current: Repeat) -> None:
        current.ended = self._now()
        self.repeats.append(current)
        self._on_repeat(len(self.repeats))
        enough = len(self.repeats) >= self._shape.repeats
        self._current = None if enough else Repeat(started=current.ended)
        if enough:
            self.done.set()


class ClientWatch:
    """How busy this process is from now on, and how late its event loop wakes up."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._lags: list[float] = []
        self._cpu, self._wall = time.process_time(), self._now()

    async def probe(self) -> None:
        """Measure the lag until cancelled."""
        while True:
            due = self._now() + LAG_PROBE_SECONDS
            await asyncio.sleep(LAG_PROBE_SECONDS)
            self._lags.append(max(0.0, self._now() - due))

    @property
    def busy(self) -> float:
        """CPU seconds a second."""
        return (time.process_time() - self._cpu) / max(self._now() - self._wall, 1e-9)

    @property
    def lag_s(self) -> float:
        """Mean lag."""
        return sum(self._lags) / len(self._lags) if self._lags else 0.0
