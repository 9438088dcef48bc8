"""A GPU cut for replicas: what one of them has there, and how a GPU of the catalogue can be cut.

`inventory` reads how a node is cut; the ways of the catalogue are only asked about. Their MPS limit is (CUDA's total -
1 GiB for the server) divided by the replicas, in whole MiB, as the device plugin would set it. Time-slicing limits
nothing; its parts are equal by our own flags only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from slmpack.domain.gpu import GpuModel, MigProfile
from slmpack.domain.inventory import MPS_SERVER_MIB
from slmpack.domain.prediction import Sharing, Site
from slmpack.domain.quantity import MIB, format_bytes
from slmpack.domain.sharing import Exclusive, MigSlice, MpsPack, MpsShare, Share, limit_bytes

__all__ = ["NOT_VERIFIED", "CannotCut", "Cut", "cut_gpu", "cut_pack", "cut_unequally"]

NOT_VERIFIED = "not verified: the limit is set, but nobody has looked from inside whether it holds"
_RESOURCE = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotCut:
    """Why the GPU cannot be shared in this way."""

    field: str
    """What was asked for: gpu, sharing, mig_profile or replicas."""
    message: str
    """The rule, and what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A GPU with equal parts for so many replicas."""

    site: Site
    replicas: int
    share: Share
    """What one replica has. A time-sliced part is an MpsShare that nothing enforces."""

    @property
    def limit_bytes(self) -> int | None:
        """What holds the replica's process back; None: nothing does."""
        return None if self.site.sharing is Sharing.TIMESLICE else limit_bytes(self.share)

    @property
    def enforcement(self) -> str:
        """How firmly the limit holds, in a few words."""
        match self.site.sharing:
            case Sharing.NONE:
                return "the whole GPU"
            case Sharing.MIG:
                return "held by the hardware"
            case Sharing.MPS:
                return NOT_VERIFIED
            case Sharing.TIMESLICE:
                return "time-slicing bounds nothing"
            case _:
                assert_never(self.site.sharing)


