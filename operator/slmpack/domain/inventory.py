"""What each GPU node offers: whole GPUs, MIG slices, MPS shares; or nothing, with the reason.

Read from the labels of GPU feature discovery and the device plugin's allocatable, never from configuration. A node that
bounds nothing (time-slicing) or hides what it has (MIG's single strategy) is recognised and offers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmpack.domain.gpu import USABLE_FRACTION, GpuCatalogue, GpuModel
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare, Share
from slmpack.domain.snapshot import NodeView, PodView

__all__ = ["GpuNode", "Offer", "free_on", "read_nodes", "where"]

GPU = "nvidia.com/gpu"
GPU_SHARED = "nvidia.com/gpu.shared"
MIG_PREFIX = "nvidia.com/mig-"

MPS_SERVER_MIB = 1024
"""Kept for the MPS server on each GPU (NVIDIA Dynamo's examples/gpu-sharing do the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Interchangeable units of one extended resource on one node."""

    share: Share
    units: int
    """Allocatable."""
    gpus: int
    """Physical GPUs behind them, at least 1."""

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
    return pod.record.node if pod.record is not None else None


def free_on(node: GpuNode, pods: tuple[PodView, ...]) -> dict[str, int]:
    """What is left of a node's allocatable beside `pods` (all views of pods there) and the uncounted ones."""
    free = {name: amount - node.view.used_by_others.get(name, 0) for name, amount in node.view.allocatable.items()}
    for pod in pods:
        for name, amount in pod.requests.items():
            free[name] = free.get(name, 0) - amount
        free["pods"] = free.get("pods", 0) - 1
    return free


def _has_gpus(view: NodeView) -> bool:
    return "nvidia.com/gpu.product" in view.labels or any(name.startswith("nvidia.com/") for name in view.allocatable)


def _base_product(label: str) -> str:
    return label.removesuffix("-SHARED").split("-MIG-")[0]


def _read_node(view: NodeView, catalogue: GpuCatalogue) -> GpuNode:
    label = view.labels.get("nvidia.com/gpu.product", "")
    gpu = catalogue.by_product(label)
    offers: list[Offer] = []
    refusals: list[Problem] = []
    if gpu is None:
        known = (
            f"the GPU product {label!r} is not in the catalogue" if label else "it has no nvidia.com/gpu.product label"
        )
        refusals.append(Problem(reason=Reason.UNKNOWN_GPU, message=f"node {view.name}: {known}"))
    else:
        for resource in sorted(name for name in view.allocatable if name.startswith("nvidia.com/")):
            found = _read_resource(view, gpu, resource)
            if isinstance(found, Offer):
                offers.append(found)
            elif found is not None:
                refusals.append(found)
        if not offers and not refusals:
            message = (
                f"node {view.name}: {label} is labelled, but no nvidia.com/ resource is allocatable (device plugin?)"
            )
            refusals.append(Problem(reason=Reason.NOT_ADVERTISED, message=message))
    return GpuNode(view=view, product=_base_product(label), gpu=gpu, offers=tuple(offers), refusals=tuple(refusals))


def _read_resource(view: NodeView, gpu: GpuModel, resource: str) -> Offer | Problem | None:
    units = view.allocatable[resource]
    if units <= 0:
        return None
    if resource.startswith(MIG_PREFIX):
        return _read_mig(view, gpu, resource, units)
    if resource not in {GPU, GPU_SHARED}:
        return None
    return _read_gpu(view, gpu, resource, units)


def _read_mig(view: NodeView, gpu: GpuModel, resource: str, units: int) -> Offer | Problem:
    profile = resource.removeprefix(MIG_PREFIX)
    if _label_int(view.labels, f"{resource}.replicas", 1) > 1 or profile.endswith(".shared"):
        message = f"node {view.name}: {resource} is time-sliced, which bounds nothing"
        return Problem(reason=Reason.TIME_SLICED, message=message)
    known = next((p.memory_mib for p in gpu.mig_profiles if p.name.replace("+", ".") == profile), None)
    labelled = _label_int(view.labels, f"{resource}.memory", 0) or None
    sizes = [size for size in (known, labelled) if size]
    if not sizes:
        message = f"node {view.name}: the memory of {resource} is neither labelled nor in the catalogue"
        return Problem(reason=Reason.UNKNOWN_GPU, message=message)
    share = MigSlice(resource=resource, profile=profile, memory_bytes=min(sizes) * MIB)
    return Offer(share=share, units=units, gpus=_gpu_count(view))


def _read_gpu(view: NodeView, gpu: GpuModel, resource: str, units: int) -> Offer | Problem:
    labels = view.labels
    replicas = _label_int(labels, "nvidia.com/gpu.replicas", 1)
    strategy = labels.get("nvidia.com/gpu.sharing-strategy", "none")
    if "-MIG-" in labels.get("nvidia.com/gpu.product", ""):
        message = f"node {view.name}: MIG's single strategy advertises slices as {resource}; set mig.strategy=mixed"
        return Problem(reason=Reason.SINGLE_STRATEGY_MIG, message=message)
    total_mib, cuda_mib = _gpu_memory(labels, gpu)
    if strategy == "mps" and replicas > 1:
        share = MpsShare(
            resource=resource,
            replicas=replicas,
            gpu_memory_bytes=cuda_mib * MIB,
            limit_bytes=min(total_mib, cuda_mib - MPS_SERVER_MIB) // replicas * MIB,
            active_thread_percentage=100 // replicas,
        )
        return Offer(share=share, units=units, gpus=-(-units // replicas))
    shared = (
        strategy != "none"
        or replicas > 1
        or resource == GPU_SHARED
        or labels["nvidia.com/gpu.product"].endswith("-SHARED")
    )
    if shared:
        how = "time-slicing" if strategy in {"mps", "none"} else strategy  # labels that say less than the name does
        message = f"node {view.name}: {resource} is shared by {how}, which bounds nothing; use MPS or MIG"
        return Problem(reason=Reason.TIME_SLICED, message=message)
    return Offer(share=Exclusive(resource=resource, memory_bytes=cuda_mib * MIB), units=units, gpus=units)


def _gpu_memory(labels: Mapping[str, str], gpu: GpuModel) -> tuple[int, int]:
    """MiB of a whole GPU: what nvidia-smi says, and what CUDA reports. A label can only lower the catalogue's."""
    known = gpu.memory_total_mib
    total = min(known, _label_int(labels, "nvidia.com/gpu.memory", 0) or known)
    return total, gpu.cuda_total_mib if total == known else int(total * USABLE_FRACTION)


def _gpu_count(view: NodeView) -> int:
    return max(1, _label_int(view.labels, "nvidia.com/gpu.count", 1))


def _label_int(labels: Mapping[str, str], key: str, default: int) -> int:
    text = labels.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else default
