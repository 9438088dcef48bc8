"""What the supervisor is told: the environment that the operator wrote, parsed strictly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

__all__ = ["ConfigError", "EngineConfig", "Pack", "Place", "Timing", "parse_indexes", "parse_pack", "parse_place"]

MIB = 1024 * 1024
PACK_KEYS = frozenset(
    {
        "version", "command", "engines", "running", "controlPort", "tokenSHA256",
        "startSeconds", "endpointSeconds", "drainSeconds", "exitSeconds",
    }
)  # fmt: skip
ENGINE_KEYS = frozenset({"port", "limitMiB", "smPercent", "args", "slice"})
MAX_SECONDS = 86_400.0
MAX_ENGINES = 64
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


class ConfigError(Exception):
    """The message names the field, its value and the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine; `index` is its place in the list."""

    index: int
    port: int
    limit_mib: int
    sm_percent: float | None
    args: tuple[str, ...]
    slice: str
    """The name of its EndpointSlice."""

    @property
    def limit_bytes(self) -> int:
        """Pinned device memory."""
        return self.limit_mib * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds; fractions are allowed."""

    start: float
    endpoint: float
    drain: float
    exit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """SLMPACK_PACK."""

    command: tuple[str, ...]
    engines: tuple[EngineConfig, ...]
    running: frozenset[int]
    control_port: int
    token_sha256: str
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the pod is."""

    pod_name: str
    namespace: str
    pod_uid: str
    pod_ip: str
    node: str
    account: Path
    """The folder of `token` and `ca.crt`."""
    bind: str | None
    """The one address of the control API and of the engines, for tests with several pods on a machine; None: all."""
    api_host: str
    api_port: str


def parse_pack(text: str) -> Pack:
    """SLMPACK_PACK, version 1. ConfigError for anything that is not exactly as agreed."""
    fields = _object(_json(text), keys=PACK_KEYS, optional=frozenset(), at="SLMPACK_PACK")
    if fields["version"] != 1 or isinstance(fields["version"], bool):
        _wrong("version", fields["version"], "must be 1")
    engines = tuple(_engine(item, index=index) for index, item in enumerate(_list(fields["engines"], at="engines")))
    if not 1 <= len(engines) <= MAX_ENGINES:
        _wrong("engines", len(engines), f"must be 1 to {MAX_ENGINES} of them")
    control_port = _port(fields["controlPort"], at="controlPort")
    _distinct([control_port, *(engine.port for engine in engines)], at="controlPort and engines[].port")
    _distinct([engine.slice for engine in engines], at="engines[].slice")
    return Pack(
        command=_texts(fields["command"], at="command", empty=False),
        engines=engines,
        running=parse_indexes(fields["running"], count=len(engines), at="running"),
        control_port=control_port,
        token_sha256=_digest(fields["tokenSHA256"], at="tokenSHA256"),
        timing=Timing(
            start=_seconds(fields["startSeconds"], at="startSeconds", least=0.001),
            endpoint=_seconds(fields["endpointSeconds"], at="endpointSeconds"),
            drain=_seconds(fields["drainSeconds"], at="drainSeconds"),
            exit=_seconds(fields["exitSeconds"], at="exitSeconds"),
        ),
    )


def parse_place(env: Mapping[str, str]) -> Place:
    """The pod's own variables. ConfigError if one that the kubelet fills is missing."""

    def need(name: str) -> str:
        return env.get(name) or _wrong(name, env.get(name), "must be set")

    return Place(
        pod_name=need("POD_NAME"),
        namespace=need("POD_NAMESPACE"),
        pod_uid=need("POD_UID"),
        pod_ip=need("POD_IP"),
        node=need("NODE_NAME"),
        account=Path(env.get("SLMPACK_ACCOUNT") or "/var/run/secrets/slmpack"),
        bind=env.get("SLMPACK_BIND") or None,
        api_host=need("KUBERNETES_SERVICE_HOST"),
        api_port=need("KUBERNETES_SERVICE_PORT"),
    )


def parse_indexes(value: object, *, count: int, at: str) -> frozenset[int]:
    """Distinct indexes of engines. ConfigError else."""
    found: list[int] = []
    for item in _list(value, at=at):
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < count:
            _wrong(at, item, f"must hold engine indexes from 0 to {count - 1}")
        found.append(item)
    _distinct(found, at=at)
    return frozenset(found)


def _engine(value: object, *, index: int) -> EngineConfig:
    at = f"engines[{index}]"
    fields = _object(value, keys=ENGINE_KEYS, optional=frozenset({"smPercent"}), at=at)
    limit, percent, name = fields["limitMiB"], fields.get("smPercent"), fields["slice"]
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        _wrong(f"{at}.limitMiB", limit, "must be a whole number of MiB above 0")
    if percent is not None and not 0 < _number(percent, at=f"{at}.smPercent") <= 100:
        _wrong(f"{at}.smPercent", percent, "must be null or above 0 and at most 100")
    if not isinstance(name, str) or not NAME.match(name):
        _wrong(f"{at}.slice", name, "must be the name of an EndpointSlice")
    return EngineConfig(
        index=index,
        port=_port(fields["port"], at=f"{at}.port"),
        limit_mib=limit,
        sm_percent=None if percent is None else _number(percent, at=f"{at}.smPercent"),
        args=_texts(fields["args"], at=f"{at}.args", empty=True),
        slice=name,
    )


def _wrong(at: str, value: object, rule: str) -> NoReturn:
    raise ConfigError(f"{at}: {json.dumps(value, default=repr)[:100]} {rule}")


def _json(text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"SLMPACK_PACK: not JSON: {error}") from None
    return parsed


def _object(value: object, *, keys: frozenset[str], optional: frozenset[str], at: str) -> dict[str, object]:
    if not isinstance(value, dict):
        _wrong(at, value, "must be an object")
    if unknown := sorted(set(value) - keys):
        _wrong(at, unknown, f"are not fields; these are: {', '.join(sorted(keys))}")
    if missing := sorted(keys - optional - set(value)):
        _wrong(at, missing, "are missing")
    return value


def _list(value: object, *, at: str) -> list[object]:
    if not isinstance(value, list):
        _wrong(at, value, "must be a list")
    return value


def _texts(value: object, *, at: str, empty: bool) -> tuple[str, ...]:
    texts: list[str] = []
    for item in _list(value, at=at):
        if not isinstance(item, str) or "\0" in item:
            _wrong(at, item, "must be text without NUL")
        texts.append(item)
    if not texts and not empty:
        _wrong(at, value, "must not be empty")
    return tuple(texts)


def _port(value: object, *, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_535:
        _wrong(at, value, "must be a port from 1 to 65535")
    return value


def _number(value: object, *, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        _wrong(at, value, "must be a number")
    return float(value)


def _seconds(value: object, *, at: str, least: float = 0.0) -> float:
    number = _number(value, at=at)
    if not least <= number <= MAX_SECONDS:
        _wrong(at, value, f"must be {least:g} to {MAX_SECONDS:g} seconds")
    return number


def _digest(value: object, *, at: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        _wrong(at, value, "must be 64 lower-case hexadecimal digits")
    return value


def _distinct(values: list[int] | list[str], *, at: str) -> None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            _wrong(at, value, "must not occur twice")
        seen.add(value)
