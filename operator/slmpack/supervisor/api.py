"""The control API: liveness and readiness for the kubelet, the engines for the operator."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Protocol

from slmpack.supervisor.config import ConfigError, Pack, parse_indexes
from slmpack.supervisor.log import say
from slmpack.supervisor.timeouts import TooLateError, within
from slmpack.supervisor.wire import HEAD_BYTES, HttpError, Request, Response, read_request, render_response

__all__ = ["ControlApi"]

MOST_CONNECTIONS = 16
OLDEST_TURN_SECONDS = 60.0
Route = Callable[[Request], Response]


class Controlled(Protocol):
    """What the API speaks for: the supervisor."""

    @property
    def turn_age(self) -> float:
        """Seconds since the loop's last turn."""
        ...

    @property
    def ready(self) -> bool:
        """At least one engine serves and the pod is not ending."""
        ...

    @property
    def ending(self) -> bool:
        """The pod ends."""
        ...

    def want(self, wanted: AbstractSet[int]) -> bool:
        """State the engines that shall run; False if it is so already."""
        ...

    def report(self) -> dict[str, object]:
        """The state of everything."""
        ...


def _answer(request: Request, *, supervisor: Controlled, pack: Pack) -> Response:
    routes: dict[str, dict[str, Route]] = {
        "/livez": {"GET": lambda _: _livez(supervisor)},
        "/readyz": {
            "GET": lambda _: Response(status=200 if supervisor.ready else 503, value={"ready": supervisor.ready})
        },
        "/v1/engines": {
            "GET": lambda _: Response(status=200, value=supervisor.report()),
            "PUT": lambda request: _put(request, supervisor=supervisor, count=len(pack.engines)),
        },
    }
    route = routes.get(request.path)
    if route is None:
        return _problem(404, f"{request.path[:100]} is not here")
    if request.path.startswith("/v1/") and not _authenticated(request, pack.token_sha256):
        return _problem(401, "a bearer token is needed, and it must be this pod's")
    if request.method not in route:
        allow = ", ".join(route)
        return Response(status=405, value={"message": f"allowed: {allow}"}, allow=allow)
    return route[request.method](request)


class ControlApi:
    """The server."""

    def __init__(self, supervisor: Controlled, *, pack: Pack, limit: float) -> None:
        self._told = supervisor
        self._pack = pack
        self._limit = limit
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._server: asyncio.AbstractServer | None = None

    async def start(self, *, host: str | None, port: int) -> None:
        """Listen. OSError if it is not possible."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES)

    async def close(self) -> None:
        """Stop listening and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        if len(self._tasks) >= MOST_CONNECTIONS:
            # The oldest is the slowest. Refusing the newest would let a few idle clients lock the kubelet's probes out.
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            oldest.cancel()
        self._tasks[task] = None
        try:
            await within(self._limit, self._serve(reader, writer))
        except (TooLateError, OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.pop(task, None)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(reader)
            if request is None:
                return
            response = _answer(request, supervisor=self._told, pack=self._pack)
        except HttpError as error:
            response = _problem(error.status, str(error))
        writer.write(render_response(response))
        await writer.drain()
        if response.status >= 400 and writer.can_write_eof():
            # A client that is still sending would lose our answer to a reset.
            writer.write_eof()
            while await reader.read(HEAD_BYTES):
                pass


def _livez(supervisor: Controlled) -> Response:
    age = supervisor.turn_age
    return Response(status=200 if age < OLDEST_TURN_SECONDS else 500, value={"lastTurnSeconds": round(age, 3)})


def _authenticated(request: Request, digest: str) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = hashlib.sha256(token.strip().encode("latin-1", "replace")).hexdigest()
    return hmac.compare_digest(found, digest) and scheme.lower() == "bearer"


def _put(request: Request, *, supervisor: Controlled, count: int) -> Response:
    try:
        wanted = _wanted(request.body, count=count)
    except ConfigError as error:
        return _problem(400, str(error))
    if supervisor.ending:
        return _problem(409, "the pod is ending")
    changed = supervisor.want(wanted)
    if changed:
        say(f"engines that shall run: {sorted(wanted)}")
    return Response(status=202 if changed else 200, value=supervisor.report())


def _wanted(body: bytes, *, count: int) -> frozenset[int]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {str(error)[:100]}") from None
    if not isinstance(fields, dict) or set(fields) != {"running"}:
        raise ConfigError('the body must be an object with the one field "running"')
    return parse_indexes(fields["running"], count=count, at="running")


def _problem(status: int, message: str) -> Response:
    return Response(status=status, value={"message": message})
