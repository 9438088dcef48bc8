"""MemoryLimitEnforced: which mechanism holds each replica to its part of a GPU, and how anybody knows (D12).

True only where hardware holds the limit, nobody else is on the device, or the limit was seen from inside the process
that it binds. A limit that is only set is Unknown. The weakest kind decides, and the message names them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from slmpack.domain.plan import ReplicaState
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import kind_of

__all__ = ["memory_limit", "replica_name"]

_WEAKEST_FIRST = (
    Reason.NOT_ATTACHED,
    Reason.NOT_VERIFIED,
    Reason.SEEN_FROM_INSIDE,
    Reason.WHOLE_DEVICE,
    Reason.MIG_HARDWARE,
)

_STATUS = {Reason.NOT_ATTACHED: "False", Reason.NOT_VERIFIED: "Unknown"}
"""Of the rest, True."""

_SET_ONLY = (
    "the device plugin's MPS daemon and the pod's environment set a limit for the process; "
    "it has not been verified from inside"
)


def memory_limit(replicas: Sequence[ReplicaState]) -> tuple[str, Reason, str]:
    """Status, reason and message of the condition, for the replicas that count."""
    if not replicas:
        return "Unknown", Reason.NOTHING_RUNS, "no replica runs"
    ordered = sorted(replicas, key=lambda state: (kind_of(state.share), replica_name(state)))
    groups = groupby(ordered, key=lambda state: kind_of(state.share))
    found = [(kind, *_judge(kind, list(members))) for kind, members in groups]
    reason = min((entry[2] for entry in found), key=_WEAKEST_FIRST.index)
    words = [text if len(found) == 1 else f"{count} {kind}: {text}" for kind, count, _, text in found]
    return _STATUS.get(reason, "True"), reason, "; ".join(words)


def replica_name(state: ReplicaState) -> str:
    """The pod's name, and of a pack the engine."""
    return state.pod.name if state.engine is None else f"{state.pod.name} engine {state.engine}"


def _judge(kind: str, replicas: Sequence[ReplicaState]) -> tuple[int, Reason, str]:
    """How many they are, and what holds replicas of one kind."""
    count = len(replicas)
    match kind:
        case "Exclusive":
            return count, Reason.WHOLE_DEVICE, "a replica has a whole GPU"
        case "MigSlice":
            return count, Reason.MIG_HARDWARE, "the hardware of the MIG instance (device plugin) holds the limit"
        case "DraClaim":
            return count, Reason.MIG_HARDWARE, "the hardware of the MIG instance (ResourceClaim) holds the limit"
        case "MpsPack":
            return count, *_judge_engines(replicas)
        case _:
            return count, Reason.NOT_VERIFIED, _SET_ONLY


def _judge_engines(engines: Sequence[ReplicaState]) -> tuple[Reason, str]:
    """What the supervisors saw: a pack's limit counts once each engine's process was seen to be held by it."""
    loose = next((state for state in engines if state.attached is False), None)
    if loose is not None:
        words = loose.attached_message or "its supervisor gives no detail"
        return Reason.NOT_ATTACHED, f"{replica_name(loose)} is not held by its MPS limit: {words}"
    seen = sum(state.attached is True for state in engines)
    if seen < len(engines):
        return Reason.NOT_VERIFIED, f"the MPS limits of {seen} of {len(engines)} engines were seen from inside"
    return Reason.SEEN_FROM_INSIDE, "each engine's MPS limit was seen from inside"
