"""ResourceSlices and ResourceClaims (resource.k8s.io/v1) into the planner's nodes: what there is, and what is taken.

Only what NVIDIA's driver publishes for one node is read, of each pool the newest generation, and that only once all of
its slices are there: half a pool would be planned on devices that are about to change.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from slmpack.adapters.partial import Partial
from slmpack.adapters.store import key_of
from slmpack.adapters.views import controller_uid
from slmpack.domain.dra import DRIVER, MIG_CLASS, DraDevice
from slmpack.domain.inventory import where
from slmpack.domain.quantity import MIB, parse_bytes, parse_count
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Key, NodeView, PodView

__all__ = [
    "ClaimView",
    "SliceView",
    "claim_view",
    "class_view",
    "devices_of",
    "dra_problem",
    "slice_view",
    "with_devices",
]

logger = logging.getLogger(__name__)

_PROFILE = re.compile(r"[0-9a-z.+-]{1,63}")
"""It becomes a part of our claims' CEL: what no driver writes counts as missing."""
_KEEPS_AWAY = frozenset({"NoSchedule", "NoExecute"})
"""Effects of a device's taint that a claim without tolerations does not get past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceView:
    """One ResourceSlice of the driver; `node` is None where it is not for one node."""

    name: str
    pool: str
    generation: int
    of: int
    """How many slices this generation of the pool has."""
    node: str | None
    devices: tuple[DraDevice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """A ResourceClaim that holds devices of the driver."""

    key: Key
    pod_uid: str
    """Of the pod that it was made for from a template; empty for any other claim."""
    devices: tuple[tuple[str, str], ...]
    """Pool and name of each."""


class _Named(Partial):
    name: str


class _Pool(Partial):
    name: str
    generation: int = 0
    resource_slice_count: int = 1


class _Attribute(Partial):
    string: str | None = None


class _Capacity(Partial):
    value: str | int | float


class _DeviceTaint(Partial):
    key: str
    effect: str


class _Device(Partial):
    name: str
    attributes: dict[str, _Attribute] | None = None
    capacity: dict[str, _Capacity] | None = None
    consumes_counters: list[Any] | None = None
    allow_multiple_allocations: bool | None = None
    taints: list[_DeviceTaint] | None = None


class _SliceSpec(Partial):
    driver: str
    pool: _Pool
    node_name: str | None = None
    devices: list[_Device] | None = None


class _Slice(Partial):
    metadata: _Named
    spec: _SliceSpec


class _Result(Partial):
    driver: str
    pool: str
    device: str
    admin_access: bool | None = None


class _Devices(Partial):
    results: list[_Result] | None = None


class _Allocation(Partial):
    devices: _Devices = Field(default_factory=_Devices)


class _ClaimStatus(Partial):
    allocation: _Allocation | None = None


class _Claim(Partial):
    status: _ClaimStatus | None = None


def slice_view(raw: Mapping[str, Any]) -> SliceView | None:
    """The view of a slice of NVIDIA's GPU driver; None for all others."""
    if (raw.get("spec") or {}).get("driver") != DRIVER:
        return None
    try:
        found = _Slice.read(raw)
        devices = tuple(device for one in found.spec.devices or () if (device := _device(one)) is not None)
    except ValueError:
        logger.exception("unreadable ResourceSlice %s", key_of(raw).name)
        return None
    pool = found.spec.pool
    return SliceView(
        name=found.metadata.name,
        pool=pool.name,
        generation=pool.generation,
        of=pool.resource_slice_count,
        node=found.spec.node_name or None,
        devices=devices,
    )


def claim_view(raw: Mapping[str, Any]) -> ClaimView | None:
    """The view of a claim to which the scheduler has given devices of the driver; None for all others."""
    try:
        status = _Claim.read(raw).status
    except ValueError:
        logger.exception("unreadable ResourceClaim %s", key_of(raw))
        return None
    allocation = status.allocation if status is not None else None
    results = (allocation.devices.results or ()) if allocation is not None else ()
    # an administrator's access watches a device that somebody else holds
    held = tuple((one.pool, one.device) for one in results if one.driver == DRIVER and not one.admin_access)
    if not held:
        return None
    owners = (raw.get("metadata") or {}).get("ownerReferences") or ()
    by_pod = any(owner.get("kind") == "Pod" and owner.get("controller") for owner in owners)
    return ClaimView(key=key_of(raw), pod_uid=controller_uid(raw) if by_pod else "", devices=held)


def class_view(raw: Mapping[str, Any]) -> str | None:
    """The name of the driver's class of MIG instances; None for all others."""
    name = key_of(raw).name
    return name if name == MIG_CLASS else None


def devices_of(slices: Iterable[SliceView]) -> dict[tuple[str, str], tuple[str, DraDevice]]:
    """Node and device by pool and device's name: of each pool the newest generation.

    The devices of a pool whose slices are not all there yet are known, and offer nothing.
    """
    pools: dict[str, list[SliceView]] = {}
    for one in slices:
        if one.node is not None:
            pools.setdefault(one.pool, []).append(one)
    found: dict[tuple[str, str], tuple[str, DraDevice]] = {}
    for pool, published in pools.items():
        newest = max(one.generation for one in published)
        present = [one for one in published if one.generation == newest]
        wanted = max(one.of for one in present)
        lacks = (
            f"{len(present)} of {wanted} slices of generation {newest} of pool {pool} are there; wait for the driver"
        )
        for one in present:
            for device in one.devices:
                known = device if len(present) == wanted or device.problem else replace(device, problem=lacks)
                found[pool, device.name] = (one.node or "", known)
    return found


