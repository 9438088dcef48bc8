"""Raw JSON to and from the API server, on the official client's authentication, TLS and transport.

Typed API classes are not imported: they cost 113 MB. Foreign errors are translated here, once, to the PortError tree.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from slmpack.adapters.connection import Connection, load_connection
from slmpack.ports import Conflict, Forbidden, Gone, Invalid, NotFound, PortError, Unavailable

__all__ = ["KubeClient", "error_of"]

Params = Mapping[str, str | int]
Items = list[dict[str, Any]]

PAGE = 500
CALL_SECONDS = 15.0
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0
CONCURRENT_CALLS = 32
WATCH_SECONDS = 290
WATCH_SILENCE_SECONDS = 320.0
USUAL_LIMITS = aiohttp.ClientTimeout(total=CALL_SECONDS)
UNAUTHORIZED = 401
TOO_MANY = 429
BY_STATUS: Mapping[int, type[PortError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    405: NotFound,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request."""

    method: str
    path: str
    params: Params | None = None
    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    limits: aiohttp.ClientTimeout = USUAL_LIMITS


class KubeClient:
    """One API server. Made by `connect`; every method raises PortError and nothing else."""

    def __init__(self, connection: Connection, *, reload: Mapping[str, str | None]) -> None:
        self.connection = connection
        self._reload = reload
        self._api = ApiClient(configuration=connection.configuration)
        self._api.user_agent = "slmpack"
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)
        self.on_date: Callable[[str], None] = lambda _: None
        """Given the Date header of each answer."""

    @classmethod
    async def connect(
        cls, kubeconfig: str | None = None, *, context: str | None = None, server: str | None = None
    ) -> Self:
        """A client of the cluster that `load_connection` finds; nothing is sent yet."""
        found = await load_connection(kubeconfig=kubeconfig, context=context, server=server)
        return cls(found, reload={"kubeconfig": kubeconfig, "context": context, "server": server})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """GET one object."""
        return await self._call(Call(method="GET", path=path, params=params))

    async def list(self, path: str, params: Params | None = None) -> tuple[Items, str]:
        """GET a collection, page by page: its items and the resourceVersion to watch from."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._list_pages(path, params=dict(params or {}))
            except Gone:  # the continue token outlived etcd's compaction
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST to a collection; Conflict if the name is taken."""
        return await self._call(Call(method="POST", path=path, body=body))

    async def apply(
        self, path: str, body: Mapping[str, Any], *, field_manager: str = "slmpack", force: bool = True
    ) -> dict[str, Any]:
        """Server-side apply: an uid or resourceVersion in the body's metadata is a precondition."""
        params: Params = {"fieldManager": field_manager, "force": "true" if force else "false"}
        content_type = "application/apply-patch+yaml"
        return await self._call(Call(method="PATCH", path=path, body=body, params=params, content_type=content_type))

    async def patch(
        self, path: str, body: Mapping[str, Any], content_type: str = "application/merge-patch+json"
    ) -> dict[str, Any]:
        """PATCH one object."""
        return await self._call(Call(method="PATCH", path=path, body=body, content_type=content_type))

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT one object; Conflict if its resourceVersion is not the present one."""
        return await self._call(Call(method="PUT", path=path, body=body))

    async def delete(self, path: str, *, uid: str | None = None, grace_period_seconds: int | None = None) -> None:
        """DELETE one object; Conflict if the uid is another's."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        await self._call(Call(method="DELETE", path=path, body=options))

    async def count(self, path: str) -> int:
        """How many objects a collection holds, for the price of one."""
        page = await self._call(Call(method="GET", path=path, params={"limit": 1}))
        return len(page.get("items") or ()) + int((page.get("metadata") or {}).get("remainingItemCount") or 0)

    async def watch(
        self, path: str, *, resource_version: str, params: Params | None = None
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The changes after `resource_version` as (type, object), until the server ends the watch (minutes).

        Raises Gone where the version is too old: list again.
        """
        query: dict[str, str | int] = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
            **(params or {}),
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CALL_SECONDS, sock_read=WATCH_SILENCE_SECONDS)
        try:
            response = await self._send(Call(method="GET", path=path, params=query, limits=limits))
            async with response:
                if response.status >= 300:
                    raise error_of(response.status, await response.read())
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise error_of(int(status.get("code") or 500), json.dumps(status).encode())
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"watch of {path} broke: {_text(error)}") from error

    async def _list_pages(self, path: str, *, params: dict[str, str | int]) -> tuple[Items, str]:
        items: Items = []
        params["limit"] = PAGE
        while True:
            page = await self._call(Call(method="GET", path=path, params=params))
            items += page.get("items") or []
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            params["continue"] = meta["continue"]

    async def _call(self, call: Call) -> dict[str, Any]:
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._calls:
                    status, content, retry_after = await self._once(call)
            except Unavailable:
                # A write whose answer got lost may have been done: the next cycle looks, instead of doing it twice.
                if call.method != "GET" or attempt == ATTEMPTS:
                    raise
            else:
                if status < 300:
                    return _json(content)
                if attempt == ATTEMPTS or not await self._worth_another(
                    call, status=status, retry_after=retry_after, attempt=attempt
                ):
                    raise error_of(status, content)
                pause = max(pause, retry_after or 0.0)
            await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError

    async def _worth_another(self, call: Call, *, status: int, retry_after: float | None, attempt: int) -> bool:
        if status == UNAUTHORIZED and attempt == 1:
            fresh = await load_connection(**self._reload)
            self._api.configuration.api_key = fresh.configuration.api_key
            return True
        not_done = status == TOO_MANY or (status >= 500 and retry_after is not None)
        return not_done or (status >= 500 and call.method == "GET")

    async def _once(self, call: Call) -> tuple[int, bytes, float | None]:
        try:
            response = await self._send(call)
            async with response:
                self.on_date(response.headers.get("Date", ""))
                retry_after = response.headers.get("Retry-After", "")
                seconds = float(retry_after) if retry_after.isdigit() else None
                return response.status, await response.read(), seconds
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{call.method} {call.path}: {_text(error)}") from error

    async def _send(self, call: Call) -> aiohttp.ClientResponse:
        request = await self._api.param_serialize(
            method=call.method,
            resource_path=call.path,
            query_params=list(call.params.items()) if call.params else None,
            header_params={"Accept": "application/json", "Content-Type": call.content_type},
            body=dict(call.body) if call.body is not None else None,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(*request, _request_timeout=call.limits)
        response: aiohttp.ClientResponse = answer.response
        return response


def error_of(status: int, content: bytes) -> PortError:
    """The PortError of an HTTP status, with the message of the Status object where there is one."""
    try:
        message = str(json.loads(content).get("message") or "")
    except (ValueError, AttributeError):
        message = content[:500].decode(errors="replace").strip()
    kind = BY_STATUS.get(status, Unavailable)
    return kind(message or f"the API server answered {status}", status=status)


def _json(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise Unavailable(f"the API server's answer is not JSON: {content[:80]!r}") from error
    if not isinstance(value, dict):
        raise Unavailable(f"the API server's answer is not an object: {content[:80]!r}")
    return value


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: the reader's own `readline` refuses those beyond its buffer."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
