"""The report of the control API."""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence

from slmpack.supervisor.config import EngineConfig
from slmpack.supervisor.device import DeviceReading
from slmpack.supervisor.states import EngineState

__all__ = ["engine_report", "gpu_report"]


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


def engine_report(  # noqa: PLR0913 - all that is said of an engine
    config: EngineConfig,
    state: EngineState,
    *,
    now: float,
    wanted: bool,
    memory: tuple[int | None, str],
    cores: Sequence[int] | None,
) -> dict[str, object]:
    """One engine; `now` in the seconds of `state`, `memory` in bytes with its basis."""
    attachment = state.attachment
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
        "since": _rfc3339(ago=now - state.since),
        "deviceBytes": memory[0],
        "deviceBasis": memory[1],
        "cores": None if cores is None else list(cores),
    }


def _rfc3339(*, ago: float) -> str:
    """The time `ago` seconds before now."""
    moment = time.gmtime(calendar.timegm(time.gmtime()) - max(0.0, ago))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)
