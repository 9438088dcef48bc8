"""What each GPU node offers: whole GPUs, MIG slices, MPS shares; or nothing, with the reason.

Read from the labels of GPU feature discovery and the device plugin's allocatable, never from configuration. A node that
bounds nothing (time-slicing) or whose layout MIG's single strategy cannot express is recognised and offers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmpack.domain.dra import beside_plugin, claimable, product_of
from slmpack.domain.gpu import USABLE_FRACTION, GpuCatalogue, GpuModel, MigProfile
from slmpack.domain.mig import find_profile
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare, Unit
from slmpack.domain.snapshot import NodeView, PodView

__all__ = ["SINGLE", "GpuNode", "Offer", "free_on", "label_int", "read_nodes", "where"]

GPU = "nvidia.com/gpu"
GPU_SHARED = "nvidia.com/gpu.shared"
MIG_PREFIX = "nvidia.com/mig-"
SINGLE, _INVALID = "-MIG-", "-MIG-INVALID"
"""In the product label under MIG's single strategy, before the profile; and where the GPUs are not cut alike."""

MPS_SERVER_MIB = 1024
"""Kept for the MPS server on each GPU (NVIDIA Dynamo's examples/gpu-sharing do the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Interchangeable units of one extended resource on one node."""

    share: Unit
    units: int
    """Allocatable."""
    gpus: int
    """Physical GPUs behind them, at least 1. Of MIG instances the labels give a bound: as many as may hold them in the
    mixed strategy, as few as can in the single one."""

    @property
    def resource(self) -> str:
        """The extended resource's name."""
        return self.share.resource

    @property
    def per_gpu(self) -> int:
        """Units on one GPU, rounded up."""
        return -(-self.units // self.gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNode:
    """A node with GPUs, read."""

    view: NodeView
    product: str
    """The GPU product label without a sharing or MIG suffix."""
    gpu: GpuModel | None
    """The catalogue's entry; None: unknown, and nothing is offered."""
    offers: tuple[Offer, ...]
    refusals: tuple[Problem, ...]
    """Why (part of) the node offers nothing."""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.view.name


def read_nodes(views: tuple[NodeView, ...], catalogue: GpuCatalogue) -> tuple[GpuNode, ...]:
    """Every node that has or had GPUs, sorted by name."""
    return tuple(_read_node(view, catalogue) for view in sorted(views, key=lambda view: view.name) if _has_gpus(view))


def where(pod: PodView) -> str | None:
    """The node whose room a pod takes: the one it is bound to, else the one its affinity names, else None."""
    if pod.finished:
        return None
    if pod.node is not None:
        return pod.node
    return (pod.record.node or None) if pod.record is not None else None


def free_on(node: GpuNode, pods: tuple[PodView, ...]) -> dict[str, int]:
    """What is left of a node's allocatable beside `pods` (all views of pods there) and the uncounted ones."""
    free = {name: amount - node.view.used_by_others.get(name, 0) for name, amount in node.view.allocatable.items()}
    for pod in pods:
        for name, amount in pod.requests.items():
            free[name] = free.get(name, 0) - amount
        free["pods"] = free.get("pods", 0) - 1
    for offer in node.offers:
        if beyond := _beyond(node.view, offer):
            free[offer.resource] -= beyond
    return free


def _beyond(view: NodeView, offer: Offer) -> int:
    """Units that the node advertises, but cannot serve."""
    return max(0, view.allocatable.get(offer.resource, 0) - offer.units)


def _has_gpus(view: NodeView) -> bool:
    labelled = "nvidia.com/gpu.product" in view.labels
    return labelled or bool(view.devices) or any(name.startswith("nvidia.com/") for name in view.allocatable)


def _base_product(label: str) -> str:
    return label.removesuffix("-SHARED").split(SINGLE)[0]


def _read_node(view: NodeView, catalogue: GpuCatalogue) -> GpuNode:
    label = product_of(view.labels, view.allocatable, view.devices)
    gpu = catalogue.by_product(label)
    offers: list[Offer] = []
    refusals: list[Problem] = []
    if gpu is None:
        known = (
            f"the GPU product {label!r} is not in the catalogue" if label else "it has no nvidia.com/gpu.product label"
        )
        refusals.append(Problem(reason=Reason.UNKNOWN_GPU, message=f"node {view.name}: {known}"))
    elif label.endswith(_INVALID):
        message = (
            f"node {view.name}: MIG's single strategy needs instances of one profile on every GPU, and {label} says "
            "that there are others or none; cut all its GPUs alike, or set mig.strategy=mixed"
        )
        refusals.append(Problem(reason=Reason.SINGLE_STRATEGY_MIG, message=message))
    else:
        for resource in sorted(name for name in view.allocatable if name.startswith("nvidia.com/")):
            found = _read_resource(view, gpu, resource)
            if isinstance(found, Offer):
                offers.append(found)
                refusals.extend(_withheld(view, found))
            elif found is not None:
                refusals.append(found)
        claimed, unclaimed = _read_devices(view, gpu)
        offers.extend(claimed)
        refusals.extend(unclaimed)
        if not offers and not refusals:
            message = (
                f"node {view.name}: {label} is labelled, but no nvidia.com/ resource is allocatable (device plugin?)"
            )
            refusals.append(Problem(reason=Reason.NOT_ADVERTISED, message=message))
    return GpuNode(view=view, product=_base_product(label), gpu=gpu, offers=tuple(offers), refusals=tuple(refusals))


def _read_devices(view: NodeView, gpu: GpuModel) -> tuple[tuple[Offer, ...], tuple[Problem, ...]]:
    twice = beside_plugin(view.name, view.allocatable, view.devices)
    if twice is not None:
        return (), (twice,)
    found, problems = claimable(view.name, view.allocatable, view.devices, gpu)
    return tuple(Offer(share=one.share, units=one.units, gpus=one.gpus) for one in found), problems


def _read_resource(view: NodeView, gpu: GpuModel, resource: str) -> Offer | Problem | None:
    units = view.allocatable[resource]
    if units <= 0:
        return None
    if resource.startswith(MIG_PREFIX):
        return _read_mig(view, gpu, resource, resource.removeprefix(MIG_PREFIX))
    if resource not in {GPU, GPU_SHARED}:
        return None
    product = view.labels.get("nvidia.com/gpu.product", "")
    if SINGLE in product:
        return _read_mig(view, gpu, resource, product.removesuffix("-SHARED").split(SINGLE)[1])
    return _read_gpu(view, gpu, resource, units)


def _read_mig(view: NodeView, gpu: GpuModel, resource: str, profile: str) -> Offer | Problem:
    """Instances of one profile; in both strategies the labels that describe one start with the resource's name."""
    if _is_sliced(view, resource):
        message = f"node {view.name}: {resource} is time-sliced, which bounds nothing"
        return Problem(reason=Reason.TIME_SLICED, message=message)
    known = find_profile(gpu, profile)
    labelled = label_int(view.labels, f"{resource}.memory", 0) or None
    sizes = [size for size in (known and known.memory_mib, labelled) if size]
    if not sizes:
        message = f"node {view.name}: the memory of {resource} is neither labelled nor in the catalogue"
        return Problem(reason=Reason.UNKNOWN_GPU, message=message)
    share = MigSlice(resource=resource, profile=profile, memory_bytes=min(sizes) * MIB)
    return Offer(share=share, units=view.allocatable[resource], gpus=_gpus_with(view, resource, known))


def _is_sliced(view: NodeView, resource: str) -> bool:
    """Whether several pods get the same instance: the device plugin shares instances by time-slicing only."""
    labels = view.labels
    return (
        label_int(labels, f"{resource}.replicas", 1) > 1
        or labels.get(f"{resource}.sharing-strategy", "none") != "none"
        or resource.endswith(".shared")
        or (resource == GPU and labels.get("nvidia.com/gpu.product", "").endswith("-SHARED"))
    )


def _gpus_with(view: NodeView, resource: str, profile: MigProfile | None) -> int:
    """Physical GPUs behind instances: `gpu.count` counts GPUs in the mixed strategy, instances in the single one."""
    units = view.allocatable[resource]
    counted = label_int(view.labels, "nvidia.com/gpu.count", 0)
    single = resource == GPU
    least = -(-max(units, counted if single else 0) // profile.max_instances) if profile is not None else 1
    if single:
        return least
    replicas = max(1, label_int(view.labels, "nvidia.com/gpu.replicas", 1))
    whole = -(-(view.allocatable.get(GPU, 0) + view.allocatable.get(GPU_SHARED, 0)) // replicas)
    return max(least, min(units, counted - whole))


def _read_gpu(view: NodeView, gpu: GpuModel, resource: str, units: int) -> Offer | Problem:
    labels = view.labels
    replicas = label_int(labels, "nvidia.com/gpu.replicas", 1)
    strategy = labels.get("nvidia.com/gpu.sharing-strategy", "none")
    total_mib, cuda_mib = _gpu_memory(labels, gpu)
    if strategy == "mps" and replicas > 1:
        share = MpsShare(
            resource=resource,
            replicas=replicas,
            gpu_memory_bytes=cuda_mib * MIB,
            limit_bytes=min(total_mib, cuda_mib - MPS_SERVER_MIB) // replicas * MIB,
            active_thread_percentage=max(1, 100 // replicas),
        )
        gpus = -(-units // replicas)
        return Offer(share=share, units=min(units, gpus * (gpu.mps_max_clients or replicas)), gpus=gpus)
    shared = (
        strategy != "none"
        or replicas > 1
        or resource == GPU_SHARED
        or labels.get("nvidia.com/gpu.product", "").endswith("-SHARED")
    )
    if shared:
        how = "time-slicing" if strategy in {"mps", "none"} else strategy  # labels that say less than the name does
        message = f"node {view.name}: {resource} is shared by {how}, which bounds nothing; use MPS or MIG"
        return Problem(reason=Reason.TIME_SLICED, message=message)
    return Offer(share=Exclusive(resource=resource, memory_bytes=cuda_mib * MIB), units=units, gpus=units)


def _withheld(view: NodeView, offer: Offer) -> tuple[Problem, ...]:
    """Why an offer is less than what the node advertises: the MPS daemon admits only so many clients to a GPU."""
    if not _beyond(view, offer):
        return ()
    most = offer.per_gpu
    message = (
        f"node {view.name}: {view.allocatable[offer.resource]} {offer.resource} are advertised, but the device "
        f"plugin's MPS daemon admits {most} clients to a GPU; set sharing.mps.replicas to at most {most}"
    )
    return (Problem(reason=Reason.MPS_CLIENT_LIMIT, message=message),)


def _gpu_memory(labels: Mapping[str, str], gpu: GpuModel) -> tuple[int, int]:
    """MiB of a whole GPU: what nvidia-smi says, and what CUDA reports. A label can only lower the catalogue's."""
    known = gpu.memory_total_mib
    total = min(known, label_int(labels, "nvidia.com/gpu.memory", 0) or known)
    return total, gpu.cuda_total_mib if total == known else int(total * USABLE_FRACTION)


def label_int(labels: Mapping[str, str], key: str, default: int) -> int:
    """A label that is a whole number; `default` where it is missing or is none."""
    text = labels.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else default
