"""A pack: one pod with several engines. What it was made for, which are to run, and what its supervisor says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["CONTROL_PORT", "MOST_ENGINES", "EngineReport", "EngineState", "PackRecord", "PackReport"]

CONTROL_PORT = 8090
"""Of the pod, where its supervisor answers the operator and the kubelet's probes."""
MOST_ENGINES = 64
"""As many as a supervisor takes. No pack has so many: MPS takes 48 clients a GPU, 60 since CUDA 13.1."""


class EngineState(Enum):
    """What the supervisor says of an engine."""

    STOPPED = "stopped"
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRecord:
    """What the pod's annotations say of a pack."""

    engines: int
    """How many it can run; fixed when the pod was made."""
    running: tuple[int, ...]
    """Which are to run: each is a replica. Rising indexes below `engines`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One engine, as the supervisor sees it."""

    index: int
    state: EngineState
    attached: bool | None
    """Whether its limit was seen from inside; None: not tried yet."""
    attached_message: str = ""
    """What was seen, in the supervisor's words."""
    restarts: int = 0
    reason: str = ""
    message: str = ""
    device_bytes: int | None = None
    """Device memory it holds, as NVML says; None where unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReport:
    """A supervisor's answer."""

    running: tuple[int, ...]
    """Which engines it means to run."""
    ending: bool
    engines: tuple[EngineReport, ...]

    def ready(self, running: tuple[int, ...]) -> tuple[int, ...]:
        """Those of `running` that answer requests."""
        return tuple(e.index for e in self.engines if e.index in running and e.state is EngineState.READY)
