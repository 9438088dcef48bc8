"""The device plugin and the GPUs of one stand-in node. Which GPU serves a pod is decided here and told to nobody."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from slmpack.devcluster.engine import Device
from slmpack.devcluster.mps import MpsDaemon, clients_on

__all__ = ["AdmissionError", "Gpu", "NodeDevices"]

Json = dict[str, Any]
_MIB = 2**20
# CUDA's total of the whole GPU in MiB: public captures of torch's total_memory. The label gpu.memory says more.
_CUDA_TOTAL_MIB = {
    "NVIDIA-A40": 45416,
    "NVIDIA-A100-PCIE-40GB": 40326,
    "NVIDIA-H100-80GB-HBM3": 81082,
    "NVIDIA-H100-PCIe": 81008,
    "NVIDIA-H200": 143156,
    "NVIDIA-L4": 22563,
    "NVIDIA-L40S": 45589,
    "NVIDIA-GeForce-RTX-4090": 24563,
    "NVIDIA-RTX-A6000": 48676,
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": 97250,
}
_CUDA_TOTAL_SHARE = 0.98  # of the label, where no capture was found; the captures lie between 0.979 and 1
# CUDA context of one process, GiB: total minus free at vLLM's start on idle cards, from logs.
_CONTEXT_GIB = {"L4": 0.25, "RTX-4090": 0.45, "A100": 0.49, "L40S": 0.49, "H100": 0.61, "H200": 0.6}
_CONTEXT_GIB_ELSEWHERE = 0.61


class AdmissionError(Exception):
    """The kubelet refuses a pod whose devices it cannot allocate."""


@dataclass(slots=True, kw_only=True)
class Gpu:
    """One whole GPU or MIG instance: who holds shares and memory of it, and what disturbs a profiling."""

    total_bytes: int
    context_bytes: int
    product: str = ""
    slots: int = 1
    limit_bytes: int | None = None
    mps: MpsDaemon | None = None
    holders: set[str] = field(default_factory=set)
    resident_bytes: dict[str, int] = field(default_factory=dict)
    disturbances: int = 0

    def view(self) -> Device:
        """What CUDA shows to one more process now."""
        free = self.total_bytes - sum(self.resident_bytes.values())
        return Device(
            total_bytes=self.total_bytes,
            free_bytes=free,
            context_bytes=self.context_bytes,
            limit_bytes=self.limit_bytes,
            product=self.product,
            takes_clients=self.mps is None or len(self.resident_bytes) < self.mps.clients_per_gpu,
        )

    def begin_start(self) -> int:
        """An engine starts to take memory; hand the result to `is_disturbed` when it is up."""
        self.disturbances += 1
        return self.disturbances

    def is_disturbed(self, since: int) -> bool:
        """Whether another engine started or stopped on this GPU after `begin_start`."""
        return self.disturbances != since

    def end(self, pod: str) -> None:
        """An engine is gone and its memory with it."""
        self.resident_bytes.pop(pod, None)
        if self.mps is not None:
            self.mps.leave(pod)
        self.disturbances += 1


def _gpus(node: Json) -> Iterator[tuple[str, Gpu]]:
    labels: Mapping[str, str] = node["metadata"].get("labels", {})
    allocatable = node["status"].get("allocatable", {})
    product = labels.get("nvidia.com/gpu.product", "")
    context = next((gib for word, gib in _CONTEXT_GIB.items() if word in product), _CONTEXT_GIB_ELSEWHERE)
    context_bytes = int(context * 2**30)
    for resource in sorted(name for name in allocatable if name.startswith("nvidia.com/")):
        count = int(allocatable[resource])
        if resource.startswith("nvidia.com/mig-"):
            for _ in range(count):
                total = int(labels[f"{resource}.memory"]) * _MIB
                yield resource, Gpu(total_bytes=total, context_bytes=context_bytes, product=product)
            continue
        memory_mib = int(labels.get("nvidia.com/gpu.memory", "0"))
        plain = product.removesuffix("-SHARED")
        share = 1 if "-MIG-" in product else _CUDA_TOTAL_SHARE
        total = _CUDA_TOTAL_MIB.get(plain, int(memory_mib * share)) * _MIB
        strategy = labels.get("nvidia.com/gpu.sharing-strategy", "none")
        replicas = int(labels.get("nvidia.com/gpu.replicas", "1")) if strategy != "none" else 1
        daemon = MpsDaemon(clients_per_gpu=clients_on(labels)) if strategy == "mps" else None
        for _ in range(count // replicas):
            gpu = Gpu(total_bytes=total, context_bytes=context_bytes, product=plain, slots=replicas)
            if daemon is not None:
                gpu.mps, gpu.limit_bytes = daemon, memory_mib // replicas * _MIB
            yield resource, gpu


class NodeDevices:
    """The extended resources of one node. `random` breaks ties between equally loaded GPUs (policy `distributed`)."""

    def __init__(self, node: Json, *, chooser: random.Random) -> None:
        self.is_advertised = True
        """False while the device plugin is away: the kubelet then has no healthy device to give."""
        self._chooser = chooser
        self._gpus: dict[str, list[Gpu]] = {}
        for resource, gpu in _gpus(node):
            self._gpus.setdefault(resource, []).append(gpu)

    def allocate(self, pod: str, requests: Mapping[str, int]) -> list[Gpu]:
        """The GPUs a pod gets, least loaded first; AdmissionError if there are not enough."""
        chosen: list[Gpu] = []
        for resource, count in requests.items():
            if not self.is_advertised:
                raise AdmissionError(
                    "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices "
                    f"{resource}, which is unexpected"
                )
            present = self._gpus.get(resource, [])
            if count > 1 and any(gpu.slots > 1 for gpu in present):
                raise AdmissionError(
                    f"Allocate failed due to rpc error: code = Unknown desc = request for '{resource}: {count}' too "
                    "large: maximum request size for shared resources is 1, which is unexpected"
                )
            free = [gpu for gpu in present if len(gpu.holders) < gpu.slots]
            if len(free) < count:
                raise AdmissionError(
                    f"Allocate failed due to requested number of devices unavailable for {resource}. "
                    f"Requested: {count}, Available: {len(free)}, which is unexpected"
                )
            self._chooser.shuffle(free)
            chosen += sorted(free, key=lambda gpu: len(gpu.holders))[:count]
        for gpu in chosen:
            gpu.holders.add(pod)
        return chosen

    def release(self, pod: str) -> None:
        """Give a pod's devices back."""
        for gpus in self._gpus.values():
            for gpu in gpus:
                gpu.holders.discard(pod)
