"""The API server as the stand-in kubelet and the demo see it, and the same interface straight on the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from slmpack.devcluster.errors import StatusError
from slmpack.devcluster.events import to_new_event
from slmpack.devcluster.patches import clone
from slmpack.devcluster.resources import Target
from slmpack.devcluster.store import Store
from slmpack.devcluster.watches import Patch
from slmpack.ports import Conflict, Forbidden, Gone, Invalid, NotFound, PortError, Unavailable

__all__ = ["Api", "StoreApi"]

Json = dict[str, Any]
_ERRORS: dict[int, type[PortError]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    405: NotFound,
    409: Conflict,
    410: Gone,
    415: Invalid,
    422: Invalid,
}


class Api(Protocol):
    """Raw JSON by path; every method raises a PortError. `slmpack.adapters.kube.KubeClient` is one too."""

    async def get(self, path: str) -> Json:
        """One object."""
        ...

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[Json], str]:
        """Every object of a collection and the resourceVersion to watch from."""
        ...

    async def create(self, path: str, body: Json) -> Json:
        """POST to a collection."""
        ...

    async def patch(self, path: str, body: Json, content_type: str = "application/merge-patch+json") -> Json:
        """PATCH one object or subresource."""
        ...

    async def delete(self, path: str, *, uid: str | None = None, grace_period_seconds: int | None = None) -> None:
        """DELETE one object, with a precondition on its uid."""
        ...

    def watch(
        self, path: str, *, resource_version: str, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, Json]]:
        """Changes after a resourceVersion; ends when the server closes."""
        ...


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StatusError as error:
        raise _ERRORS.get(error.code, Unavailable)(error.message, status=error.code) from error


class StoreApi:
    """`Api` without HTTP: the fake behind the controller's ports. Answers are copies, callers may edit them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.requests: list[tuple[str, str]] = []

    def _target(self, verb: str, path: str) -> Target:
        self.requests.append((verb, path))
        return self._store.registry.parse(path)

    async def get(self, path: str) -> Json:
        """One object."""
        with _translated():
            return self._copy(self._store.get(self._target("get", path)))

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[Json], str]:
        """Every object of a collection and the resourceVersion to watch from."""
        with _translated():
            found = self._store.items(self._target("list", path), **_selectors(params))
            return [self._copy(obj) for obj in found], self._store.version

    async def create(self, path: str, body: Json) -> Json:
        """POST to a collection."""
        with _translated():
            return self._copy(self._store.create(self._target("create", path), body))

    async def patch(self, path: str, body: Json, content_type: str = "application/merge-patch+json") -> Json:
        """PATCH one object or subresource."""
        with _translated():
            return self._copy(
                self._store.patch(self._target("patch", path), Patch(body=body, content_type=content_type))
            )

    async def replace(self, path: str, body: Json) -> Json:
        """PUT one object."""
        with _translated():
            return self._copy(self._store.replace(self._target("replace", path), body))

    async def apply(self, path: str, body: Json, *, field_manager: str = "slmpack", force: bool = True) -> Json:
        """Server-side apply; nobody conflicts here, so `force` changes nothing."""
        del force
        patch = Patch(body=body, content_type="application/apply-patch+yaml", field_manager=field_manager)
        with _translated():
            return self._copy(self._store.patch(self._target("apply", path), patch))

    async def delete(self, path: str, *, uid: str | None = None, grace_period_seconds: int | None = None) -> None:
        """DELETE one object, with a precondition on its uid."""
        with _translated():
            self._store.delete(self._target("delete", path), uid=uid, grace=grace_period_seconds)

    async def watch(
        self, path: str, *, resource_version: str, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, Json]]:
        """Changes after a resourceVersion; ends when `Store.close_watches` is called."""
        target = self._target("watch", path)
        with _translated():
            watch = self._store.watch(target, since=resource_version, **_selectors(params))
        async for kind, obj in watch.events():
            shown = to_new_event(obj) if target.resource.group == "events.k8s.io" else obj
            yield kind, self._copy(shown)

    @staticmethod
    def _copy(obj: Json) -> Json:
        copied: Json = clone(obj)
        return copied


def _selectors(params: Mapping[str, str] | None) -> dict[str, str | None]:
    given = params or {}
    return {"labels": given.get("labelSelector"), "fields": given.get("fieldSelector")}
