"""Readings of the GPU's memory, and what of it is each engine's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

__all__ = ["DeviceReading", "engine_bytes", "parse_reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One answer of NVML. `asked_at` is in the supervisor's seconds."""

    asked_at: float
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    processes: Mapping[int, int]
    """Bytes by process id, of the processes that NVML tells apart."""


def parse_reading(text: str, *, asked_at: float) -> DeviceReading:
    """The helper's line. ValueError with its reason if it has none."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.get("error"):
        raise ValueError(f"NVML: {fields.get('error') if isinstance(fields, dict) else text[:100]}")
    try:
        return DeviceReading(
            asked_at=asked_at,
            uuid=str(fields["uuid"]),
            name=str(fields["name"]),
            total_bytes=int(fields["totalBytes"]),
            used_bytes=int(fields["usedBytes"]),
            processes={int(item["pid"]): int(item["bytes"]) for item in fields["processes"]},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"NVML: {text[:100]!r} has no {error}") from None


def engine_bytes(reading: DeviceReading, *, tree: AbstractSet[int], delta: int | None) -> tuple[int | None, str]:
    """An engine's device memory and the basis: its processes' own, else what its start added to the GPU's."""
    own = [used for pid, used in reading.processes.items() if pid in tree]
    if own:
        return sum(own), "process"
    return (delta, "delta") if delta is not None else (None, "")
