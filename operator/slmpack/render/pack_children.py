"""What a pack's pod needs beside itself: the right to write its engines' endpoints, and the slices that hold them.

The account belongs to the SLMDeployment; the rest to the pod, and goes with it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from slmpack.domain.snapshot import Demand, DeploymentView, Key
from slmpack.render.names import (
    NAME_LABEL,
    common_labels,
    owner_reference,
    pack_account_name,
    pack_role_name,
    service_name,
    slice_name,
)
from slmpack.render.pack import engine_port
from slmpack.render.template import mapping

__all__ = ["MANAGED_BY", "SLICE_MANAGER", "PackPod", "pack_account", "pack_children"]

Json = dict[str, Any]

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SLICE_MANAGER = "slmpack.dev"
"""Value of the label MANAGED_BY: the control plane's own controllers leave such slices alone."""

_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPod:
    """A pack's pod as the API server has it."""

    key: Key
    uid: str
    ip: str
    """`status.podIP`; of a pod with two, the first."""
    deployment: str
    """Name of its SLMDeployment."""
    engines: int
    """How many it can run."""
    account: str
    """`spec.serviceAccountName`."""


def pack_account(deployment: DeploymentView, demand: Demand) -> Json | None:
    """The ServiceAccount of a deployment's packs; None where the user names one, which has to be there."""
    name = deployment.key.name
    if mapping(demand.template, "pod").get("serviceAccountName"):
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": pack_account_name(name),
            "namespace": deployment.key.namespace,
            "labels": common_labels(name),
            "ownerReferences": [owner_reference(deployment)],
        },
        "automountServiceAccountToken": False,
    }


def pack_children(pod: PackPod) -> list[Json]:
    """Role, RoleBinding and an EndpointSlice for each engine, in the order in which they are to be made by POST.

    ValueError for an `ip` that is none. The slices begin empty: the pod's supervisor alone writes endpoints.
    """
    return [_role(pod), _binding(pod), *(_slice(pod, index) for index in range(pod.engines))]


def _metadata(pod: PackPod, *, name: str, labels: dict[str, str]) -> Json:
    # blockOwnerDeletion as for an SLMDeployment: true would need a right to the pod's finalizers.
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod.key.name,
        "uid": pod.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": pod.key.namespace, "labels": labels, "ownerReferences": [owner]}


def _role(pod: PackPod) -> Json:
    rule = {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "resourceNames": [slice_name(pod.key.name, engine=index) for index in range(pod.engines)],
        "verbs": ["get", "patch"],
    }
    metadata = _metadata(pod, name=pack_role_name(pod.key.name), labels=common_labels(pod.deployment))
    return {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}


def _binding(pod: PackPod) -> Json:
    name = pack_role_name(pod.key.name)
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(pod, name=name, labels=common_labels(pod.deployment)),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": pod.account, "namespace": pod.key.namespace}],
    }


def _slice(pod: PackPod, index: int) -> Json:
    """One engine's: a slice has one port for all of its endpoints, and each engine has another port."""
    labels = {
        "kubernetes.io/service-name": service_name(pod.deployment),
        MANAGED_BY: SLICE_MANAGER,
        NAME_LABEL: pod.deployment,
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(pod, name=slice_name(pod.key.name, engine=index), labels=labels),
        "addressType": f"IPv{ipaddress.ip_address(pod.ip).version}",
        "ports": [{"name": "http", "port": engine_port(index), "protocol": "TCP", "appProtocol": "http"}],
        "endpoints": [],
    }
