"""What the controller needs of the outside world, and the one tree of errors that adapters raise.

PortError
├── Unavailable      no answer, a timeout, a 5xx, a 429 that outlived its retries: try later
├── Forbidden        401 or 403: permissions, quota or an admission policy said no
├── NotFound         404
├── Conflict         409: it exists already, or somebody else changed it
├── Gone             410: the resourceVersion is too old, list again
└── Invalid          400 or 422: the API server refuses the object
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from slmpack.domain.conditions import Verdict
from slmpack.domain.snapshot import Key, ModelUnknown, Snapshot

__all__ = [
    "Clock",
    "Cluster",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "Leadership",
    "Manifest",
    "ModelSource",
    "NotFound",
    "PortError",
    "Telemetry",
    "Unavailable",
    "World",
]

Manifest = Mapping[str, Any]


class PortError(Exception):
    """Something outside is broken; `status` is the HTTP status where there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(PortError):
    """No usable answer; the same call may work later."""


class Forbidden(PortError):
    """Permissions, quota or admission said no."""


class NotFound(PortError):
    """The object is not there."""


class Conflict(PortError):
    """The object exists already, or changed meanwhile."""


class Gone(PortError):
    """The resourceVersion is too old."""


class Invalid(PortError):
    """The API server refuses the object."""


class Clock(Protocol):
    """Time, passed in so that tests need not sleep."""

    def now(self) -> datetime:
        """The present, timezone-aware."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...


class Cluster(Protocol):
    """The writes of one cycle; every method raises PortError."""

    async def create(self, manifest: Manifest) -> bool:
        """POST; False if its owner's object of that name was there already, Conflict if another's was."""
        ...

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply as field manager slmpack, nothing where it is so already.

        Conflict if an object of that name is not controlled by the manifest's owner.
        """
        ...

    async def delete(self, *, kind: str, namespace: str, name: str, uid: str) -> None:
        """DELETE with a uid precondition; already gone is success."""
        ...

    async def end_pod(self, *, namespace: str, name: str, uid: str, reason: str) -> None:
        """Let the kubelet fail the pod: its logs and its name stay as evidence."""
        ...

    async def apply_status(self, *, namespace: str, name: str, uid: str, status: Manifest) -> bool:
        """Server-side apply of an SLMDeployment's status; False, and no request, where it says the same already."""
        ...

    async def post_event(self, event: Manifest) -> None:
        """Create an events.k8s.io/v1 Event."""
        ...


class ModelSource(Protocol):
    """Model configs by reference. Never blocks: what is not there yet is ModelUnknown, and `wake` is called later."""

    def lookup(self, *, source: str, revision: str | None) -> Mapping[str, object] | ModelUnknown:
        """The config.json if it is known now, else why not."""
        ...


class World(Protocol):
    """What the operator sees of the cluster."""

    async def refresh(self) -> None:
        """Read again what is due to be read again. Raises PortError."""
        ...

    def snapshot(self) -> Snapshot:
        """The world as it is known; only after a first `refresh`."""
        ...


class Leadership(Protocol):
    """The right to write: one planner packs a cluster."""

    @property
    def held(self) -> bool:
        """Whether it is ours at this moment."""
        ...

    @property
    def holder(self) -> str:
        """Who has it, or what keeps us from knowing."""
        ...


class Telemetry(Protocol):
    """The operator's own metrics."""

    def turn(self, result: str, *, seconds: float) -> None:
        """A turn of the loop ended: ok, failed or standby."""
        ...

    def wrote(self, kind: str) -> None:
        """A write was done: create, delete, end, status or event."""
        ...

    def judged(self, verdicts: Mapping[Key, Verdict]) -> None:
        """What is said of every SLMDeployment now."""
        ...
