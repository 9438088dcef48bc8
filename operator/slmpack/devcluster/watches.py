"""What the store tells its watchers: changes, and the selections that watches take of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from slmpack.devcluster.resources import Json, Resource, Target
from slmpack.devcluster.selectors import Predicate, field_selector, label_selector

__all__ = ["Change", "Patch", "Watch", "selection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the history: ADDED, MODIFIED or DELETED, with the object after and before."""

    version: int
    kind: str
    resource: Resource
    obj: Json
    old: Json | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A PATCH request: the body, its media type and, for apply, who applies."""

    body: Json | list[Json]
    content_type: str = "application/merge-patch+json"
    field_manager: str = "unknown"


class Watch:
    """One open watch: iterate over `events`, which end when `close` is called."""

    def __init__(self, target: Target, matches: Predicate, forget: Callable[[Watch], None]) -> None:
        self._target, self._matches, self._forget = target, matches, forget
        self._queue: asyncio.Queue[tuple[str, Json] | None] = asyncio.Queue()

    def offer(self, change: Change) -> None:
        """Queue a change if this watch sees it; leaving the selection counts as DELETED, entering as ADDED."""
        if change.resource.key != self._target.resource.key:
            return
        now = change.kind != "DELETED" and self._matches(change.obj)
        before = change.old is not None and self._matches(change.old)
        if now or before:
            kind = "MODIFIED" if now and before else "ADDED" if now else "DELETED"
            self._queue.put_nowait((kind, change.obj))

    def put(self, kind: str, obj: Json) -> None:
        """Queue something that is no change: an initial object or a bookmark."""
        self._queue.put_nowait((kind, obj))

    def close(self) -> None:
        """End the watch, as a server does when its time is up."""
        self._queue.put_nowait(None)

    async def events(self) -> AsyncGenerator[tuple[str, Json]]:
        """Kind and object of each change, in order."""
        try:
            while (item := await self._queue.get()) is not None:
                yield item
        finally:
            self._forget(self)


def selection(target: Target, labels: str | None, fields: str | None) -> Predicate:
    """What a list or watch request sees: its namespace and name, and both selectors."""
    by_label, by_field = label_selector(labels), field_selector(fields)

    def matches(obj: Json) -> bool:
        in_namespace = target.namespace is None or obj["metadata"].get("namespace") == target.namespace
        named = target.name is None or obj["metadata"]["name"] == target.name
        return in_namespace and named and by_label(obj) and by_field(obj)

    return matches
