"""Every reason that status, events and the CLI may give, in one place. `docs/reasons.md` explains each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Problem", "Reason"]


class Reason(Enum):
    """PascalCase, as conditions and events carry it."""

    # the spec and the model
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    UNSUPPORTED_ENGINE = "UnsupportedEngine"
    UNKNOWN_LAYOUT = "UnknownLayout"
    MODEL_PENDING = "ModelPending"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    MODEL_GATED = "ModelGated"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_LEN_TOO_LONG = "ModelLenTooLong"
    WORKLOAD_TOO_LONG = "WorkloadTooLong"
    PROFILE_UNUSABLE = "ProfileUnusable"
    # room
    FITS = "Fits"
    NO_GPU_NODES = "NoGpuNodes"
    NO_MATCHING_GPU = "NoMatchingGpu"
    UNKNOWN_GPU = "UnknownGpu"
    TIME_SLICED = "TimeSliced"
    SINGLE_STRATEGY_MIG = "SingleStrategyMig"
    NO_SUPERVISOR_IMAGE = "NoSupervisorImage"
    DRA_UNAVAILABLE = "DraUnavailable"
    MPS_CLIENT_LIMIT = "MpsClientLimit"
    NOT_ADVERTISED = "NotAdvertised"
    NODE_UNAVAILABLE = "NodeUnavailable"
    UNTOLERATED_TAINT = "UntoleratedTaint"
    SELECTOR_MISMATCH = "SelectorMismatch"
    INSUFFICIENT_GPU_MEMORY = "InsufficientGpuMemory"
    INSUFFICIENT_GPUS = "InsufficientGpus"
    INSUFFICIENT_CPU = "InsufficientCpu"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    INSUFFICIENT_PODS = "InsufficientPods"
    MAX_PER_GPU = "MaxPerGPU"
    DOES_NOT_PAY = "DoesNotPay"
    BOUNDS_NOT_KEPT = "BoundsNotKept"
    # starting and running
    CREATED = "Created"
    ALL_READY = "AllReady"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    WAITING_FOR_START = "WaitingForStart"
    BACK_OFF = "BackOff"
    NOT_READY_IN_TIME = "NotReadyInTime"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePullBackOff"
    OOM_KILLED = "OOMKilled"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"
    POD_FAILED = "PodFailed"
    NODE_LOST = "NodeLost"
    ENGINE_FAILED = "EngineFailed"
    NOT_ATTACHED = "NotAttached"
    SUPERVISOR_UNREACHABLE = "SupervisorUnreachable"
    CREATE_REFUSED = "CreateRefused"
    NAME_CONFLICT = "NameConflict"
    INTERNAL = "InternalError"
    # ends (D4a's closed list, and what never was Ready)
    SCALED_DOWN = "ScaledDown"
    SCALED_UP = "ScaledUp"
    ROLLOUT = "Rollout"
    REPLACED = "Replaced"
    # scaling
    FIXED = "Fixed"
    LOAD_ROSE = "LoadRose"
    LOAD_FELL = "LoadFell"
    STEADY = "Steady"
    HELD = "Held"
    METRICS_UNKNOWN = "MetricsUnknown"
    AT_MAX = "AtMax"
    AT_MIN = "AtMin"
    POWER_CEILING = "PowerCeiling"
    IDLE = "Idle"
    WOKEN = "Woken"
    REPACK = "Repack"
    # rollout
    UP_TO_DATE = "UpToDate"
    ROLLING_OUT = "RollingOut"
    ROLLOUT_STOPPED = "RolloutStopped"
    ROLLOUT_BLOCKED = "RolloutBlocked"
    FROZEN = "Frozen"
    # memory limits
    MIG_HARDWARE = "MigHardware"
    WHOLE_DEVICE = "WholeDevice"
    SEEN_FROM_INSIDE = "SeenFromInside"
    NOT_VERIFIED = "NotVerified"
    NOTHING_RUNS = "NothingRuns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why something cannot be: a reason for machines, a message for people."""

    reason: Reason
    message: str
    field: str = ""
    """The spec's field, where there is one."""
