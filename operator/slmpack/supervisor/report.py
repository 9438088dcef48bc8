"""The report of the control API."""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass

from slmpack.supervisor.config import EngineConfig
from slmpack.supervisor.device import DeviceReading
from slmpack.supervisor.states import EngineState, Phase

__all__ = ["DaemonReport", "EngineMemory", "engine_report", "gpu_report", "rfc3339"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """The MPS control daemon: running, starting or dead."""

    state: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Device memory of one engine, and how it was found: process, delta or nothing."""

    used_bytes: int | None = None
    basis: str = ""


def rfc3339(*, ago: float) -> str:
    """The time `ago` seconds before now."""
    moment = time.gmtime(calendar.timegm(time.gmtime()) - max(0.0, ago))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)


def gpu_report(reading: DeviceReading | None) -> dict[str, object] | None:
    """The GPU; None while NVML does not answer."""
    if reading is None:
        return None
    return {
        "uuid": reading.uuid,
        "name": reading.name,
        "totalBytes": reading.total_bytes,
        "usedBytes": reading.used_bytes,
    }


def engine_report(
    config: EngineConfig, state: EngineState, *, now: float, memory: EngineMemory, wanted: bool
) -> dict[str, object]:
    """One engine, but for its cores; `now` in the seconds of `state`."""
    attachment = state.attachment
    alive = state.phase not in {Phase.STOPPED, Phase.WAITING, Phase.CHECKING, Phase.BACKOFF, Phase.FAILED}
    return {
        "index": config.index,
        "wanted": wanted,
        "state": state.phase.state,
        "ready": state.ready,
        "port": config.port,
        "limitBytes": config.limit_bytes,
        "attached": None if attachment is None else attachment.attached,
        "attachedMessage": "" if attachment is None else attachment.message,
        "restarts": state.restarts,
        "reason": state.reason.value,
        "message": state.message,
        "since": rfc3339(ago=now - state.since),
        "deviceBytes": memory.used_bytes if alive else None,
        "deviceBasis": memory.basis if alive else "",
    }
