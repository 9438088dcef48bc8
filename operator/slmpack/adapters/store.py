"""What we know of one kind of object: a LIST, brought up to date by events and by our own writes.

All three may come late and in any order. Each carries a resourceVersion, which grows with every change of the cluster:
the higher one wins, a deletion is remembered until a LIST is newer, and what a LIST is newer than is ignored. So
neither a late event nor a stale LIST drops or brings back an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from slmpack.domain.snapshot import Key

__all__ = ["KindStore", "key_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    uid: str
    version: int
    value: T | None
    """None: an object that does not concern us; it is counted, so that a missed deletion shows."""


class KindStore(Generic[T]):
    """Objects of one kind by key, each as `project` sees it."""

    def __init__(self, project: Callable[[Mapping[str, Any]], T | None]) -> None:
        self._project = project
        self._entries: dict[Key, _Entry[T]] = {}
        self._deleted: dict[Key, int] = {}
        self._listed = -1

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def listed(self) -> bool:
        """Whether a LIST is in."""
        return self._listed >= 0

    def values(self) -> Iterable[T]:
        """Everything that concerns us."""
        return [entry.value for entry in self._entries.values() if entry.value is not None]

    def unseen(self) -> Iterable[Key]:
        """Objects that do not concern us; their names are taken all the same."""
        return [key for key, entry in self._entries.items() if entry.value is None]

    def get(self, key: Key) -> T | None:
        """One object, if it is there and concerns us."""
        entry = self._entries.get(key)
        return entry.value if entry else None

    def replace(self, items: Iterable[Mapping[str, Any]], *, version: str) -> bool:
        """Take a whole LIST in; False (and nothing changes) if one that is newer has been taken before."""
        listed = _number(version)
        if listed < self._listed:
            return False
        fresh = {key: entry for raw in items for key, entry in [self._read(raw)]}
        newer = {key: entry for key, entry in self._entries.items() if entry.version > listed}
        self._deleted = {key: at for key, at in self._deleted.items() if at > listed}
        kept = {key: entry for key, entry in fresh.items() if entry.version > self._deleted.get(key, -1)}
        self._entries = {**kept, **newer}
        self._listed = listed
        return True

    def put(self, raw: Mapping[str, Any]) -> bool:
        """Take one object in, from an event or as the answer to our own write; True if what concerns us changed."""
        key, entry = self._read(raw)
        before = self._entries.get(key)
        floor = max(self._deleted.get(key, -1), before.version if before else self._listed)
        if entry.version <= floor:
            return False
        self._entries[key] = entry
        self._deleted.pop(key, None)
        return entry.value != (before.value if before else None)

    def drop(self, raw: Mapping[str, Any]) -> bool:
        """Take a deletion in; True if what concerns us changed."""
        key, version = key_of(raw), _version(raw)
        before = self._entries.get(key)
        if version < max(self._listed, before.version if before else -1):
            return False
        self._deleted[key] = max(version, self._deleted.get(key, -1))
        gone = self._entries.pop(key, None)
        return gone is not None and gone.value is not None

    def mark(self, key: Key, *, uid: str, change: Callable[[T], T]) -> None:
        """Change our picture of one object after a write whose answer does not hold the object."""
        entry = self._entries.get(key)
        if entry is not None and entry.uid == uid and entry.value is not None:
            self._entries[key] = _Entry(uid, entry.version, change(entry.value))

    def _read(self, raw: Mapping[str, Any]) -> tuple[Key, _Entry[T]]:
        uid = str((raw.get("metadata") or {}).get("uid") or "")
        return key_of(raw), _Entry(uid, _version(raw), self._project(raw))


def key_of(raw: Mapping[str, Any]) -> Key:
    """Namespace (empty for what has none) and name."""
    meta = raw.get("metadata") or {}
    return Key(str(meta.get("namespace") or ""), str(meta.get("name") or ""))


def _version(raw: Mapping[str, Any]) -> int:
    return _number((raw.get("metadata") or {}).get("resourceVersion"))


def _number(text: object) -> int:
    """Resource versions are whole numbers that grow (KEP-5504 states it); what is not one counts as oldest."""
    text = str(text or "")
    return int(text) if text.isdecimal() else 0