def cut_gpu(
    gpu: GpuModel,
    *,
    sharing: Sharing,
    replicas: int,
    mig_profile: str | None = None,
    sm_percent: int | None = None,
) -> Cut | CannotCut:
    """The part of one of `replicas` equal replicas."""
    total = gpu.cuda_total_mib
    match sharing:
        case Sharing.NONE:
            if replicas > 1:
                message = f"{replicas} replicas cannot have a whole GPU each; share it by mig, mps or timeslice"
                return CannotCut(field="replicas", message=message)
            return _cut(gpu, sharing, replicas, Exclusive(resource=_RESOURCE, memory_bytes=total * MIB))
        case Sharing.MIG:
            return _instance(gpu, mig_profile, replicas)
        case Sharing.MPS:
            if gpu.mps_max_clients is None:
                return CannotCut(field="sharing", message=f"{gpu.id} has no MPS; use none, mig or timeslice")
            if replicas > gpu.mps_max_clients:
                message = f"{gpu.id} admits {gpu.mps_max_clients} MPS clients at most"
                return CannotCut(field="replicas", message=message)
            limit = (total - MPS_SERVER_MIB) // replicas
            return _cut(gpu, sharing, replicas, _part(gpu, replicas, limit, sm_percent), sm_percent=sm_percent)
        case Sharing.TIMESLICE:
            return _cut(gpu, sharing, replicas, _part(gpu, replicas, total // replicas, None))
        case _:
            assert_never(sharing)


def cut_unequally(cut: Cut, limits_mib: Sequence[int | None]) -> tuple[Cut, ...] | CannotCut:
    """The cut's parts with limits of their own, one a replica; those without one share the rest equally."""
    if cut.site.sharing not in {Sharing.MPS, Sharing.TIMESLICE}:
        message = f"replicas of {cut.site.sharing.value} have what the device gives them; leave the memory out"
        return CannotCut(field="memory", message=message)
    total = cut.site.gpu.cuda_total_mib - (MPS_SERVER_MIB if cut.site.sharing is Sharing.MPS else 0)
    taken = sum(limit for limit in limits_mib if limit is not None)
    left = limits_mib.count(None)
    rest = (total - taken) // left if left else 0
    if taken > total or (left and rest < 1):
        message = f"the limits take {format_bytes(taken * MIB)} of the {format_bytes(total * MIB)} there are"
        return CannotCut(field="memory", message=f"{message}; make them smaller")
    parts = (
        _part(cut.site.gpu, cut.replicas, rest if limit is None else limit, cut.site.sm_percent) for limit in limits_mib
    )
    return tuple(replace(cut, share=part) for part in parts)


def cut_pack(gpu: GpuModel, whole: Exclusive, *, engines: int, sm_percent: int | None = None) -> Cut:
    """A whole GPU as a pack for so many engines: what is left beside the MPS server in equal parts.

    Whole MiB; the first engines get those that are left over.
    """
    each, over = divmod(whole.memory_bytes // MIB - MPS_SERVER_MIB, engines)
    limits = tuple((each + (index < over)) * MIB for index in range(engines))
    share = MpsPack(
        resource=whole.resource, gpu_memory_bytes=whole.memory_bytes, limits_bytes=limits, sm_percent=sm_percent
    )
    return Cut(site=Site(gpu=gpu, sharing=Sharing.MPS, sm_percent=sm_percent), replicas=engines, share=share)


def _cut(gpu: GpuModel, sharing: Sharing, replicas: int, share: Share, *, sm_percent: int | None = None) -> Cut:
    return Cut(site=Site(gpu=gpu, sharing=sharing, sm_percent=sm_percent), replicas=replicas, share=share)


def _part(gpu: GpuModel, replicas: int, limit_mib: int, sm_percent: int | None) -> MpsShare:
    return MpsShare(
        resource=_RESOURCE,
        replicas=replicas,
        gpu_memory_bytes=gpu.cuda_total_mib * MIB,
        limit_bytes=limit_mib * MIB,
        active_thread_percentage=100 if sm_percent is None else sm_percent,
    )


def _instance(gpu: GpuModel, name: str | None, replicas: int) -> Cut | CannotCut:
    names = ", ".join(profile.name for profile in gpu.mig_profiles)
    if not names:
        return CannotCut(field="sharing", message=f"{gpu.id} has no MIG; use none, mps or timeslice")
    if name is None:
        return CannotCut(field="mig_profile", message=f"mig needs a profile; {gpu.id} has {names}")
    profile = _profile(gpu, name)
    if profile is None:
        return CannotCut(field="mig_profile", message=f"{gpu.id} has no profile {name!r}; it has {names}")
    if profile.memory_mib is None:
        known = ", ".join(profile.name for profile in gpu.mig_profiles if profile.memory_mib is not None)
        others = f"take another of {known}" if known else "nor that of its other profiles; use none, mps or timeslice"
        return CannotCut(field="mig_profile", message=f"the memory of {name} on {gpu.id} is not known; {others}")
    if replicas > profile.max_instances:
        message = f"{gpu.id} holds {profile.max_instances} instances of {name} at most"
        return CannotCut(field="replicas", message=message)
    resource = f"nvidia.com/mig-{profile.name.replace('+', '.')}"
    share = MigSlice(resource=resource, profile=profile.name, memory_bytes=profile.memory_mib * MIB)
    site = Site(gpu=gpu, sharing=Sharing.MIG, mig_profile=profile)
    return Cut(site=site, replicas=replicas, share=share)


def _profile(gpu: GpuModel, name: str) -> MigProfile | None:
    """By nvidia-smi's spelling or the resource name's."""
    return next((p for p in gpu.mig_profiles if name in {p.name, p.name.replace("+", ".")}), None)
