"""What NVIDIA's DRA driver does to a cluster: DeviceClass, ResourceSlices, and devices for the pods of a node.

Names, attributes and capacities are those of kubernetes-sigs/dra-driver-nvidia-gpu (cmd/gpu-kubelet-plugin: `driver.go`
publishResources, `deviceinfo.go` MigDeviceInfo.GetDevice, `mig.go` CommonAttributesMig, CommonCapacitiesMig and
ToCanonicalName): one pool a node, named as the node, in one slice, and a MIG instance as a device without counters.
Memory and multiprocessors of H100 instances are those of `slmpack.devcluster.nodes`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from slmpack.devcluster.devices import AdmissionError, Gpu, NodeDevices
from slmpack.devcluster.nodes import H100, whole_node
from slmpack.domain.quantity import MIB, parse_bytes
from tests.support.control_plane import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slmpack.devcluster.kubelet import Kubelets
    from tests.support.control_plane import ControlPlane

__all__ = [
    "CLAIMS",
    "CLASSES",
    "SLICES",
    "DriverDevices",
    "dra_node",
    "mig_class",
    "mig_device",
    "play_driver",
    "publish",
    "resource_slice",
]

Json = dict[str, Any]

API = "/apis/resource.k8s.io/v1"
CLASSES, SLICES, CLAIMS = f"{API}/deviceclasses", f"{API}/resourceslices", f"{API}/resourceclaims"
DRIVER = "gpu.nvidia.com"
PRODUCT = "NVIDIA H100 80GB HBM3"


@dataclass(frozen=True, slots=True)
class _Instance:
    memory_mib: int
    multiprocessors: int
    slices: int
    profile_id: int


_H100 = {
    "1g.10gb": _Instance(9984, 16, 1, 19),
    "1g.20gb": _Instance(20096, 26, 2, 15),
    "2g.20gb": _Instance(20096, 32, 2, 14),
    "3g.40gb": _Instance(40320, 60, 4, 9),
}


def mig_class(
    expression: str = "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'mig'",
) -> Json:
    """The DeviceClass of the driver's Helm chart."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": "mig.nvidia.com"},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }


def mig_device(profile: str, *, gpu: int = 0, start: int = 0, more: Mapping[str, Any] | None = None) -> Json:
    """A static MIG instance of an H100; `more` adds to the device, taints for instance."""
    instance = _H100[profile]
    words = {
        "type": "mig",
        "uuid": f"MIG-{gpu:08d}-0000-5000-8000-{instance.profile_id:06d}{start:06d}",
        "parentUUID": f"GPU-{gpu:08d}-0000-0000-0000-000000000000",
        "profile": profile,
        "productName": PRODUCT,
        "brand": "Nvidia",
        "architecture": "Hopper",
        "resource.kubernetes.io/pciBusID": f"0000:{gpu:02x}:00.0",
        "resource.kubernetes.io/pcieRoot": f"pci0000:{gpu:02x}",
    }
    versions = {"cudaComputeCapability": "9.0.0", "driverVersion": "580.95.5", "cudaDriverVersion": "13.0.0"}
    counts = {
        "multiprocessors": instance.multiprocessors,
        "copyEngines": 1,
        "decoders": 1,
        "encoders": 0,
        "jpegEngines": 1,
        "ofaEngines": 0,
        **{f"memorySlice{at}": 1 for at in range(start, start + instance.slices)},
    }
    capacity = {name: {"value": str(count)} for name, count in counts.items()}
    return {
        "name": f"gpu-{gpu}-mig-{profile.replace('.', '')}-{instance.profile_id}-{start}",
        "attributes": {
            **{name: {"string": value} for name, value in words.items()},
            **{name: {"version": value} for name, value in versions.items()},
        },
        "capacity": {**capacity, "memory": {"value": f"{instance.memory_mib}Mi"}},
        **(more or {}),
    }


