"""The words of the director: what is observed, what an engine is in, what is to be done."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "Action",
    "Attachment",
    "Do",
    "DomainFacts",
    "Ending",
    "EngineFacts",
    "EngineState",
    "Phase",
    "Reason",
    "Verdict",
]


class Phase(enum.Enum):
    """Of one engine."""

    STOPPED = "stopped"
    WAITING = "waiting"
    CHECKING = "checking"
    """The probe runs; the engine's process does not exist."""
    LAUNCHED = "launched"
    READY = "ready"
    WITHDRAWING = "withdrawing"
    """Its endpoint is withdrawn; it still serves."""
    DRAINING = "draining"
    """SIGTERM was sent."""
    ENDING = "ending"
    """Its MPS clients are being terminated; SIGKILL follows."""
    CLEANING = "cleaning"
    """It has ended; some of its children have not."""
    BACKOFF = "backoff"
    FAILED = "failed"

    @property
    def state(self) -> str:
        """The word in the report, which knows less."""
        return _STATES.get(self, self.value)


_STATES = {
    Phase.CHECKING: "starting",
    Phase.LAUNCHED: "starting",
    Phase.WITHDRAWING: "stopping",
    Phase.DRAINING: "stopping",
    Phase.ENDING: "stopping",
    Phase.CLEANING: "stopping",
}


class Reason(enum.Enum):
    """Why an engine does not serve."""

    NONE = ""
    STARTING = "Starting"
    CRASHED = "Crashed"
    NOT_ATTACHED = "NotAttached"
    NOT_READY_IN_TIME = "NotReadyInTime"
    PORT_IN_USE = "PortInUse"
    START_FAILED = "StartFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """Whether a process is under its MPS limit, and how that was seen."""

    attached: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of the check before a start: `reason` is NONE if the engine may start."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """One engine as observed in this turn."""

    verdict: Verdict | None = None
    """Of the check that was asked for last; None while it runs."""
    exit_code: int | None = None
    """Of its process; negative: the signal. None while it runs, or if there is none."""
    gone: bool = True
    """None of its processes is left."""
    last_line: str = ""
    """Of its output."""
    healthy: bool = False
    attachment: Attachment | None = None
    """Of its processes, seen after it became healthy; None: not seen yet."""
    withdrawn: bool = False
    """The API server holds no ready endpoint of it."""
    clients_terminated: bool = False
    """The control daemon was told, and answered or did not in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFacts:
    """The GPU's fault domain as observed in this turn."""

    daemon_runs: bool
    """The control daemon has answered, and its process exists."""
    fault: str = ""
    """Why the domain is undefined; empty: it is not."""


class Do(enum.Enum):
    """What is to be done with one engine."""

    CHECK = "check"
    """Its port and, by a probe in its environment, its limit."""
    CANCEL_CHECK = "cancel the check"
    LAUNCH = "launch"
    SIGTERM = "SIGTERM"
    TERMINATE_CLIENTS = "terminate its MPS clients"
    KILL = "SIGKILL"
    FORGET = "forget its last process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do."""

    engine: int
    do: Do


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The supervisor ends with `code` once all engines have."""

    code: int
    reason: str
    fatal: bool
    """No time is given to requests: none of them will be answered."""


@dataclass(slots=True, kw_only=True)
class EngineState:
    """One engine as the director knows it. Times are the caller's, in seconds."""

    phase: Phase = Phase.STOPPED
    since: float = 0.0
    reason: Reason = Reason.NONE
    message: str = ""
    healthy: bool = False
    attachment: Attachment | None = None
    restarts: int = 0
    failures: int = 0
    """Since it last was ready for long; the back-off grows with them."""
    retry_at: float = 0.0
    launched_at: float = 0.0
    served: bool = False
    """This process was ready once, so there may be requests in flight."""
    healthy_at: float | None = None
    """Since when it is healthy without a break."""
    unhealthy_at: float | None = None
    withdrawn_at: float | None = None
    asked: bool = False
    """The control daemon was asked to terminate the clients among its leftovers."""
    after: Verdict | None = None
    """Why it is being ended, if not because it is unwanted."""

    @property
    def ready(self) -> bool:
        """It serves."""
        return self.phase is Phase.READY and self.healthy

    def enter(self, phase: Phase, *, now: float) -> None:
        """A new phase begins."""
        self.phase, self.since = phase, now

    def stop(self, *, now: float) -> None:
        """It shall not run; nothing that went wrong counts any more."""
        if self.phase is not Phase.STOPPED:
            self.enter(Phase.STOPPED, now=now)
        self.reason, self.message, self.failures, self.attachment = Reason.NONE, "", 0, None