def with_devices(
    nodes: Iterable[NodeView],
    devices: Mapping[tuple[str, str], tuple[str, DraDevice]],
    claims: Iterable[ClaimView],
    pods: Sequence[PodView],
    *,
    broken: str = "",
) -> tuple[NodeView, ...]:
    """The nodes with their devices: how many can be had, and how many strangers' claims hold.

    A replica's own claim is charged by its pod's requests while the pod lives, and by the claim afterwards, for as long
    as that exists. `broken`: why no device can be had at all.
    """
    held = _held_by_others(devices, claims, pods)
    by_node: dict[str, list[tuple[tuple[str, str], DraDevice]]] = {}
    for at, (node, device) in devices.items():
        marked = replace(device, problem=broken) if broken and not device.problem else device
        by_node.setdefault(node, []).append((at, marked))
    return tuple(_with_devices(node, by_node[node.name], held) if node.name in by_node else node for node in nodes)


def dra_problem(
    slices: Sequence[SliceView], devices: Mapping[tuple[str, str], tuple[str, DraDevice]], *, broken: str
) -> Problem | None:
    """Why no ResourceClaim can bring a MIG instance anywhere in this cluster; None: there are some."""
    if broken:
        return Problem(reason=Reason.DRA_UNAVAILABLE, field="spec.sharing.mode", message=broken)
    if devices:
        return None
    elsewhere = sum(1 for one in slices if one.node is None)
    more = f" ({elsewhere} slices are for several nodes, which are not read)" if elsewhere else ""
    message = (
        f"no ResourceSlice of {DRIVER} holds a MIG instance{more}: enable MIG and make instances on a node that runs "
        "the NVIDIA DRA driver, or choose another spec.sharing.mode"
    )
    return Problem(reason=Reason.DRA_UNAVAILABLE, field="spec.sharing.mode", message=message)


def _held_by_others(
    devices: Mapping[tuple[str, str], tuple[str, DraDevice]], claims: Iterable[ClaimView], pods: Sequence[PodView]
) -> dict[tuple[str, str], bool]:
    """By pool and device: held, and whether by another than the replica whose requests count it."""
    ours = {pod.uid: pod for pod in pods if pod.record is not None and where(pod) is not None}
    credit = Counter({(pod.uid, name): amount for pod in ours.values() for name, amount in pod.requests.items()})
    held: dict[tuple[str, str], bool] = {}
    for claim in sorted(claims, key=lambda claim: claim.key):
        for at in claim.devices:
            node, device = devices.get(at, ("", None))
            if device is None:
                continue
            pod = ours.get(claim.pod_uid)
            counted = (claim.pod_uid, device.resource)
            mine = pod is not None and where(pod) == node and credit[counted] > 0
            if mine:
                credit[counted] -= 1
            held[at] = not mine
    return held


def _with_devices(
    node: NodeView, there: Sequence[tuple[tuple[str, str], DraDevice]], held: Mapping[tuple[str, str], bool]
) -> NodeView:
    there = sorted(there, key=lambda one: one[0])
    counted = Counter(device.resource for at, device in there if at in held or not device.problem)
    taken = Counter(device.resource for at, device in there if held.get(at, False))
    return replace(
        node,
        devices=tuple(device for _, device in there),
        allocatable={**node.allocatable, **counted},
        used_by_others={**node.used_by_others, **taken},
    )


def _device(device: _Device) -> DraDevice | None:
    """A MIG instance; None for whole GPUs and devices for virtual machines."""
    attributes = device.attributes or {}
    if _text(attributes, "type") != "mig":
        return None
    capacity = {name: one.value for name, one in (device.capacity or {}).items()}
    memory, profile = parse_bytes(_of(capacity, "memory") or 0), _text(attributes, "profile")
    multiprocessors = _of(capacity, "multiprocessors")
    return DraDevice(
        name=device.name,
        profile=profile if _PROFILE.fullmatch(profile) else f"{memory // MIB}Mi",
        memory_bytes=memory,
        multiprocessors=None if multiprocessors is None else parse_count(multiprocessors),
        product=_label(_text(attributes, "productName")),
        parent=_text(attributes, "parentUUID"),
        problem=_problem(device),
    )


def _problem(device: _Device) -> str:
    taint = next((taint for taint in device.taints or () if taint.effect in _KEEPS_AWAY), None)
    if taint is not None:
        return f"the driver tainted it {taint.key}:{taint.effect}"
    if device.consumes_counters:
        return (
            "it is one of several ways to partition its GPU (DynamicMIG), so its room may go to another; "
            "make static instances and turn the driver's gate DynamicMIG off"
        )
    if device.allow_multiple_allocations:
        return "several claims may share it, and nothing bounds each; turn the driver's consumable shares off"
    return ""


def _text(attributes: Mapping[str, _Attribute], name: str) -> str:
    found = _of(attributes, name)
    return (found.string or "") if found is not None else ""


def _of(values: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - an attribute or a quantity
    """By its name in the driver's domain, which the driver may leave out."""
    return values.get(name, values.get(f"{DRIVER}/{name}"))


def _label(product: str) -> str:
    """NVML's name as GPU feature discovery makes a label of it (k8s-device-plugin, internal/lm)."""
    kept = "".join(letter for letter in product if letter.isascii() and (letter.isalnum() or letter in "-_. "))
    return "-".join(kept.split())
