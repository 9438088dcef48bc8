"""A reverse proxy in front of an API server, whose faults a test sets.

It runs in a thread and event loop of its own, so that it serves blocking clients and other loops alike, and passes
watches and logs through as they come. Connections that change protocol (exec, attach, port-forward) are not proxied.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tests.support.loops import connections_closed

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane
    from tests.support.pki import KeyPair

__all__ = ["Fault", "FaultProxy", "SeenRequest"]

T = TypeVar("T")

HOST = "127.0.0.1"
HOP_BY_HOP = frozenset(
    {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-authorization"}
)
REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the requests that match; the first fault set that matches and is not used up applies."""

    path: str
    """A regular expression searched in the path, without the query."""
    method: str | None = None
    watch: bool | None = None
    """True: watches only; False: anything but watches; None: both."""
    status: int | None = None
    """Answer this instead of asking the API server."""
    body: dict[str, Any] | None = None
    """Answer 200 with this instead: a list from the past, say."""
    as_event: bool = False
    """Answer 200 and put the status into an ERROR event, as the API server does in a watch."""
    delay_seconds: float = 0.0
    retry_after_seconds: int = 1
    """Sent with 429."""
    drop_reply: bool = False
    """Let the API server do it, then break the connection instead of passing its answer on."""
    times: int | None = None
    """How many requests it applies to; None: until it is cleared."""
    hits: int = field(default=0, init=False)
    """How many requests it has applied to."""

    def matches(self, seen: SeenRequest) -> bool:
        """Whether it applies to a request now."""
        return (
            (self.times is None or self.hits < self.times)
            and (self.method is None or self.method == seen.method)
            and (self.watch is None or self.watch == seen.watch)
            and re.search(self.path, seen.path) is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """A request as it reached the proxy."""

    method: str
    path: str
    query: str
    watch: bool


class FaultProxy:
    """A running proxy; made by `in_front_of` a control plane or by `start` in front of any HTTP server."""

    def __init__(self, upstream: str, *, ca_file: Path | None, server_pair: KeyPair | None) -> None:
        self._upstream = upstream.rstrip("/")
        self._trust = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
        self._own: ssl.SSLContext | None = None
        if server_pair is not None:
            self._own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._own.load_cert_chain(server_pair.certificate, server_pair.key)
        self._port = 0
        self._faults: tuple[Fault, ...] = ()
        self._requests: list[SeenRequest] = []
        self._listener: asyncio.Server | None = None
        self._watches: set[asyncio.BaseTransport | None] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    @classmethod
    @contextmanager
    def in_front_of(cls, control_plane: ControlPlane) -> Iterator[Self]:
        """A proxy with a certificate that the control plane's kubeconfigs trust."""
        pair = control_plane.server_pair
        with cls.start(control_plane.url, ca_file=control_plane.ca_file, server_pair=pair) as proxy:
            yield proxy

    @classmethod
    @contextmanager
    def start(cls, upstream: str, *, ca_file: Path | None = None, server_pair: KeyPair | None = None) -> Iterator[Self]:
        """A proxy in front of `upstream`; it serves plain HTTP unless given a certificate (kubectl sends no token then)."""
        proxy = cls(upstream, ca_file=ca_file, server_pair=server_pair)
        proxy._thread.start()
        try:
            proxy._run(proxy._open())
            yield proxy
        finally:
            proxy._run(proxy._close())
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            proxy._thread.join()
            proxy._loop.close()

    @property
    def url(self) -> str:
        """Where the proxy listens; it keeps its port."""
        return f"{'https' if self._own else 'http'}://{HOST}:{self._port}"

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """All requests so far, in the order of arrival, those that met a fault included."""
        return tuple(self._requests)

    @property
    def open_watches(self) -> int:
        """How many watches are being passed through."""
        return len(self._watches)

    def count(self, path: str = "", *, method: str | None = None, watch: bool | None = None) -> int:
        """How many requests so far had this method and a path in which the expression `path` is found."""
        pattern = Fault(path=path, method=method, watch=watch)
        return sum(pattern.matches(seen) for seen in self.requests)

    def add(self, fault: Fault) -> Fault:
        """Set a fault on top of those set before."""
        self._faults = (*self._faults, fault)
        return fault

    def clear(self) -> None:
        """Take all faults back and listen again."""
        self._faults = ()
        self.accept()

    def cut_watches(self) -> int:
        """Break the connections of all open watches now; returns how many."""
        return self._run(self._cut_watches())

    def refuse(self) -> None:
        """Stop listening and break all connections, as an API server that is down does."""
        self._run(self._stop_listening())

    def accept(self) -> None:
        """Listen again on the same port."""
        self._run(self._listen())

    def _run(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        # Cancellation: a watch whose client has gone must not stay open at the API server until its next event.
        self._server = web.Server(self._handle, handler_cancellation=True, auto_decompress=False, access_log=None)
        await self._listen()

    async def _close(self) -> None:
        await self._stop_listening()
        await self._server.shutdown(1.0)
        await self._session.close()
        await connections_closed()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await self._loop.create_server(self._server, HOST, self._port, ssl=self._own)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._abort(protocol.transport for protocol in self._server.connections)

    async def _cut_watches(self) -> int:
        return self._abort(tuple(self._watches))

    def _abort(self, transports: Iterable[asyncio.BaseTransport | None]) -> int:
        broken = [transport for transport in transports if isinstance(transport, asyncio.Transport)]
        for transport in broken:
            transport.abort()
        return len(broken)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = SeenRequest(
            method=request.method,
            path=request.path,
            query=request.query_string,
            watch=request.query.get("watch") in {"true", "1"},
        )
        self._requests.append(seen)
        fault = next((fault for fault in self._faults if fault.matches(seen)), None)
        if fault is not None:
            fault.hits += 1
            await asyncio.sleep(fault.delay_seconds)
            if fault.body is not None:
                return web.json_response(fault.body)
            if fault.status is not None:
                return _answer(fault, status=fault.status)
        try:
            return await self._forward(request, seen, drop_reply=fault is not None and fault.drop_reply)
        except (aiohttp.ClientError, ConnectionError):
            self._abort([request.transport])  # one of the two sides has gone: what is left is to tell the other
            return web.Response(status=502)

    async def _forward(self, request: web.BaseRequest, seen: SeenRequest, *, drop_reply: bool) -> web.StreamResponse:
        url = URL(self._upstream + request.raw_path, encoded=True)
        body = request.content if request.body_exists else None
        async with self._session.request(
            request.method, url, headers=_end_to_end(request.headers), data=body, allow_redirects=False
        ) as upstream:
            if drop_reply:
                raise ConnectionResetError("the fault that is set")
            response = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream.headers)
            )
            await response.prepare(request)
            watches = {request.transport} if seen.watch else set()
            self._watches |= watches
            try:
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            finally:
                self._watches -= watches
            return response


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


def _answer(fault: Fault, *, status: int) -> web.Response:
    error = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"fault set by a test: {status}",
        "reason": REASONS.get(status, "Unknown"),
        "code": status,
    }
    if fault.as_event:
        event = json.dumps({"type": "ERROR", "object": error}) + "\n"
        return web.Response(text=event, content_type="application/json")
    headers = {"Retry-After": str(fault.retry_after_seconds)} if status == web.HTTPTooManyRequests.status_code else None
    return web.json_response(error, status=status, headers=headers)
