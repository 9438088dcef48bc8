"""Is a process under its MPS limit? The rules; the looking is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from slmpack.supervisor.config import MIB
from slmpack.supervisor.mps_view import MpsView
from slmpack.supervisor.states import Attachment

__all__ = ["ABOVE_BYTES", "ProbeResult", "judge_probe", "judge_tree", "parse_probe"]

CUDA_ERROR_OUT_OF_MEMORY = 2
"""cuda.h"""
ABOVE_BYTES = 256 * MIB
"""How far above the limit the probe tries to allocate: more than any rounding of the limit."""
SLACK_BYTES = 64 * MIB
"""By how much free memory may exceed the limit: rounding to pages of 2 MiB, with room. Not measured on a GPU by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a process in the engine's environment saw."""

    free_bytes: int
    total_bytes: int
    allocation_code: int
    """The driver's answer to an allocation of the limit + ABOVE_BYTES; 0: it succeeded."""


def parse_probe(line: bytes) -> ProbeResult:
    """The probe's line of JSON. ValueError says what it says instead."""
    if not line:
        raise ValueError("the probe ended without an answer")
    fields = json.loads(line)
    if isinstance(fields, dict) and fields.get("error"):
        raise ValueError(f"the probe could not use the GPU: {fields['error']}")
    try:
        return ProbeResult(
            free_bytes=int(fields["freeBytes"]),
            total_bytes=int(fields["totalBytes"]),
            allocation_code=int(fields["allocationCode"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"the probe answered {line[:100]!r}: {error}") from None


def judge_probe(result: ProbeResult, *, limit_bytes: int, listed: bool | None, device_free: int | None) -> Attachment:
    """Whether the limit is in force. `listed`: the probe is an MPS client, None if unknown; `device_free`: by NVML."""
    limit, above = f"{limit_bytes // MIB} MiB", limit_bytes + ABOVE_BYTES
    if listed is False:
        return _no("the probe is not among the clients of the MPS server: it reached the GPU outside MPS")
    if result.allocation_code == 0:
        return _no(f"an allocation of {above // MIB} MiB succeeded, above the limit of {limit}: it is not in force")
    if result.allocation_code != CUDA_ERROR_OUT_OF_MEMORY:
        return _no(f"an allocation above the limit of {limit} failed with CUDA error {result.allocation_code}, not 2")
    if result.free_bytes > limit_bytes + SLACK_BYTES:
        return _no(f"the probe sees {result.free_bytes // MIB} MiB free, above the limit of {limit}: not in force")
    seen = (
        f"a probe saw {result.free_bytes // MIB} MiB free of {result.total_bytes // MIB} MiB "
        f"and {above // MIB} MiB refused under the limit of {limit}"
    )
    if device_free is None or device_free >= above:
        return Attachment(attached=True, message=seen)
    if listed:
        return Attachment(
            attached=True,
            message=f"{seen}; the GPU had only {device_free // MIB} MiB free, the proof is that it was an MPS client",
        )
    return _no(f"{seen}, but the GPU had only {device_free // MIB} MiB free: that proves nothing")


def judge_tree(view: MpsView, *, tree: AbstractSet[int]) -> Attachment:
    """Whether a process of the engine's tree is a client of an MPS server."""
    for server in view.servers:
        if found := sorted(server.clients & tree):
            return Attachment(attached=True, message=f"process {found[0]} is a client of MPS server {server.pid}")
    clients = sorted(pid for server in view.servers for pid in server.clients)
    listed = f"its clients are {clients}" if clients else "it has no client"
    return _no(f"none of the engine's processes {sorted(tree)} is known to the MPS server; {listed}")


def _no(message: str) -> Attachment:
    return Attachment(attached=False, message=message)
