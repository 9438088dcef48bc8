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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from slmpack.domain.conditions import Verdict
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.pack import PackReport
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.reasons import Problem
from slmpack.domain.snapshot import Key, ModelUnknown, Snapshot
from slmpack.render.pack_children import PackPod

__all__ = [
    "Clock",
    "Cluster",
    "Conflict",
    "EnginePod",
    "Forbidden",
    "Gone",
    "Invalid",
    "Leadership",
    "Loads",
    "Manifest",
    "ModelSource",
    "NotFound",
    "PackReports",
    "Packs",
    "PortError",
    "Supervisor",
    "Telemetry",
    "Unavailable",
    "Watched",
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

    async def patch_pod(self, *, namespace: str, name: str, patch: Manifest) -> bool:
        """Merge patch with a uid as precondition; False if that pod is gone."""
        ...

    async def apply_status(self, *, namespace: str, name: str, uid: str, status: Manifest) -> bool:
        """Server-side apply of an SLMDeployment's status; False, and no request, where it says the same already."""
        ...

    async def post_event(self, event: Manifest) -> None:
        """Create an events.k8s.io/v1 Event."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervisor:
    """Of a pack's pod that runs. Where any of this changes, it is asked anew."""

    key: Key
    uid: str
    owner_uid: str
    """Of its SLMDeployment."""
    address: str
    """The pod's IP."""
    port: int
    account: str
    """The pod's ServiceAccount."""
    restarts: int
    ready: bool
    published: int = 0
    """How many of its engines are endpoints."""


class Packs(Protocol):
    """How packs are told what to do. Raises PortError."""

    async def token_hash(self, *, owner_uid: str, pod: str) -> str:
        """SHA-256, in hex, of the token by which the supervisor of a new pod will know the operator."""
        ...

    async def set_engines(self, uid: str, running: tuple[int, ...]) -> None:
        """Tell the supervisor of this pod which engines are to run; saying it again changes nothing."""
        ...


class PackReports(Protocol):
    """What supervisors say. None of it raises."""

    async def refresh(self, there: Iterable[Supervisor]) -> None:
        """Have all that are due asked; only for those that are new it waits, and not for long. Others are forgotten."""
        ...

    def report(self, uid: str) -> PackReport | None:
        """What that of this pod said last; None where that is unknown, or too long ago."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePod:
    """A pod of ours, as those who measure it need to know it."""

    key: Key
    uid: str
    deployment: Key
    address: str
    """The pod's IP; empty where it has none yet."""
    ports: tuple[int, ...]
    """Where its engines answer, of those that are to run."""
    engines: int
    """How many it can run."""
    ready: int
    """How many answer requests."""
    ready_since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is to be measured."""

    deployments: frozenset[Key] = frozenset()
    scaled: frozenset[Key] = frozenset()
    """Those of them with spec.scaling."""
    pods: tuple[EnginePod, ...] = ()
    gpu_users: frozenset[Key] = frozenset()
    """All pods that request a GPU, strangers' as well: others that an exporter names use none."""


class Loads(Protocol):
    """What is measured of replicas and GPUs. None of it raises or blocks."""

    def watch(self, watched: Watched) -> None:
        """Have these measured from now on, and new ones at once."""
        ...

    def samples(self) -> Mapping[Key, LoadSample]:
        """The newest of each SLMDeployment; those that are too old are left out."""
        ...

    def gpus(self) -> tuple[GpuReading, ...]:
        """The newest of each GPU; those that are too old are left out."""
        ...

    def blind(self) -> Problem | None:
        """Why nothing at all is measured; None where something is, or where nothing needs to be."""
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

    def bare_packs(self) -> tuple[PackPod, ...]:
        """Packs that run and lack a slice for an engine."""
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
        """A write was done: create, delete, end, engines, endpoints, status or event."""
        ...

    def judged(self, verdicts: Mapping[Key, Verdict]) -> None:
        """What is said of every SLMDeployment now."""
        ...

    def planned(self, plan: ClusterPlan) -> None:
        """Where everything is, or is to be, now."""
        ...