def resource_slice(
    node: str, devices: Sequence[Json], *, generation: int = 1, of: int = 1, name: str = "", uid: str = ""
) -> Json:
    """The driver's slice of a node, which the node owns."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid or f"uid-{node}", "controller": True}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name or f"{node}-{DRIVER}-{generation}", "ownerReferences": [owner]},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": of},
            "devices": list(devices),
        },
    }


def publish(api: ControlPlane, node: str, devices: Sequence[Json], *, generation: int = 1) -> None:
    """Publish a node's pool anew: the new generation is made, then the old one removed."""
    old = [it for it in api.request("GET", SLICES)["items"] if it["spec"].get("nodeName") == node]
    uid = api.request("GET", f"/api/v1/nodes/{node}")["metadata"]["uid"]
    api.request("POST", SLICES, body=resource_slice(node, devices, generation=generation, uid=uid))
    for it in old:
        api.request("DELETE", f"{SLICES}/{it['metadata']['name']}")


def dra_node(name: str) -> Json:
    """A GPU node without device plugin and GPU feature discovery: node feature discovery's label is all it has."""
    node = whole_node(name, product=H100)
    labels = {key: value for key, value in node["metadata"]["labels"].items() if not key.startswith("nvidia.com/")}
    labels["feature.node.kubernetes.io/pci-10de.present"] = "true"
    kept = {
        part: {key: value for key, value in node["status"][part].items() if not key.startswith("nvidia.com/")}
        for part in ("capacity", "allocatable")
    }
    return node | {"metadata": {"name": name, "labels": labels}, "status": node["status"] | kept}


class DriverDevices(NodeDevices):
    """Gives a pod what its claims were allocated, and nothing else: NodePrepareResources of a strict driver."""

    def __init__(self, api: ControlPlane, node: Json) -> None:
        super().__init__(node, chooser=random.Random(0))
        self._api = api
        self._node: str = node["metadata"]["name"]
        self._devices: dict[str, Gpu] = {}

    @override
    def allocate(self, pod: str, requests: Mapping[str, int]) -> list[Gpu]:
        """The devices of the claims that are reserved for the pod; AdmissionError where one is another's already."""
        if requests:
            raise AdmissionError(f"Allocate failed: node {self._node} has no device plugin for {', '.join(requests)}")
        published = {
            device["name"]: device
            for one in self._api.request("GET", SLICES)["items"]
            if one["spec"].get("nodeName") == self._node
            for device in one["spec"]["devices"]
        }
        chosen: list[Gpu] = []
        for claim in self._api.request("GET", CLAIMS)["items"]:
            status = claim.get("status", {})
            if pod not in {user["uid"] for user in status.get("reservedFor", [])}:
                continue
            chosen.extend(self._prepare(published, result) for result in status["allocation"]["devices"]["results"])
        for gpu in chosen:
            gpu.holders.add(pod)
        return chosen

    def _prepare(self, published: Mapping[str, Json], result: Json) -> Gpu:
        name: str = result["device"]
        if result["driver"] != DRIVER or result["pool"] != self._node or name not in published:
            raise AdmissionError(f"prepare devices failed: {result} is no device of node {self._node}")
        total = parse_bytes(published[name]["capacity"]["memory"]["value"])
        gpu = self._devices.setdefault(name, Gpu(total_bytes=total, context_bytes=620 * MIB, product=H100))
        if gpu.holders:
            raise AdmissionError(f"prepare devices failed: {name} is held by {gpu.holders}")
        return gpu

    @override
    def release(self, pod: str) -> None:
        """Give a pod's devices back."""
        for gpu in self._devices.values():
            gpu.holders.discard(pod)


def play_driver(kubelets: Kubelets, api: ControlPlane, node: Json) -> None:
    """Let a played node serve its pods by DRA."""
    kubelets._nodes[node["metadata"]["name"]].devices = DriverDevices(api, node)


def remove(api: ControlPlane, path: str) -> None:
    """DELETE; already gone is fine."""
    try:
        api.request("DELETE", path)
    except ApiError as error:
        if error.status != 404:
            raise
