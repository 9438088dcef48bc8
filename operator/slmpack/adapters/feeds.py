"""When a kind is listed: at the start, every five minutes, at once when it is suspect, and when its number is wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from slmpack.adapters.store import KindStore
from slmpack.ports import Clock, Forbidden, NotFound

__all__ = ["COUNT_SECONDS", "RECOUNT_SECONDS", "RELIST_SECONDS", "Feed", "Lister"]

logger = logging.getLogger(__name__)

RELIST_SECONDS = 300.0
COUNT_SECONDS = 15.0
RECOUNT_SECONDS = 5.0
"""A watch may lag behind a busy cluster by some seconds: the number must be wrong twice."""


class Lister(Protocol):
    """The reads that observing needs; `KubeClient` is one."""

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[dict[str, Any]], str]:
        """A whole collection and its resourceVersion."""
        ...

    async def count(self, path: str) -> int:
        """How many objects a collection holds."""
        ...


@dataclass(slots=True, kw_only=True)
class Feed:
    """One kind: where it is listed, and when that is due."""

    path: str
    store: KindStore[Any]
    beside: tuple[KindStore[Any], ...] = ()
    """Fed with the same objects."""
    label: str = ""
    """Only objects that this selector selects, which the API server cannot count; empty: all."""
    optional: bool = False
    """Whether the API server may well not serve it."""
    absent: str = ""
    """Why it could not be read, of an optional kind; empty while it can."""
    listed_at: float | None = None
    counted_at: float = 0.0
    suspect: bool = True
    """LIST at once."""
    uncounted: bool = False
    """Count at once, and believe it: the watch has begun anew."""
    miscounted: bool = False
    """Whether the last count was another than ours."""

    @property
    def complete(self) -> bool:
        """Whether all there is to know has been read."""
        return self.store.listed or bool(self.absent)

    async def refresh(self, client: Lister, clock: Clock) -> None:
        """LIST it if that is due. Raises PortError; then it stays due."""
        if await self._is_due(client, now=clock.monotonic()):
            await self._list(client, started=clock.monotonic())

    async def _is_due(self, client: Lister, *, now: float) -> bool:
        if self.suspect or self.listed_at is None or now - self.listed_at >= RELIST_SECONDS:
            return True
        if self.absent or self.label or not (self.uncounted or now - self.counted_at >= COUNT_SECONDS):
            return False
        sure, self.uncounted, self.counted_at = self.uncounted or self.miscounted, False, now
        there = await client.count(self.path)
        self.miscounted = there != len(self.store)
        if not self.miscounted:
            return False
        if not sure:
            self.counted_at = now - COUNT_SECONDS + RECOUNT_SECONDS
            return False
        logger.info("%s: the cluster has %d, we know %d: listing anew", self.path, there, len(self.store))
        return True

    async def _list(self, client: Lister, *, started: float) -> None:
        self.suspect = True
        try:
            items, version = await client.list(self.path, {"labelSelector": self.label} if self.label else None)
        except (NotFound, Forbidden) as error:
            if not self.optional:
                raise
            self.suspect, self.listed_at = False, started
            self.absent = "it is not served" if isinstance(error, NotFound) else f"it may not be read: {error}"
            return
        self.absent = ""
        for store in self.beside:
            store.replace(items, version=version)
        if self.store.replace(items, version=version):
            self.suspect, self.listed_at, self.counted_at = False, started, started
            self.miscounted = False
        else:
            logger.warning("%s: the list (%s) is older than one before; it is not used", self.path, version)
