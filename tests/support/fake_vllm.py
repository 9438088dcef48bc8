"""A server that behaves like vLLM's: continuous batching with a step-time model, its API, and its metrics by name.

It listens on 127.0.0.1, in the test's event loop (of virtual time, as a rule) or in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["FakeVllm", "fake_vllm", "serving_vllm"]


@dataclass(kw_only=True)
class _Sequence:
    prompt_tokens: int
    wanted: int
    tokens: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    made: int = 0
    last: float = 0.0

    @property
    def live(self) -> int:
        return self.prompt_tokens + self.made


@dataclass(kw_only=True)
class FakeVllm:
    """What the server is like; may be changed while it runs."""

    step_s: float = 0.002
    """Of one iteration with one sequence."""
    sequence_s: float = 0.0
    """More for each sequence."""
    saturated_at: int = 1_000_000
    """Beyond so many sequences a step takes time in proportion to them, so that throughput stays."""
    max_num_seqs: int = 256
    kv_tokens: int = 1_048_576
    max_model_len: int = 4096
    vocabulary: int = 32_000
    hit_rate: float = 0.0
    """Part of the prompt tokens that the prefix cache is said to hold."""
    preempt_from: int = 1_000_000
    """With so many sequences each request that is admitted throws another out."""
    neighbours_from: int = 1_000_000
    """After so many requests of ours two of another client run for ever."""
    ghost_share: float = 0.0
    """Tokens made for others, as a part of ours, without their requests ever being seen."""
    fail_from: int = 1_000_000
    """Requests from this one on (from 0) fail ..."""
    fail_to: int = 1_000_000
    """... up to this one."""
    metrics: bool = True
    metrics_until: int = 1_000_000
    """/metrics answers 500 from so many looks on ..."""
    metrics_again: int = 1_000_000
    """... up to this one."""
    gauges: dict[str, str] = field(default_factory=dict)
    """What series say instead of the truth."""
    blocks: str | None = None
    """What num_gpu_blocks says instead of the truth."""
    version_fails: bool = False
    line_end: str = "\n"
    """Of the stream."""
    processes: int = 1
    """Behind one address."""
    delay_s: float = 0.0
    """Added to each token on its way to the client, as a slow network would."""
    at_once: bool = False
    """All tokens of a request come in one piece."""
    usage: bool = True
    """Whether the stream says how many tokens there are so far."""
    key: str | None = None
    models: tuple[dict[str, Any], ...] = ({"id": "tiny", "root": "org/tiny"},)

    url: str = ""
    prompts: list[list[int]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_running: int = 0
    scrapes: int = 0

    def __post_init__(self) -> None:
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()
        self._work = asyncio.Event()
        self.counts = dict.fromkeys(("queries", "hits", "preemptions", "tokens", "itl_count"), 0)
        self.itl_sum = 0.0

    # the engine

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._running and not self._waiting:
                self._work.clear()
                await self._work.wait()
            self._admit()
            batch = len(self._running)
            seconds = (self.step_s + self.sequence_s * batch) * max(1.0, batch / self.saturated_at)
            await asyncio.sleep(seconds)
            for sequence in list(self._running):
                self._make_token(sequence, loop.time())

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.max_num_seqs:
            live = sum(sequence.live for sequence in self._running)
            if live + self._waiting[0].prompt_tokens > self.kv_tokens:
                return
            sequence = self._waiting.popleft()
            self._running.append(sequence)
            self.counts["queries"] += sequence.prompt_tokens
            self.counts["hits"] += int(sequence.prompt_tokens * self.hit_rate)
            self.counts["preemptions"] += len(self._running) >= self.preempt_from
        self.most_running = max(self.most_running, len(self._running))

    def _make_token(self, sequence: _Sequence, now: float) -> None:
        if sequence.made:
            self.itl_sum += now - sequence.last
            self.counts["itl_count"] += 1
        sequence.made += 1
        sequence.last = now
        self.counts["tokens"] += 1
        sequence.tokens.put_nowait(sequence.made)
        if sequence.made >= sequence.wanted:
            self._running.remove(sequence)

    # the API

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        number = len(self.prompts)
        prompt, wanted = body["prompt"], body["max_tokens"]
        if max(prompt) >= self.vocabulary:
            return await _stream_error(request, 400, f"Token id {max(prompt)} is out of vocabulary")
        self.prompts.append(prompt)
        if self.fail_from <= number < self.fail_to:
            return _error(500, "EngineCore died")
        sequence = _Sequence(prompt_tokens=len(prompt), wanted=wanted)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._waiting.append(sequence)
        self._work.set()
        try:
            await self._stream(response, sequence)
            await response.write_eof()
        except ConnectionResetError:
            pass  # the client has gone
        finally:
            self._running = [other for other in self._running if other is not sequence]
            self._waiting = deque(other for other in self._waiting if other is not sequence)
        return response

    async def _stream(self, response: web.StreamResponse, sequence: _Sequence) -> None:
        pending = b""
        for _ in range(sequence.wanted):
            made = await sequence.tokens.get()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            usage = {"prompt_tokens": sequence.prompt_tokens, "completion_tokens": made} if self.usage else None
            choice = {"index": 0, "text": 'a "completion_tokens":9 ', "finish_reason": None}
            pending += _event({"object": "text_completion", "choices": [choice], "usage": usage}, end=self.line_end)
            if not self.at_once:
                await response.write(pending)
                pending = b""
        await response.write(pending + f"data: [DONE]{self.line_end * 2}".encode())

    async def list_models(self, request: web.Request) -> web.Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "Unauthorized")
        data = [{"object": "model", "max_model_len": self.max_model_len} | model for model in self.models]
        return web.json_response({"object": "list", "data": data})

    async def version(self, _: web.Request) -> web.Response:
        return _error(500, "no version") if self.version_fails else web.json_response({"version": "0.32.0"})

    async def scrape(self, _: web.Request) -> web.Response:
        if not self.metrics:
            return web.Response(status=404)
        self.scrapes += 1
        if self.metrics_until < self.scrapes <= self.metrics_again:
            return _error(500, "no more metrics")
        return web.Response(text=self.exposition())

    def exposition(self) -> str:
        """As vLLM writes them, with those of its labels that tell series apart."""
        others = 2 if len(self.prompts) > self.neighbours_from else 0
        live = sum(sequence.live for sequence in self._running)
        tokens = self.counts["tokens"]
        series = {
            "vllm:num_requests_running": len(self._running) + others,
            "vllm:num_requests_waiting": len(self._waiting),
            "vllm:kv_cache_usage_perc": live / self.kv_tokens,
            "vllm:prefix_cache_queries_total": self.counts["queries"],
            "vllm:prefix_cache_hits_total": self.counts["hits"],
            "vllm:num_preemptions_total": self.counts["preemptions"],
            "vllm:generation_tokens_total": int(tokens * (1 + self.ghost_share)),
            "vllm:inter_token_latency_seconds_count": self.counts["itl_count"],
            "vllm:inter_token_latency_seconds_sum": self.itl_sum,
        }
        told = {name: str(float(value)) for name, value in series.items()} | self.gauges
        lines = [f'{name}{{engine="0",model_name="tiny"}} {value}' for name, value in told.items()]
        blocks = self.kv_tokens // 16 if self.blocks is None else self.blocks
        lines.append(f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{blocks}"}} 1.0')
        lines.append(f"process_start_time_seconds {1.79e9 + self.scrapes % self.processes}")
        return "\n".join(lines) + "\n"


@asynccontextmanager
async def serving_vllm(**like: Any) -> AsyncIterator[FakeVllm]:
    """A server in this event loop; `url` says where."""
    fake = FakeVllm(**like)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/completions", fake.complete)
    app.router.add_get("/v1/models", fake.list_models)
    app.router.add_get("/version", fake.version)
    app.router.add_get("/metrics", fake.scrape)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    engine = asyncio.create_task(fake.run())
    try:
        yield fake
    finally:
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)
        await runner.cleanup()


@contextmanager
def fake_vllm(**like: Any) -> Iterator[FakeVllm]:
    """A server in a thread of its own; `url` says where."""
    started, fakes, stops = threading.Event(), list[FakeVllm](), list[Callable[[], object]]()

    async def serve() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        async with serving_vllm(**like) as fake:
            fakes.append(fake)
            stops.append(lambda: loop.call_soon_threadsafe(ended.set))
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield fakes[0]
    finally:
        stops[0]()
        thread.join(10)


def _event(value: dict[str, Any], *, end: str = "\n") -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'))}{end * 2}".encode()


async def _stream_error(request: web.Request, code: int, message: str) -> web.StreamResponse:
    """What vLLM 0.32 does with a stream that it refuses: status 200, then the error as an event."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(_event({"error": {"message": message, "type": "BadRequestError", "code": code}}))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
