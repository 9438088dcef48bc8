"""An HTTP server that answers as Prometheus does, for the queries that it was told; a test may have it misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from aiohttp import web

__all__ = ["FakePrometheus", "Vector"]

Vector = list[tuple[Mapping[str, str], float | str]]
Handler = Callable[[web.Request, str], Awaitable[web.StreamResponse | None]]


class FakePrometheus:
    """Use it as an async context manager. `vectors` has the answer to each query; others are empty."""

    def __init__(self) -> None:
        self.vectors: dict[str, Vector] = {}
        self.seen: list[tuple[str, dict[str, str], Mapping[str, str]]] = []
        """Query, all fields of the form, headers."""
        self.misbehave: Handler | None = None
        """Answers, or leaves it to us by None."""
        self.now = 1_000_000.0
        self._hangs = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hangs.set()
        await self._runner.cleanup()

    async def hang(self, *_: object) -> None:
        """Say nothing until the end."""
        await self._hangs.wait()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        form = {key: str(value) for key, value in (await request.post()).items()}
        query = form.get("query", "")
        self.seen.append((query, form, request.headers))
        if self.misbehave is not None and (answer := await self.misbehave(request, query)) is not None:
            return answer
        if request.path != "/api/v1/query" or request.method != "POST":
            return web.Response(status=404, text="no such page")
        vector = [({}, self.now)] if query == "vector(time())" else self.vectors.get(query, [])
        return web.json_response(
            {"status": "success", "data": {"resultType": "vector", "result": self._result(vector)}}
        )

    def _result(self, vector: Vector) -> list[dict[str, Any]]:
        return [{"metric": dict(labels), "value": [self.now, str(value)]} for labels, value in vector]
