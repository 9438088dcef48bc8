"""GPU nodes as the device plugin and GPU feature discovery label them, as plain dicts.

Label names and values follow NVIDIA/k8s-device-plugin v0.20 (internal/lm) and the GPU operator's documented output for
mixed MIG; memory is `nvidia-smi`'s total in MiB, of a MIG instance the lowest that a public capture shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "A100",
    "H100",
    "L4",
    "a100_mig_node",
    "mig_invalid_node",
    "mig_single_node",
    "mps_node",
    "tainted",
    "timesliced_node",
    "whole_node",
]

Json = dict[str, Any]
A100, H100, L4 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3", "NVIDIA-L4"

# product: (memory MiB, family, compute capability)
_PRODUCTS = {
    A100: (81920, "ampere", "8.0"),
    "NVIDIA-A100-SXM4-40GB": (40960, "ampere", "8.0"),
    H100: (81559, "hopper", "9.0"),
    "NVIDIA-H200": (143771, "hopper", "9.0"),
    L4: (23034, "ada-lovelace", "8.9"),
    "NVIDIA-L40S": (46068, "ada-lovelace", "8.9"),
}
# product: profile: (memory MiB, multiprocessors)
_MIG: dict[str, dict[str, tuple[int, int]]] = {
    A100: {
        "1g.10gb": (9728, 14),
        "1g.20gb": (19968, 14),
        "2g.20gb": (19968, 28),
        "3g.40gb": (40192, 42),
        "4g.40gb": (40192, 56),
        "7g.80gb": (80384, 98),
    },
    "NVIDIA-A100-SXM4-40GB": {
        "1g.5gb": (4864, 14),
        "1g.10gb": (9856, 14),
        "2g.10gb": (9856, 28),
        "3g.20gb": (19968, 42),
        "4g.20gb": (19968, 56),
        "7g.40gb": (40192, 98),
    },
    H100: {
        "1g.10gb": (9984, 16),
        "1g.20gb": (20096, 26),
        "2g.20gb": (20096, 32),
        "3g.40gb": (40320, 60),
        "4g.40gb": (40448, 64),
        "7g.80gb": (81152, 132),
    },
}


def _gpu_labels(product: str, gpus: int) -> dict[str, str]:
    memory, family, capability = _PRODUCTS[product]
    major, minor = capability.split(".")
    values = {
        "gpu.present": "true",
        "gpu.product": product,
        "gpu.memory": str(memory),
        "gpu.count": str(gpus),
        "gpu.replicas": "1",
        "gpu.family": family,
        "gpu.compute.major": major,
        "gpu.compute.minor": minor,
        "gpu.mode": "compute",
        "gpu.sharing-strategy": "none",
        "mig.capable": "true" if product in _MIG else "false",
        "mps.capable": "false",
        "cuda.driver-version.full": "595.91.07",
    }
    return {f"nvidia.com/{name}": value for name, value in values.items()}


def _node(name: str, labels: Mapping[str, str], resources: Mapping[str, int]) -> Json:
    capacity = {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "500Gi"}
    capacity |= {resource: str(count) for resource, count in resources.items()}
    base = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node-role.kubernetes.io/gpu": "",
    }
    # The kubelet keeps a little for itself: half a core and 1 GiB.
    allocatable = capacity | {"cpu": "31500m", "memory": "127Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": base | dict(labels)},
        "spec": {},
        "status": {
            "capacity": capacity,
            "allocatable": allocatable,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "kubelet is posting ready status",
                }
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.36.3",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "osImage": "slmpack stand-in",
                "kernelVersion": "6.8.0",
                "containerRuntimeVersion": "stand-in://1",
            },
        },
    }


def tainted(node: Json) -> Json:
    """The node with the NoSchedule taint that keeps pods without a GPU away."""
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    return node | {"spec": node["spec"] | {"taints": [taint]}}


def a100_mig_node(name: str, *, profiles: Mapping[str, int], product: str = A100, gpus: int = 1) -> Json:
    """A node in the mixed MIG strategy: `profiles` maps e.g. `1g.10gb` to how many instances the node has."""
    labels = _gpu_labels(product, gpus) | {"nvidia.com/mig.strategy": "mixed", "nvidia.com/mig.config.state": "success"}
    for profile, count in profiles.items():
        memory, multiprocessors = _MIG[product][profile]
        slices = profile.split("g.", maxsplit=1)[0]
        values = {
            "count": count,
            "memory": memory,
            "multiprocessors": multiprocessors,
            "product": f"{product}-MIG-{profile}",
            "replicas": 1,
            "sharing-strategy": "none",
            "slices.gi": slices,
            "slices.ci": slices,
        }
        labels |= {f"nvidia.com/mig-{profile}.{key}": str(value) for key, value in values.items()}
    resources = {"nvidia.com/gpu": 0} | {f"nvidia.com/mig-{profile}": count for profile, count in profiles.items()}
    return _node(name, labels, resources)


def mig_single_node(name: str, *, profile: str, count: int, product: str = A100, gpus: int = 1) -> Json:
    """A node in the single MIG strategy: instances pose as `nvidia.com/gpu`, and `gpu.count` counts them."""
    memory, multiprocessors = _MIG[product][profile]
    slices = profile.split("g.", maxsplit=1)[0]
    values = {
        "product": f"{product}-MIG-{profile}",
        "count": count,
        "memory": memory,
        "multiprocessors": multiprocessors,
        "slices.gi": slices,
        "slices.ci": slices,
    }
    labels = _gpu_labels(product, gpus) | {
        "nvidia.com/mig.strategy": "single",
        "nvidia.com/mig.config.state": "success",
    }
    labels |= {f"nvidia.com/gpu.{key}": str(value) for key, value in values.items()}
    return _node(name, labels, {"nvidia.com/gpu": count})


def mig_invalid_node(name: str, *, product: str = A100, gpus: int = 2) -> Json:
    """A node in the single MIG strategy whose GPUs are not cut alike: it advertises nothing."""
    labels = _gpu_labels(product, gpus) | {"nvidia.com/mig.strategy": "single"}
    labels |= {"nvidia.com/gpu.product": f"{product}-MIG-INVALID"}
    labels |= {f"nvidia.com/gpu.{key}": "0" for key in ("count", "replicas", "memory")}
    return _node(name, labels, {"nvidia.com/gpu": 0})


def whole_node(name: str, *, product: str = L4, gpus: int = 1) -> Json:
    """A node that hands out whole GPUs."""
    return _node(name, _gpu_labels(product, gpus), {"nvidia.com/gpu": gpus})


def _shared_node(name: str, labels: dict[str, str], shape: tuple[int, int, bool]) -> Json:
    gpus, replicas, rename = shape
    product = labels["nvidia.com/gpu.product"]
    labels["nvidia.com/gpu.replicas"] = str(replicas)
    if rename:
        return _node(name, labels, {"nvidia.com/gpu": 0, "nvidia.com/gpu.shared": gpus * replicas})
    labels["nvidia.com/gpu.product"] = f"{product}-SHARED"
    return _node(name, labels, {"nvidia.com/gpu": gpus * replicas})


def mps_node(name: str, *, replicas: int, product: str = H100, gpus: int = 1, rename: bool = False) -> Json:
    """A node that shares each GPU among `replicas` MPS clients; `rename` offers them as `nvidia.com/gpu.shared`."""
    labels = _gpu_labels(product, gpus) | {"nvidia.com/gpu.sharing-strategy": "mps", "nvidia.com/mps.capable": "true"}
    return _shared_node(name, labels, (gpus, replicas, rename))


def timesliced_node(name: str, *, replicas: int, product: str = H100, gpus: int = 1) -> Json:
    """A node whose device plugin time-slices, which bounds nothing."""
    labels = _gpu_labels(product, gpus) | {"nvidia.com/gpu.sharing-strategy": "time-slicing"}
    return _shared_node(name, labels, (gpus, replicas, False))
