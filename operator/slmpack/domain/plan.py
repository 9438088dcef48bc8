"""What the planner decides: plain values that render, execute, report and the CLI read."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.fit import Fit
from slmpack.domain.footprint import Footprint
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScaleDecision
from slmpack.domain.sharing import Share
from slmpack.domain.snapshot import Demand, DeploymentView, Key, NodePins, NodeTerm, ReplicaRecord

__all__ = [
    "Action",
    "Block",
    "ClusterPlan",
    "CreatePod",
    "DeletePod",
    "DeploymentPlan",
    "EndPod",
    "GpuBar",
    "Outcome",
    "Placement",
    "ReplicaState",
    "RolloutState",
    "SetEngines",
    "Unplaced",
    "UsedFit",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a replica goes: a node and a resource, never a GPU index (D5b)."""

    node: str
    """Empty where `pins` say what its node must be like."""
    share: Share
    pins: NodePins | None = None
    terms: tuple[NodeTerm, ...] = ()
    """Beside `pins`: which nodes the operator packs."""

    @property
    def where(self) -> str:
        """The node, in words."""
        return self.node or "a node that is yet to come"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePod:
    """Make one replica's pod."""

    deployment: DeploymentView
    demand: Demand
    name: str
    placement: Placement
    settings: EngineSettings
    """Of each engine of a pack alike."""
    record: ReplicaRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEngines:
    """Which engines of a pack are to run; its supervisor starts and stops only those that differ."""

    pod: Key
    uid: str
    deployment: Key
    running: tuple[int, ...]
    """Rising indexes."""
    recorded: bool
    """Whether the pod's annotation says so already, and only the supervisor has to be told."""
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePod:
    """Delete a pod; `reason` is from D4a's list, or the pod never was Ready, or it failed and is superseded."""

    pod: Key
    uid: str
    deployment: Key
    problem: Problem
    spec_hash: str
    """Of the spec that it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPod:
    """Fail a pod that never became Ready, but keep it and its log as evidence (its activeDeadlineSeconds runs out)."""

    pod: Key
    uid: str
    deployment: Key
    problem: Problem


Action = CreatePod | DeletePod | EndPod | SetEngines


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One existing replica of a deployment, judged: a pod, or an engine of a pack."""

    pod: Key
    engine: int | None = None
    """Its index in a pack; None where the pod has one engine."""
    node: str
    resource: str
    share: str
    ready: bool
    counts: bool
    """Whether it is one of the replicas; a failed, superseded or terminating pod is not."""
    problem: Problem | None
    """What keeps it from being Ready."""
    outdated: bool
    """Made from an older spec or by another renderer."""
    attached: bool | None = None
    """Of a pack's engine: whether its supervisor saw its MPS limit from inside; None: not told, or not tried yet."""
    attached_message: str = ""
    """The supervisor's words about it."""
    device_bytes: int | None = None
    """Of a pack's engine: device memory that it holds, measured by its supervisor through NVML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """Replicas with no room, all for the same reason; the message names the binding constraint and what would fit."""

    count: int
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """How far a changed spec has come."""

    problem: Problem
    """UP_TO_DATE, ROLLING_OUT, ROLLOUT_STOPPED or ROLLOUT_BLOCKED, with the message for status."""
    updated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedFit:
    """How replicas fit one kind of share, and what pays there."""

    product: str
    """The GPU."""
    share: str
    """`describe_share` of it."""
    fit: Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """Everything that is decided about one SLMDeployment."""

    deployment: DeploymentView
    footprint: Footprint | None
    """None when it is unknown; `problems` says why."""
    max_model_len: int | None
    kv_tokens: int
    """KV cache tokens that a replica must at least hold."""
    needed_bytes: int
    """Device memory of a replica at the batch that it runs with."""
    least_bytes: int
    """What a share must hold at least: with the smallest batch that is considered."""
    per_gpu: int
    """Replicas that fit and pay on one GPU of the kind in use; 0 where none is placed."""
    fits: tuple[UsedFit, ...]
    """On each kind of share in use; where none is, on the best that suits; empty where nothing suits."""
    states: tuple[ReplicaState, ...]
    creates: tuple[CreatePod, ...]
    waiting: tuple[tuple[Placement, Problem], ...]
    """Replicas that have room and start later (WAITING_FOR_START or BACK_OFF)."""
    leaving: tuple[str, ...]
    """Pods of its own that are ending; replicas without room may have theirs."""
    unplaced: tuple[Unplaced, ...]
    pending: tuple[str, ...] = ()
    """Pods, there or made now, that wait for a node to come (whenFull: Pending), for replicas in `unplaced`."""
    rollout: RolloutState
    problems: tuple[Problem, ...]
    """Why the deployment is rejected or frozen; empty when it is neither."""
    scale: ScaleDecision | None = None
    """How many are wanted and why; None where the user says how many, or nothing can be decided."""
    repack: str = ""
    """What a move of its running replicas would free, in a sentence; empty where nothing, or where nobody looked."""
    never: bool = False
    """Whether the present cluster could never satisfy the spec (kstatus' Stalled)."""

    @property
    def fit(self) -> Fit | None:
        """The first of `fits`: what the footprint is of."""
        return self.fits[0].fit if self.fits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One replica, or a stranger's pod, in the picture."""

    label: str
    """namespace/name of the pod, or of the planned replica."""
    deployment: Key | None
    """None for a stranger."""
    share: str
    used_bytes: int
    """The share's limit, or what a stranger's resource amounts to."""
    state: str
    """ready, starting, planned, waiting, ending, foreign, or idle: an engine of a pack that does not run."""
    pod: Key | None = None
    """None where there is no pod yet, and of another's claim."""
    engine: int | None = None
    """Which engine of a pack it is."""

    @property
    def namespace(self) -> str:
        """Of the pod, there or planned; empty for another's claim."""
        key = self.pod or self.deployment
        return "" if key is None else key.namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBar:
    """One GPU (or, for MIG, one slice) in the picture. Which physical GPU it is, nobody publishes (D5b)."""

    node: str
    resource: str
    index: int | None
    index_basis: str | None
    """`assumed` where blocks were dealt to GPUs in order, None where the unit is not a GPU."""
    product: str
    usable_bytes: int
    blocks: tuple[Block, ...]
    note: str = ""
    """Why it offers nothing, if so."""
    refusal: Reason | None = None
    """Of GPUs that are not offered: the reason in `note`."""
    profile: str = ""
    """Of a MIG slice; empty where the unit is a GPU."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a part of a GPU only."""
        return bool(self.profile)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """One cycle's decisions."""

    deployments: tuple[DeploymentPlan, ...]
    actions: tuple[Action, ...]
    """In the order in which they are to be written: ends and deletes, then creates in D4b's order."""
    bars: tuple[GpuBar, ...]
    next_wake_seconds: float | None
    """When time alone changes the plan (a budget or a back-off runs out); None if never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A write that the API server refused; a write that worked needs no word."""

    deployment: Key
    pod: str
    """Name of the pod, or empty for the Service."""
    problem: Problem
