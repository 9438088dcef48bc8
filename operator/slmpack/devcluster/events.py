"""Events: one stored form (core/v1), served in both API groups."""

from __future__ import annotations

from typing import Any

__all__ = ["to_core_event", "to_new_event"]

Json = dict[str, Any]

# events.k8s.io/v1 name -> core/v1 name, of the fields that differ.
_RENAMED = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
    "deprecatedSource": "source",
}


def to_core_event(event: Json) -> Json:
    """The core/v1 form of an events.k8s.io/v1 Event."""
    return {_RENAMED.get(key, key): value for key, value in event.items()} | {"apiVersion": "v1"}


def to_new_event(event: Json) -> Json:
    """The events.k8s.io/v1 form of a core/v1 Event."""
    back = {core: new for new, core in _RENAMED.items()}
    return {back.get(key, key): value for key, value in event.items()} | {"apiVersion": "events.k8s.io/v1"}
