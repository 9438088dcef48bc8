"""`--loads FILE`: what would be measured, from a file, so that a scale decision can be seen before it is one.

The keys are those of `domain.load.LoadSample` and `GpuReading`; docs/explain.md lists them with their units.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from math import inf, isfinite
from pathlib import Path
from typing import Any

import yaml

from slmpack.cli.manifests import BadFileError
from slmpack.domain.load import GpuReading, Latencies, LoadSample
from slmpack.domain.snapshot import Key

__all__ = ["Measured", "read_loads"]

Json = dict[str, Any]

LARGEST_BYTES = 2**24
HISTOGRAMS = frozenset({"ttft_of", "tpot_of"})
NUMBERS = frozenset(field.name for field in fields(LoadSample)) - {"at", "reporting", "trouble"} - HISTOGRAMS
GPU_NUMBERS = frozenset({"power_w", "gr_engine_active", "dram_active"})
PARTS = (".kv_usage", ".gr_engine_active", ".dram_active")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """As if it had been measured at the moment that was given."""

    loads: Mapping[Key, LoadSample]
    gpus: tuple[GpuReading, ...]


def read_loads(path: str, *, now: datetime) -> Measured:
    """Read the file. Raises BadFileError, which names the file and the key."""
    obj = _mapping(_yaml(path), path)
    _known(obj, {"loads", "gpus"}, path)
    loads = {
        _key(name, f"{path}: loads"): _sample(_mapping(body, f"{path}: loads.{name}"), f"{path}: loads.{name}", now)
        for name, body in _mapping(obj.get("loads") or {}, f"{path}: loads").items()
    }
    gpus = obj.get("gpus") or []
    if not isinstance(gpus, list):
        raise BadFileError(f"{path}: gpus must be a list of GPUs")
    readings = (
        _reading(_mapping(body, f"{path}: gpus[{n}]"), f"{path}: gpus[{n}]", now) for n, body in enumerate(gpus)
    )
    return Measured(loads=loads, gpus=tuple(readings))


def _yaml(path: str) -> object:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BadFileError(f"--loads {path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > LARGEST_BYTES:
        raise BadFileError(f"--loads {path}: is larger than {LARGEST_BYTES // 2**20} MiB")
    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadFileError(f"--loads {path}: is not readable YAML: {str(error)[:200]}") from error


def _sample(body: Json, place: str, now: datetime) -> LoadSample:
    _known(body, NUMBERS | HISTOGRAMS | {"reporting"}, place)
    reporting = body.get("reporting")
    if not isinstance(reporting, int) or isinstance(reporting, bool) or reporting < 0:
        raise BadFileError(
            f"{place}.reporting: {_shown(reporting)} is not the number of replicas that this is measured of"
        )
    numbers: dict[str, Any] = {name: _number(body[name], f"{place}.{name}") for name in body if name in NUMBERS}
    histograms: dict[str, Any] = {
        name: _latencies(body[name], f"{place}.{name}") for name in body if name in HISTOGRAMS
    }
    return LoadSample(at=now, reporting=reporting, **numbers, **histograms)


def _latencies(value: object, place: str) -> Latencies | None:
    """{0.5: 90, 1: 99, +Inf: 100}: requests at or below each latency in seconds, as vLLM's buckets count them."""
    if value is None:
        return None
    try:
        found = tuple((float(bound), float(count)) for bound, count in _mapping(value, place).items())
    except (TypeError, ValueError):
        found = ()
    latencies = Latencies(at_most=found)
    if not latencies.rises or not all(0 <= count < inf for _, count in found):
        raise BadFileError(
            f"{place}: must be requests at or below each latency in seconds, rising up to +Inf, for instance "
            f"{{0.5: 90, 1: 99, +Inf: 100}}; got {_shown(value)}"
        )
    return latencies


def _reading(body: Json, place: str, now: datetime) -> GpuReading:
    _known(body, GPU_NUMBERS | {"node", "uuid", "pods"}, place)
    for name in ("node", "uuid"):
        if not isinstance(body.get(name), str):
            raise BadFileError(f"{place}.{name}: {_shown(body.get(name))} is not a name; a GPU has a node and a uuid")
    pods = body.get("pods") or []
    if not isinstance(pods, list) or not all(isinstance(pod, str) for pod in pods):
        raise BadFileError(f"{place}.pods: must be a list of namespace/name")
    numbers: dict[str, Any] = {name: _number(body[name], f"{place}.{name}") for name in body if name in GPU_NUMBERS}
    return GpuReading(node=body["node"], uuid=body["uuid"], at=now, pods=tuple(pods), **numbers)


def _number(value: object, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
        raise BadFileError(f"{place}: {_shown(value)} is not a number of at least 0; leave it out where it is unknown")
    if value > 1 and place.endswith(PARTS):
        raise BadFileError(f"{place}: {_shown(value)} is not a part from 0 to 1; write 62 % as 0.62")
    return float(value)


def _key(name: object, place: str) -> Key:
    namespace, slash, own = str(name).rpartition("/")
    if not own or (slash and not namespace) or "/" in namespace:
        raise BadFileError(f"{place}: {_shown(name)} is not NAMESPACE/NAME of an SLMDeployment")
    return Key(namespace or "default", own)


def _mapping(value: object, place: str) -> Json:
    if not isinstance(value, dict):
        raise BadFileError(f"{place}: must be a mapping, got {_shown(value)}")
    return value


def _known(body: Mapping[str, object], names: Collection[str], place: str) -> None:
    for key in body:
        if key not in names:
            raise BadFileError(f"{place}: unknown key {_shown(key)}; {_meant(str(key), names)}")


def _meant(key: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    near = difflib.get_close_matches(key, ordered, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(ordered)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
