"""Lists, events and own writes in any order: nothing is dropped and nothing comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmpack.adapters.store import KindStore
from slmpack.domain.snapshot import Key


def _raw(name: str, version: int, **rest: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)},
        **rest,
    }


def _project(raw: Mapping[str, Any]) -> str | None:
    value: str | None = raw.get("value", "seen")
    return value


def _store() -> KindStore[str]:
    return KindStore(_project)


def _get(store: KindStore[str], name: str) -> str | None:
    return store.get(Key("ns", name))


def test_a_list_replaces_what_it_is_newer_than() -> None:
    store = _store()
    store.replace([_raw("a", 1), _raw("b", 2)], version="5")
    store.replace([_raw("b", 2)], version="6")
    assert _get(store, "a") is None
    assert len(store) == 1


def test_an_object_newer_than_a_list_survives_it() -> None:
    store = _store()
    store.replace([], version="5")
    assert store.put(_raw("a", 7))
    store.replace([], version="6")
    assert _get(store, "a") == "seen"


def test_a_stale_list_neither_drops_nor_resurrects() -> None:
    store = _store()
    store.replace([_raw("a", 1), _raw("b", 2)], version="5")
    assert store.drop(_raw("b", 9))
    assert store.replace([_raw("a", 1), _raw("b", 2)], version="8")
    assert (_get(store, "a"), _get(store, "b")) == ("seen", None)
    assert not store.replace([_raw("b", 2)], version="7")
    assert (_get(store, "a"), _get(store, "b")) == ("seen", None)


def test_late_events_are_ignored() -> None:
    store = _store()
    store.replace([_raw("a", 4, value="new")], version="5")
    assert not store.put(_raw("a", 3, value="old"))
    assert not store.put(_raw("gone-before-the-list", 4))
    assert _get(store, "a") == "new"
    store.drop(_raw("a", 6))
    assert not store.put(_raw("a", 5))
    assert _get(store, "a") is None


def test_a_late_deletion_does_not_remove_the_successor() -> None:
    store = _store()
    store.replace([], version="1")
    store.put(_raw("a", 9, value="successor"))
    assert not store.drop(_raw("a", 5))
    assert _get(store, "a") == "successor"


def test_only_a_change_of_what_is_read_counts() -> None:
    store = _store()
    store.replace([_raw("a", 1)], version="1")
    assert not store.put(_raw("a", 2))
    assert store.put(_raw("a", 3, value="other"))
    assert not store.put(_raw("stranger", 4, value=None))
    assert not store.drop(_raw("stranger", 5))


def test_strangers_are_counted_but_not_shown() -> None:
    store = _store()
    store.replace([_raw("a", 1), _raw("stranger", 1, value=None)], version="1")
    assert len(store) == 2
    assert list(store.values()) == ["seen"]


def test_marking_needs_the_same_object() -> None:
    store = _store()
    store.replace([_raw("a", 1)], version="1")
    store.mark(Key("ns", "a"), uid="another", change=str.upper)
    assert _get(store, "a") == "seen"
    store.mark(Key("ns", "a"), uid="uid-a", change=str.upper)
    assert _get(store, "a") == "SEEN"
