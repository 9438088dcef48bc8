"""What the planner sees: one frozen copy of the world, as adapters read it. No rule lives here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from slmpack.domain.choice import ChoicePolicy
from slmpack.domain.dra import DraDevice
from slmpack.domain.engine import EngineTable, EngineVersion
from slmpack.domain.footprint import Footprint
from slmpack.domain.gpu import GpuCatalogue
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.model import ModelProfile
from slmpack.domain.pack import PackRecord, PackReport
from slmpack.domain.performance_table import PerformanceTable
from slmpack.domain.profile import Profile
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScaleNote, ScaleState, ScalingSpec
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.sharing import Mode, WhenFull
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = [
    "Condition",
    "Demand",
    "DeploymentView",
    "Key",
    "ModelUnknown",
    "NodePins",
    "NodeTerm",
    "NodeView",
    "PodPhase",
    "PodView",
    "Policy",
    "Rejected",
    "ReplicaRecord",
    "Snapshot",
    "Taint",
    "Toleration",
]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A node's taint."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """A pod's toleration, as core/v1 means it: an empty key with Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as the API server has it. Allocatable: extended resources as counts, cpu in millicores, memory in bytes.

    Every quantity of a pod below is in the same units.
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    allocatable: Mapping[str, int]
    used_by_others: Mapping[str, int] = field(default_factory=dict)
    """cpu, memory and pods that pods without a PodView (no GPU, not ours) request on this node, summed; and devices
    that others' ResourceClaims hold."""
    devices: tuple[DraDevice, ...] = ()
    """What a DRA driver publishes here; `allocatable` counts those that offer something, under their resource."""


