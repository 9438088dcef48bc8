"""The store behind HTTP, as kubectl, Kopf and the operator's client speak it. Loopback only, no authentication."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import yaml
from aiohttp import web

from slmpack.devcluster import openapi
from slmpack.devcluster.errors import StatusError
from slmpack.devcluster.events import to_new_event
from slmpack.devcluster.resources import Target
from slmpack.devcluster.store import Store
from slmpack.devcluster.tables import table
from slmpack.devcluster.watches import Patch, Watch

__all__ = ["Logs", "make_app"]

Json = dict[str, Any]
Logs = Callable[[str, str], str | None]
_BOOKMARK_SECONDS = 30.0
_WATCH_SECONDS = 3600.0
_GONE = 410
_MAX_BODY_BYTES = 16 * 2**20


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _answer(value: Json, *, status: int = 200) -> web.Response:
    return web.Response(body=_dump(value), status=status, content_type="application/json")


async def _body(request: web.Request) -> Any:  # noqa: ANN401 - JSON
    raw = await request.read()
    kind = request.content_type
    if "protobuf" in kind or "cbor" in kind:
        raise StatusError(415, "UnsupportedMediaType", f"this server reads JSON, not {kind}; use kubectl apply -f")
    if not raw:
        return {}
    try:
        return yaml.safe_load(raw) if "yaml" in kind else json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise StatusError(400, "BadRequest", f"the request body is not valid: {error}") from error


@web.middleware
async def _translate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except StatusError as error:
        return _answer(error.as_status(), status=error.code)


class _Handlers:
    """One method a verb; every path below /api and /apis ends here."""

    def __init__(self, store: Store, logs: Logs) -> None:
        self._store, self._logs = store, logs

    def _as_table(self, request: web.Request, target: Target, objects: list[Json]) -> Json | None:
        if "as=Table" not in request.headers.get("Accept", ""):
            return None
        whole = request.query.get("includeObject") == "Object"
        store = self._store
        return table(target.resource, objects, now=store.clock(), version=store.version, whole=whole)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Read one object, its log, a list, or watch."""
        target = self._store.registry.parse(request.path)
        if target.subresource == "log":
            return self._log(target)
        if request.query.get("watch") in {"1", "true"}:
            return await self._watch(request, target)
        if target.name is not None:
            obj = self._store.get(target)
            return _answer(self._as_table(request, target, [obj]) or obj)
        selectors = {"labels": request.query.get("labelSelector"), "fields": request.query.get("fieldSelector")}
        objects = self._store.items(target, **selectors)
        found = self._as_table(request, target, objects)
        kind, version = f"{target.resource.kind}List", {"resourceVersion": self._store.version}
        plain = {"kind": kind, "apiVersion": target.resource.api_version, "metadata": version, "items": objects}
        return _answer(found or plain)

    def _log(self, target: Target) -> web.Response:
        self._store.get(target)
        text = self._logs(target.namespace or "", target.name or "")
        if text is None:
            why = f'container in pod "{target.name}" is waiting to start: ContainerCreating'
            raise StatusError(400, "BadRequest", why)
        return web.Response(text=text)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        query = request.query
        initial = query.get("sendInitialEvents") == "true"
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            watch = self._store.watch(
                target,
                since=None if initial else query.get("resourceVersion"),
                labels=query.get("labelSelector"),
                fields=query.get("fieldSelector"),
            )
        except StatusError as error:
            if error.code != _GONE:
                raise
            await response.prepare(request)
            await response.write(_dump({"type": "ERROR", "object": error.as_status()}) + b"\n")
            return response
        if initial:
            watch.put("BOOKMARK", self._bookmark(target, {"k8s.io/initial-events-end": "true"}))
        await response.prepare(request)
        with suppress(ConnectionResetError):
            await self._stream(response, request, target, watch)
        return response

    async def _stream(self, response: web.StreamResponse, request: web.Request, target: Target, watch: Watch) -> None:
        """Send events until the watch, its time or the connection ends; bookmarks while nothing happens."""
        loop, events = asyncio.get_running_loop(), watch.events()
        bookmarks = request.query.get("allowWatchBookmarks") in {"1", "true"}
        end = loop.time() + float(request.query.get("timeoutSeconds", _WATCH_SECONDS))
        pending = asyncio.ensure_future(anext(events, None))
        try:
            while (left := end - loop.time()) > 0:
                done, _ = await asyncio.wait({pending}, timeout=min(left, _BOOKMARK_SECONDS))
                if not done and bookmarks:
                    await self._send(response, request, target, ("BOOKMARK", self._bookmark(target, {})))
                elif done:
                    if (event := pending.result()) is None:
                        return
                    await self._send(response, request, target, event)
                    pending = asyncio.ensure_future(anext(events, None))
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await events.aclose()

    async def _send(
        self, response: web.StreamResponse, request: web.Request, target: Target, event: tuple[str, Json]
    ) -> None:
        kind, obj = event
        if kind != "BOOKMARK":
            obj = to_new_event(obj) if target.resource.group == "events.k8s.io" else obj
            obj = self._as_table(request, target, [obj]) or obj
        await response.write(_dump({"type": kind, "object": obj}) + b"\n")

    def _bookmark(self, target: Target, annotations: dict[str, str]) -> Json:
        meta: Json = {"resourceVersion": self._store.version}
        if annotations:
            meta["annotations"] = annotations
        return {"kind": target.resource.kind, "apiVersion": target.resource.api_version, "metadata": meta}

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Create an object, a binding or an eviction."""
        created = self._store.create(self._store.registry.parse(request.path), await _body(request))
        return _answer(created, status=201)

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Replace an object, its status or its scale."""
        return _answer(self._store.replace(self._store.registry.parse(request.path), await _body(request)))

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """Patch in one of the four media types."""
        target = self._store.registry.parse(request.path)
        manager = request.query.get("fieldManager", "unknown")
        patch = Patch(body=await _body(request), content_type=request.content_type, field_manager=manager)
        return _answer(self._store.patch(target, patch))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete an object, or every one that a collection's selectors take."""
        target = self._store.registry.parse(request.path)
        options = await _body(request)
        conditions = options.get("preconditions") or {}
        grace = request.query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        wanted = {"uid": conditions.get("uid"), "version": conditions.get("resourceVersion")}
        seconds = None if grace is None else int(grace)
        if target.name is not None:
            return _answer(self._store.delete(target, **wanted, grace=seconds))
        selectors = {"labels": request.query.get("labelSelector"), "fields": request.query.get("fieldSelector")}
        for obj in self._store.items(target, **selectors):
            meta = obj["metadata"]
            one = Target(resource=target.resource, namespace=meta.get("namespace"), name=meta["name"])
            self._store.delete(one, grace=seconds)
        return _answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    async def documents(self, request: web.Request) -> web.StreamResponse:
        """Discovery and OpenAPI."""
        registry = self._store.registry
        match [part for part in request.path.split("/") if part]:
            case ["version"]:
                return _answer(openapi.version_info())
            case ["api"]:
                return _answer(openapi.core_versions())
            case ["apis"]:
                return _answer(openapi.api_groups(registry))
            case ["openapi", "v3"]:
                return _answer(openapi.openapi_index(registry))
            case ["api", version] | ["openapi", "v3", "api", version]:
                group = ""
            case ["apis", group, version] | ["openapi", "v3", "apis", group, version]:
                pass
            case _:
                raise StatusError(404, "NotFound", "the server could not find the requested resource")
        make = openapi.openapi_document if request.path.startswith("/openapi") else openapi.api_resources
        return _answer(make(registry, group, version))


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def make_app(store: Store, *, logs: Logs) -> web.Application:
    """The API server's application; `logs(namespace, pod)` answers `kubectl logs`, None while there is nothing."""
    app = web.Application(middlewares=[_translate], client_max_size=_MAX_BODY_BYTES)
    handlers = _Handlers(store, logs)
    for path in ("/healthz", "/livez", "/readyz"):
        app.router.add_get(path, _healthy)
    for path in ("/version", "/api", "/apis", "/api/{v}", "/apis/{g}/{v}", "/openapi/v3", "/openapi/v3/{rest:.*}"):
        app.router.add_get(path, handlers.documents)
    for root in ("/api/{rest:.+}", "/apis/{rest:.+}"):
        app.router.add_get(root, handlers.get)
        app.router.add_post(root, handlers.post)
        app.router.add_put(root, handlers.put)
        app.router.add_patch(root, handlers.patch)
        app.router.add_delete(root, handlers.delete)
    return app
