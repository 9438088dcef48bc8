"""MIG instances that a DRA driver publishes, and what of them a ResourceClaim can have.

Only static instances are offered: they exist, no other allocation can take them away, and the hardware bounds them. A
device that is not so is recognised, and offers nothing with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmpack.domain.gpu import GpuModel
from slmpack.domain.mig import find_profile
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import DraClaim

__all__ = [
    "DRIVER",
    "MIG_CLASS",
    "Claimable",
    "DraDevice",
    "beside_plugin",
    "claim_resource",
    "claimable",
    "is_claimed",
    "product_of",
]

DRIVER = "gpu.nvidia.com"
MIG_CLASS = "mig.nvidia.com"
"""The driver's DeviceClass of MIG instances (dra-driver-nvidia-gpu, templates of its Helm chart)."""
_PLUGIN = "nvidia.com/"
_COMPUTE_INSTANCE = re.compile(r"[0-9]+c\.")
"""Such a profile is a part of a GPU instance, whose memory it shares with the other parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraDevice:
    """One MIG instance of a ResourceSlice."""

    name: str
    """Unique on its node."""
    profile: str
    """The attribute, for instance `1g.10gb`; where the driver gives none, the memory, for instance `9984Mi`."""
    memory_bytes: int
    """Capacity `memory`: what NVML says of the GPU instance."""
    multiprocessors: int | None
    product: str
    """Of the GPU, spelled as the label `nvidia.com/gpu.product` spells it."""
    parent: str
    """UUID of the GPU; empty where it is not published."""
    problem: str = ""
    """Why nothing can be placed on it; empty: something can."""

    @property
    def resource(self) -> str:
        """How the plan counts devices like this one."""
        return claim_resource(self.profile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimable:
    """Interchangeable devices of a node."""

    share: DraClaim
    units: int
    gpus: int
    """Physical GPUs behind them, at least 1."""


def claim_resource(profile: str) -> str:
    """`<device class>/<profile>`: no node advertises such a resource, only plans count in it."""
    return f"{MIG_CLASS}/{profile}"


def is_claimed(resource: str) -> bool:
    """Whether a replica's resource is a device that its ResourceClaim brings."""
    return resource.startswith(f"{MIG_CLASS}/")


def product_of(labels: Mapping[str, str], allocatable: Mapping[str, int], devices: Sequence[DraDevice]) -> str:
    """The label `nvidia.com/gpu.product`; where no GPU feature discovery runs, what the devices say; else empty."""
    label = labels.get("nvidia.com/gpu.product", "")
    if label or _advertised(allocatable):
        return label  # what the device plugin advertises is described by labels only
    return min((device.product for device in devices), default="")


def beside_plugin(node: str, allocatable: Mapping[str, int], devices: Sequence[DraDevice]) -> Problem | None:
    """Why a node whose device plugin advertises GPUs offers no devices: they are the same hardware."""
    advertised = _advertised(allocatable)
    if not advertised or not devices:
        return None
    message = (
        f"node {node}: the device plugin advertises {', '.join(advertised)} and the DRA driver publishes "
        f"{len(devices)} MIG devices of the same GPUs; only the device plugin's are used. Run one of the two: "
        "the GPU operator's ClusterPolicy and GPUCluster exclude one another"
    )
    return Problem(reason=Reason.DRA_UNAVAILABLE, message=message)


def claimable(
    node: str, allocatable: Mapping[str, int], devices: Sequence[DraDevice], gpu: GpuModel
) -> tuple[tuple[Claimable, ...], tuple[Problem, ...]]:
    """What a node's devices offer, by profile, and why the others offer nothing.

    `allocatable` counts the devices under their resource. The memory is what the driver publishes, or less where the
    catalogue knows a driver that gives such an instance less.
    """
    kinds: dict[str, list[DraDevice]] = {}
    faults: dict[tuple[str, str], int] = {}
    product = min((device.product for device in devices), default="")
    for device in devices:
        fault = device.problem or _fault(device, product)
        if fault:
            faults[device.profile, fault] = faults.get((device.profile, fault), 0) + 1
        else:
            kinds.setdefault(device.profile, []).append(device)
    offers = tuple(_claimable(kinds[profile], allocatable, gpu) for profile in sorted(kinds))
    problems = tuple(
        Problem(
            reason=Reason.DRA_UNAVAILABLE,
            message=f"node {node}: {count} MIG device(s) {profile} of the DRA driver offer nothing: {fault}",
        )
        for (profile, fault), count in sorted(faults.items())
    )
    return offers, problems


def _claimable(devices: Sequence[DraDevice], allocatable: Mapping[str, int], gpu: GpuModel) -> Claimable:
    first = devices[0]
    known = find_profile(gpu, first.profile)
    sizes = [device.memory_bytes for device in devices]
    if known is not None and known.memory_mib is not None:
        sizes.append(known.memory_mib * MIB)
    share = DraClaim(resource=first.resource, device_class=MIG_CLASS, profile=first.profile, memory_bytes=min(sizes))
    parents = {device.parent for device in devices}
    return Claimable(share=share, units=allocatable[first.resource], gpus=len(parents))


def _fault(device: DraDevice, product: str) -> str:
    if device.product != product:
        return f"it is part of a {device.product}; a node is planned with one product, here {product}"
    if device.memory_bytes <= 0:
        return "the driver publishes no capacity memory"
    if _COMPUTE_INSTANCE.match(device.profile):
        return "a compute instance shares its GPU instance's memory; make instances of whole GPU instances"
    return ""


def _advertised(allocatable: Mapping[str, int]) -> list[str]:
    return sorted(name for name, amount in allocatable.items() if name.startswith(_PLUGIN) and amount > 0)
