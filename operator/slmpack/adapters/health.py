"""Liveness, readiness and metrics on one port; where it is asked for, a page, too.

Whoever reaches the port may be slow or malicious: what a connection may hold is bounded, and probes are answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

__all__ = ["HealthServer", "PageBytes", "Pages", "Patient"]

logger = logging.getLogger(__name__)

OLDEST_TURN_SECONDS = 180.0
"""More than the longest turn against an API server that hangs."""
MOST_CONNECTIONS = 100
"""One more, and that which was silent longest is cut: so a probe is answered however many sit there."""
HEADER_SECONDS = 10.0
"""From the connection to its first whole request."""
IDLE_SECONDS = 50.0
"""From an answer to the next request."""
REQUEST_SECONDS = 75.0
"""From one whole request to the next, whatever hangs between."""
MOST_PAGES = 8
"""Sent at once."""
PAGE_SECONDS = 20.0
"""To send one: about 1.6 MB for the largest plan."""
CHUNK_BYTES = 2**16
"""Handed to a socket at once: what a client that does not read costs, about."""
RETRY_SECONDS = 5
SERVER = {"Server": "slmpack"}
PAGE_HEADERS = {
    **SERVER,
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Patient(Protocol):
    """Whose health it is."""

    @property
    def age_seconds(self) -> float:
        """Since the last turn ended."""
        ...

    @property
    def trouble(self) -> str:
        """Why it is not ready; empty if it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PageBytes:
    """A page as it is sent, shared by all who ask for it, and its Content-Security-Policy."""

    body: bytes
    policy: str


class Pages(Protocol):
    """What is shown at /."""

    async def page(self, *, refreshes: bool) -> PageBytes:
        """The page now."""
        ...


class HealthServer:
    """/healthz, /readyz and /metrics; with `page`, /."""

    def __init__(self, patient: Patient, *, metrics: Callable[[], bytes], page: Pages | None = None) -> None:
        self._patient = patient
        self._metrics = metrics
        self._routes: dict[str, _Answer] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._text,
        }
        if page is not None:
            self._routes["/"] = _Front(page).serve
        self._runner: web.ServerRunner | None = None

    async def start(self, *, host: str, port: int) -> str:
        """Listen; the address, with the port that was chosen if `port` is 0. OSError if it is taken."""
        self._runner = web.ServerRunner(_Server(self._answer), shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        name, chosen = self._runner.addresses[0][:2]
        url = f"http://{f'[{name}]' if ':' in name else name}:{chosen}"
        logger.info("listening on %s", url)
        return url

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        route = self._routes.get(request.path)
        if route is None:
            return _words("404: Not Found", status=404)
        if request.method not in {"GET", "HEAD"}:
            return _words("405: Method Not Allowed", status=405, headers={"Allow": "GET,HEAD"})
        return await route(request)

    async def _healthz(self, _: web.BaseRequest) -> web.Response:
        age = self._patient.age_seconds
        return _words(f"last turn {age:.1f} s ago", status=200 if age < OLDEST_TURN_SECONDS else 503)

    async def _readyz(self, _: web.BaseRequest) -> web.Response:
        trouble = self._patient.trouble
        return _words(trouble or "ok", status=503 if trouble else 200)

    async def _text(self, _: web.BaseRequest) -> web.Response:
        kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._metrics(), headers={**SERVER, **kind})


class _Front:
    """The page over HTTP: GET and HEAD, and nothing that a browser may keep, frame or load from elsewhere."""

    def __init__(self, page: Pages) -> None:
        self._page = page
        self._in_flight = 0

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """`?refresh=no` for a page that stays as it is. 503 while too many are sent."""
        if self._in_flight >= MOST_PAGES:
            why = f"{MOST_PAGES} pages are being sent, as many as may be at once. Try again in {RETRY_SECONDS} s."
            return _words(why, status=503, headers={"Retry-After": str(RETRY_SECONDS)})
        self._in_flight += 1
        try:
            page = await self._page.page(refreshes=request.query.get("refresh") != "no")
            return await _send(request, page)
        finally:
            self._in_flight -= 1


async def _send(request: web.BaseRequest, page: PageBytes) -> web.StreamResponse:
    """Piece by piece: a transport copies what its socket does not take at once."""
    response = web.StreamResponse(
        headers={**PAGE_HEADERS, "Content-Security-Policy": f"{page.policy}; frame-ancestors 'none'"}
    )
    response.content_type, response.charset = "text/html", "utf-8"
    response.content_length = len(page.body)
    try:
        async with asyncio.timeout(PAGE_SECONDS):
            await response.prepare(request)
            if request.method != "HEAD":
                view = memoryview(page.body)
                for start in range(0, len(view), CHUNK_BYTES):
                    await response.write(view[start : start + CHUNK_BYTES])
    except (ConnectionError, TimeoutError) as error:
        logger.debug("the page was not sent to %s: %r", request.remote, error)
        if request.transport is not None:
            request.transport.abort()
    return response


_Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _words(words: str, *, status: int, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(text=f"{words}\n", status=status, headers={**SERVER, **(headers or {})})


class _Server(web.Server):
    """Holds at most so many connections, and none for ever."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(self._heard)
        self._answer = answer
        self._longest_silent_first: dict[asyncio.BaseProtocol, _Connection] = {}

    def __call__(self) -> web.RequestHandler:
        """A protocol for the next connection."""
        return _Connection(self, keepalive_timeout=IDLE_SECONDS)

    def admit(self, connection: _Connection) -> None:
        """It may cost another one its place."""
        self._longest_silent_first[connection] = connection
        if len(self._longest_silent_first) > MOST_CONNECTIONS:
            silent = next(iter(self._longest_silent_first.values()))
            self.dismiss(silent)
            silent.cut()

    def dismiss(self, connection: _Connection) -> None:
        """It is gone, or will be."""
        self._longest_silent_first.pop(connection, None)

    async def _heard(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._longest_silent_first.pop(request.protocol, None)
        if connection is not None:
            self._longest_silent_first[connection] = connection
            connection.expect(REQUEST_SECONDS)
        return await self._answer(request)


class _Connection(web.RequestHandler):
    """One that is cut, whatever it waits for, unless a whole request comes in time."""

    __slots__ = ("_deadline", "_server", "_wire")

    def __init__(self, server: _Server, *, keepalive_timeout: float) -> None:
        loop = asyncio.get_running_loop()
        quiet: Any = None
        super().__init__(server, loop=loop, keepalive_timeout=keepalive_timeout, logger=logger, access_log=quiet)
        self._server = server
        self._wire: asyncio.BaseTransport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        super().connection_made(transport)
        self._wire = transport
        self.expect(HEADER_SECONDS)
        self._server.admit(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It ends."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._server.dismiss(self)
        super().connection_lost(exc)

    def expect(self, seconds: float) -> None:
        """A whole request within so long."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.cut)

    def cut(self) -> None:
        """Now, and without what was not sent yet: closing would wait for a client that does not read."""
        if isinstance(self._wire, asyncio.WriteTransport):
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A client's fault is no news; ours is. ConnectionError if an answer has begun."""
        if status < web.HTTPInternalServerError.status_code:
            logger.debug("a malformed request from %s: %r", request.remote, message)
        else:
            logger.error("cannot answer %s %s", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        response = _words(f"{status}: {web.Response(status=status).reason}", status=status)
        response.force_close()
        return response
