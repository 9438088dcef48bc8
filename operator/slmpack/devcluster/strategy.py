"""What each kind does to an object on its way in: defaults, dropped status, immutable fields, deletion grace."""

from __future__ import annotations

from typing import Any

from slmpack.devcluster.errors import invalid
from slmpack.devcluster.patches import clone
from slmpack.devcluster.resources import Resource

__all__ = ["absent_status", "deletion_grace", "prepare_create", "prepare_update"]

Json = dict[str, Any]

_POD_DEFAULTS = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "serviceAccountName": "default",
    "priority": 0,
}
_POD_MUTABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName")


def _quality_of_service(spec: Json) -> str:
    resources = [container.get("resources") or {} for container in spec.get("containers", [])]
    if not any(item.get(kind) for item in resources for kind in ("requests", "limits")):
        return "BestEffort"
    limits = [item.get("limits") or {} for item in resources]
    requests = [(item.get("limits") or {}) | (item.get("requests") or {}) for item in resources]
    pairs = [
        (lim.get(name), req.get(name)) for lim, req in zip(limits, requests, strict=True) for name in ("cpu", "memory")
    ]
    return "Guaranteed" if all(lim is not None and lim == req for lim, req in pairs) else "Burstable"


def _prepare_pod(obj: Json) -> None:
    problems = [
        f"spec.containers[{i}].name: Required value"
        for i, c in enumerate(obj["spec"].get("containers", []))
        if not c.get("name")
    ]
    if not obj["spec"].get("containers"):
        problems = ["spec.containers: Required value"]
    if problems:
        raise invalid("Pod", obj["metadata"]["name"], problems)
    obj["spec"] = _POD_DEFAULTS | obj["spec"]
    for container in obj["spec"]["containers"]:
        container.setdefault("terminationMessagePolicy", "File")
        limits = (container.get("resources") or {}).get("limits")
        if limits:
            container["resources"]["requests"] = limits | (container["resources"].get("requests") or {})
    obj["status"] = {"phase": "Pending", "qosClass": _quality_of_service(obj["spec"])}


def prepare_create(resource: Resource, obj: Json) -> None:
    """Fill in and check a new object, in place; status is the server's except on nodes."""
    if resource.key == "pods":
        _prepare_pod(obj)
    elif resource.key == "namespaces":
        obj["status"] = {"phase": "Active"}
    elif resource.key == "services":
        obj["spec"] = {"type": "ClusterIP", "sessionAffinity": "None"} | (obj.get("spec") or {})
        for port in obj["spec"].get("ports", []):
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port.get("port"))
        obj["status"] = {"loadBalancer": {}}
    elif resource.key == "customresourcedefinitions.apiextensions.k8s.io":
        kinds = ("NamesAccepted", "Established")
        obj["status"] = {"conditions": [{"type": kind, "status": "True"} for kind in kinds]}
    elif resource.key != "nodes" and "status" in resource.subresources:
        obj.pop("status", None)
        if status := absent_status(resource):
            obj["status"] = status


def absent_status(resource: Resource) -> Json:
    """What stands for a status that nobody has written: the CRD's schema default, the only one filled in."""
    schema = (resource.version_spec or {}).get("schema", {}).get("openAPIV3Schema", {})
    default: Json = clone(schema.get("properties", {}).get("status", {}).get("default", {}))
    return default


def prepare_update(resource: Resource, old: Json, new: Json) -> None:
    """Keep what a main-endpoint write may not change, in place; 422 for a changed pod."""
    if "status" in resource.subresources:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    if resource.key != "pods":
        return
    before, after = clone(old["spec"]), clone(new.get("spec") or {})
    for spec in (before, after):
        for name in _POD_MUTABLE:
            spec.pop(name, None)
        for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
            container.pop("image", None)
    if before != after:
        rule = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        raise invalid("Pod", new["metadata"]["name"], [f"spec: Forbidden: {rule}"])


def deletion_grace(resource: Resource, obj: Json, asked: int | None) -> int:
    """Seconds between a delete and the end: only a pod that a node may be running gets any."""
    if resource.key != "pods" or not obj["spec"].get("nodeName"):
        return 0
    if obj.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30)) if asked is None else asked
