"""What each kind of share puts into the engine's container: one extended resource, and the environment that bounds it.

No share names a GPU: the kubelet and the device plugin pick it (D5b).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from slmpack.domain.quantity import MIB
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, MpsPack, MpsShare, Share
from slmpack.domain.snapshot import NodeTerm

__all__ = ["SHM_BYTES", "gpu_env", "gpu_limits", "mounts_own_shm", "node_affinity", "term_affinity"]

SHM_BYTES = 1024 * MIB
"""Of /dev/shm for each engine: vLLM 0.32 was seen to map 160 + 240 MiB; the container runtime's default is 64 MiB."""


def gpu_limits(share: Share) -> dict[str, str]:
    """The one extended resource of a pod, for which a limit is the request too; none where a claim brings a device."""
    match share:
        case Exclusive() | MigSlice() | MpsShare() | MpsPack():
            return {share.resource: "1"}
        case DraClaim():
            return {}
        case _:
            assert_never(share)


def gpu_env(share: Share) -> dict[str, str]:
    """The variables that hold the share's limit, explicit so that nothing in the image or an envFrom decides it."""
    match share:
        case Exclusive() | MigSlice() | DraClaim() | MpsPack():  # a pack's supervisor sets each engine's own
            return {}
        case MpsShare():
            return {
                # "0" is the first GPU that the container sees, and it sees one. Whole MiB, rounded down.
                "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={share.limit_bytes // MIB}M",
                "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(share.active_thread_percentage),
            }
        case _:
            assert_never(share)


def mounts_own_shm(share: Share) -> bool:
    """Whether the pod brings its own /dev/shm: under MPS the device plugin mounts the daemon's there."""
    match share:
        case Exclusive() | MigSlice() | MpsPack() | DraClaim():
            return True
        case MpsShare():
            return False
        case _:
            assert_never(share)


def term_affinity(terms: Sequence[NodeTerm]) -> dict[str, Any]:
    """Required affinity to nodes with such labels."""
    expressions = [
        {"key": term.key, "operator": term.operator, **({"values": list(term.values)} if term.values else {})}
        for term in terms
    ]
    found = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": found}}


def node_affinity(node: str) -> dict[str, Any]:
    """Required affinity to one node by its name, which, unlike its hostname label, is always there and unique (D4)."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
