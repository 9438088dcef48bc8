"""The closed union of ways to bound a replica's part of a GPU.

Every function here matches it exhaustively, so a new kind of share does not type-check until each place handles it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

__all__ = [
    "DraClaim",
    "Exclusive",
    "MigSlice",
    "Mode",
    "MpsPack",
    "MpsShare",
    "Share",
    "Unit",
    "WhenFull",
    "cuda_total_bytes",
    "describe_share",
    "kind_of",
    "limit_bytes",
    "mode_of",
    "replicas_in",
    "shares_of_gpu",
    "starts_alone",
]


_MOST_SLICES = 7
"""MIG instances of one GPU, of any product (NVIDIA MIG user guide)."""
_MPS_SHARE = re.compile(r"MpsShare 1/([1-9][0-9]{0,3})")
"""As `describe_share` puts it."""


class Mode(Enum):
    """`spec.sharing.mode`."""

    AUTO = "Auto"
    EXCLUSIVE = "Exclusive"
    MIG = "MIG"
    MPS = "MPS"
    MPS_PACK = "MPSPack"
    DRA = "DRA"


class WhenFull(Enum):
    """`spec.sharing.whenFull`: what becomes of a replica without room."""

    REPORT = "Report"
    """Status says why; no pod is made."""
    PENDING = "Pending"
    """Its pod is made without a node, so that a node autoscaler sees the demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusive:
    """One whole GPU; nobody else is on it, so its size is the limit."""

    resource: str
    memory_bytes: int
    """What CUDA reports as the device's total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigSlice:
    """One MIG instance that the device plugin offers; the hardware holds the limit."""

    resource: str
    profile: str
    """As the resource name, or in the single strategy the product label, has it, for instance `1g.10gb`."""
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsShare:
    """One of `replicas` equal shares of a GPU whose node runs the device plugin's MPS daemon."""

    resource: str
    replicas: int
    """Shares per GPU, as the node advertises them."""
    gpu_memory_bytes: int
    """The whole GPU: CUDA reports this as the total, whatever the limit."""
    limit_bytes: int
    """CUDA_MPS_PINNED_DEVICE_MEM_LIMIT; at most gpu_memory / replicas, in whole MiB (the daemon's own default)."""
    active_thread_percentage: int
    """CUDA_MPS_ACTIVE_THREAD_PERCENTAGE; a ceiling, 100 // replicas on such nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsPack:
    """A whole GPU of one pod, whose supervisor runs an MPS daemon and several engines with a limit each."""

    resource: str
    gpu_memory_bytes: int
    """The whole GPU: CUDA reports this as the total, whatever the limit."""
    limits_bytes: tuple[int, ...]
    """One for each engine that the pack may run, in whole MiB; fixed when the pod is made."""
    sm_percent: int | None = None
    """CUDA_MPS_ACTIVE_THREAD_PERCENTAGE of each engine, a ceiling; None: none, as isolation was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraClaim:
    """One MIG instance that a ResourceClaim asks for and a DRA driver allocates; the hardware holds the limit."""

    resource: str
    """`<device class>/<profile>`: how the plan counts such devices; no resource of a node has this name."""
    device_class: str
    profile: str
    """As the ResourceSlice has it, for instance `1g.10gb`."""
    memory_bytes: int


Unit = Exclusive | MigSlice | MpsShare | DraClaim
"""What a node offers as it is."""
Share = Unit | MpsPack


def limit_bytes(share: Share) -> int:
    """Device memory that the mechanism lets the replica's process take, in bytes; of a pack, the smallest limit."""
    match share:
        case Exclusive() | MigSlice() | DraClaim():
            return share.memory_bytes
        case MpsShare():
            return share.limit_bytes
        case MpsPack():
            return min(share.limits_bytes)
        case _:
            assert_never(share)


def cuda_total_bytes(share: Share) -> int:
    """What CUDA reports as the device's total: the base of --gpu-memory-utilization."""
    match share:
        case Exclusive() | MigSlice() | DraClaim():
            return share.memory_bytes
        case MpsShare() | MpsPack():
            return share.gpu_memory_bytes
        case _:
            assert_never(share)


def starts_alone(share: Share) -> bool:
    """Whether the pod must not start while a neighbour does (vLLM profiles device-wide free memory).

    A pack has no neighbours: its supervisor starts its own engines one at a time.
    """
    match share:
        case Exclusive() | MigSlice() | MpsPack() | DraClaim():
            return False
        case MpsShare():
            return True
        case _:
            assert_never(share)


def mode_of(share: Share) -> Mode:
    """The `spec.sharing.mode` that asks for this kind of share."""
    match share:
        case Exclusive():
            return Mode.EXCLUSIVE
        case MigSlice():
            return Mode.MIG
        case MpsShare():
            return Mode.MPS
        case MpsPack():
            return Mode.MPS_PACK
        case DraClaim():
            return Mode.DRA
        case _:
            assert_never(share)


def describe_share(share: Share) -> str:
    """The share in a few words, as status and the picture print it."""
    match share:
        case Exclusive():
            return "Exclusive"
        case MigSlice():
            return f"MigSlice {share.profile}"
        case MpsShare():
            return f"MpsShare 1/{share.replicas}"
        case MpsPack():
            return f"MpsPack of {len(share.limits_bytes)}"
        case DraClaim():
            return f"DraClaim {share.profile}"
        case _:
            assert_never(share)


def kind_of(description: str) -> str:
    """The kind of a share that `describe_share` put into words: they begin with it."""
    return description.partition(" ")[0]


def shares_of_gpu(description: str) -> int:
    """How many shares one GPU has at most of the kind that `describe_share` put into words, as status keeps it."""
    if kind_of(description) in {"Exclusive", "MpsPack"}:
        return 1
    found = _MPS_SHARE.fullmatch(description)
    return _MOST_SLICES if found is None else int(found[1])


def replicas_in(share: Share) -> int:
    """How many replicas a pod with this share can run."""
    match share:
        case Exclusive() | MigSlice() | MpsShare() | DraClaim():
            return 1
        case MpsPack():
            return len(share.limits_bytes)
        case _:
            assert_never(share)
