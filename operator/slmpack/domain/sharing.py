"""The closed union of ways to bound a replica's part of a GPU.

Every function here matches it exhaustively, so a new kind of share does not type-check until each place handles it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

__all__ = [
    "Exclusive",
    "MigSlice",
    "Mode",
    "MpsShare",
    "Share",
    "cuda_total_bytes",
    "describe_share",
    "limit_bytes",
    "mode_of",
    "starts_alone",
]


class Mode(Enum):
    """`spec.sharing.mode`."""

    AUTO = "Auto"
    EXCLUSIVE = "Exclusive"
    MIG = "MIG"
    MPS = "MPS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusive:
    """One whole GPU; nobody else is on it, so its size is the limit."""

    resource: str
    memory_bytes: int
    """What CUDA reports as the device's total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigSlice:
    """One MIG instance of the mixed strategy; the hardware holds the limit."""

    resource: str
    profile: str
    """As the resource name has it, for instance `1g.10gb`."""
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


Share = Exclusive | MigSlice | MpsShare


def limit_bytes(share: Share) -> int:
    """Device memory that the mechanism lets the replica's process take, in bytes."""
    match share:
        case Exclusive() | MigSlice():
            return share.memory_bytes
        case MpsShare():
            return share.limit_bytes
        case _:
            assert_never(share)


def cuda_total_bytes(share: Share) -> int:
    """What CUDA reports as the device's total: the base of --gpu-memory-utilization."""
    match share:
        case Exclusive() | MigSlice():
            return share.memory_bytes
        case MpsShare():
            return share.gpu_memory_bytes
        case _:
            assert_never(share)


def starts_alone(share: Share) -> bool:
    """Whether engines that share this GPU must start one at a time (vLLM profiles device-wide free memory)."""
    match share:
        case Exclusive() | MigSlice():
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
        case _:
            assert_never(share)