class PodPhase(Enum):
    """`status.phase`."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTerm:
    """A rule for a node's labels, as node affinity has it."""

    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: tuple[str, ...] = ()

    @property
    def is_label(self) -> bool:
        """Whether it says just one label."""
        return self.operator == "In" and len(self.values) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePins:
    """What the node must be like where a pod with a share of it can run that was made for no node."""

    labels: tuple[tuple[str, str], ...]
    """By key; they pin the GPU's product and the kind of share: the engine's settings hold wherever it lands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """What we wrote on a replica's pod when we made it, so that a restart needs no network and no memory."""

    deployment: Key
    owner_uid: str
    ordinal: int
    spec_hash: str
    """Of the user's spec only."""
    render_version: str
    """Of the renderer; a difference is reported as outdated and restarts nothing."""
    node: str
    """The node that the pod's required affinity names; empty where `pins` say what its node must be like."""
    pins: NodePins | None = None
    resource: str
    share: str
    """`describe_share` of the share it was placed with."""
    starts_alone: bool
    footprint: Footprint | None
    max_model_len: int | None
    max_num_seqs: int | None
    attempt: int
    """1 for a first start; one more for each start that failed before it."""
    replaces: str
    """Name of the failed pod that this one follows, or empty."""
    pack: PackRecord | None = None
    """None for a pod with one engine."""

    @property
    def replicas(self) -> int:
        """How many replicas the pod is meant to run."""
        return 1 if self.pack is None else len(self.pack.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """A pod that requests a GPU or carries our label. Requests as in NodeView.allocatable."""

    key: Key
    uid: str
    node: str | None
    """The node it is bound to."""
    requests: Mapping[str, int]
    phase: PodPhase
    created: datetime
    bound_at: datetime | None = None
    """When the scheduler bound it to its node; None: not yet, or nobody says."""
    deleting: bool
    ready: bool
    ready_since: datetime | None
    was_ready: bool
    """Ready now or at any time before."""
    reason: str = ""
    """`status.reason`, or the container's waiting or terminated reason: the most specific one."""
    message: str = ""
    exit_code: int | None = None
    restarts: int = 0
    ended: str = ""
    """Why we let it fail (annotation slmpack.dev/ended), or empty."""
    finished_at: datetime | None = None
    """When a failed pod failed."""
    unschedulable: str = ""
    """The scheduler's message while it cannot bind the pod."""
    record: ReplicaRecord | None = None
    """None for a stranger's pod."""
    pack: PackReport | None = None
    """What its supervisor said last; None where it is no pack, or said nothing."""

    @property
    def finished(self) -> bool:
        """Whether it holds no resources any more."""
        return self.phase in {PodPhase.FAILED, PodPhase.SUCCEEDED}

    @property
    def awaits_node(self) -> bool:
        """Whether it was made for no node (whenFull: Pending), and has none yet."""
        waits = self.record is not None and self.record.pins is not None and self.node is None
        return waits and not (self.finished or self.deleting or self.ended)

    @property
    def begun(self) -> datetime:
        """Since when it starts: a pod that waits for a node starts when it has one."""
        return self.bound_at or self.created

    @property
    def ready_replicas(self) -> int:
        """How many of its replicas answer requests; of a pack that says nothing one, as its pod is Ready."""
        if not self.ready:
            return 0
        if self.record is None or self.record.pack is None:
            return 1
        running = self.record.pack.running
        return min(1, len(running)) if self.pack is None else len(self.pack.ready(running))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUnknown:
    """Why a model's profile is not to be had (now, or ever)."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """An accepted SLMDeployment, translated. `template` is opaque to every decision: only render reads it."""

    replicas: int
    """Wanted now; with `scaling`, what was decided from what is measured, and before that the most."""
    scaling: ScalingSpec | None = None
    """None: `replicas` is the user's."""
    spec_hash: str
    model_source: str
    model: ModelProfile | ModelUnknown
    engine_version: EngineVersion
    engine_image: str
    engine_args: tuple[tuple[str, str | None], ...]
    """Normalised by `engine.normalise_args`."""
    max_model_len: int | None
    """What the user wrote; None asks for the default."""
    startup_budget: timedelta
    mode: Mode
    max_per_gpu: int | None
    sm_percent: int | None = None
    """Ceiling on the multiprocessors of each engine of a pack; None: none."""
    when_full: WhenFull = WhenFull.REPORT
    gpu_products: frozenset[str]
    """Empty: any."""
    tolerations: tuple[Toleration, ...]
    node_selector: Mapping[str, str] = field(hash=False)
    cpu_millicores: int
    memory_bytes: int
    priority: int
    workload: Workload = field(default_factory=Workload)
    """Over all replicas."""
    objective: Objective = Objective.THROUGHPUT
    bounds: Bounds = field(default_factory=Bounds)
    profile: Profile | Problem | None = None
    """What spec.profileRef leads to; None without one."""
    template: Mapping[str, object] = field(default_factory=dict, hash=False)
    """The spec as the user wrote it (camelCase JSON)."""

    @property
    def kept_bounds(self) -> Bounds:
        """Those of `scaling`, each else of `bounds`."""
        own = self.scaling
        if own is None:
            return self.bounds
        return Bounds(ttft_s=own.ttft_s or self.bounds.ttft_s, itl_s=own.itl_s or self.bounds.itl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An SLMDeployment whose spec cannot be used; what runs is frozen."""

    problems: tuple[Problem, ...]
    replicas: int | None = None
    """How many are wanted, where that much of the spec can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """metav1.Condition."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int
    last_transition: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """One SLMDeployment."""

    key: Key
    uid: str
    generation: int
    created: datetime
    deleting: bool
    demand: Demand | Rejected
    conditions: tuple[Condition, ...] = ()
    """As status has them now: unchanged ones keep their transition time."""
    scale: ScaleState | None = None
    """What status remembers of earlier decisions; None: none was made."""
    scale_note: ScaleNote | None = None
    """What status says of the last decision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """Every constant that a decision uses, with the tables it reads; `data/` has their sources.

    Equal to itself alone: one is loaded, and comparing its tables would take longer than a decision.
    """

    gpus: GpuCatalogue
    engines: EngineTable
    performance: PerformanceTable
    choice: ChoicePolicy = field(default_factory=ChoicePolicy)
    scale: ScalePolicy = field(default_factory=ScalePolicy)
    default_max_model_len: int = 8192
    least_num_seqs: int = 8
    """A share whose KV cache holds fewer sequences at their mean length is too small."""
    max_num_seqs: int = 512
    """The largest batch that is considered; vLLM captures CUDA graphs up to here by default."""
    unpredicted_num_seqs: int = 128
    """The largest batch where nothing can be predicted."""
    max_num_batched_tokens: int = 2048
    utilization_ceiling: float = 0.92
    """vLLM's own default since 0.20."""
    rollout_attempts: int = 3
    """Failed starts of a new spec after which its rollout stops."""
    backoff_base: timedelta = timedelta(seconds=10)
    backoff_max: timedelta = timedelta(minutes=5)
    failed_kept_for: timedelta = timedelta(minutes=10)
    """A failed pod is kept until its successor has been Ready this long."""
    schedule_budget: timedelta = timedelta(seconds=60)
    """A pod that the scheduler cannot bind for this long is deleted and planned again, after a back-off."""
    render_version: str = "1"
    node_terms: tuple[NodeTerm, ...] = ()
    """Which nodes the operator packs (--node-selector): what keeps a pod without a node among them."""
    supervisor_image: str | None = None
    """Of the init container that brings the pack supervisor; None: no packs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The world at one instant. Order never matters: the planner sorts."""

    now: datetime
    deployments: tuple[DeploymentView, ...]
    nodes: tuple[NodeView, ...]
    pods: tuple[PodView, ...]
    refused: Mapping[tuple[Key, str], Problem] = field(default_factory=dict)
    """By SLMDeployment and spec hash: why the API server or the scheduler took none of its pods. Until that is to be
    tried again, it holds neither room nor a turn."""
    names: frozenset[Key] = frozenset()
    """Pods without a view, whose names are taken all the same."""
    dra: Problem | None = None
    """Why no ResourceClaim can bring a device in this cluster; None: there are some."""
    unread: tuple[str, ...] = ()
    """Nodes with GPUs that are in no view as they cannot be read, each with why."""
    loads: Mapping[Key, LoadSample] = field(default_factory=dict)
    """By SLMDeployment; one without a sample was not measured."""
    gpus: tuple[GpuReading, ...] = ()
    """Physical GPUs of which something is measured."""
    blind: Problem | None = None
    """Why nothing at all is measured (no source is configured, or none answers); None: something is."""
