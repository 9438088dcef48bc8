"""The scale subresource of custom kinds, by the JSON paths of their CustomResourceDefinition."""

from __future__ import annotations

from typing import Any

from slmpack.devcluster.errors import StatusError
from slmpack.devcluster.patches import merge_patch
from slmpack.devcluster.resources import Resource

__all__ = ["scale_of", "with_scale"]

Json = dict[str, Any]


def _paths(resource: Resource) -> Json:
    if resource.version_spec is None:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    paths: Json = resource.version_spec["subresources"]["scale"]
    return paths


def _at(obj: Json, path: str) -> Any:  # noqa: ANN401 - JSON
    value: Any = obj
    for part in path.strip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def scale_of(resource: Resource, obj: Json, *, absent: int | None = None) -> Json:
    """The autoscaling/v1 Scale of an object; without `spec.replicas`, `absent` or else 500, as the real server does."""
    paths, meta = _paths(resource), obj["metadata"]
    wanted = _at(obj, paths["specReplicasPath"])
    if wanted is None:
        wanted = absent
    if wanted is None:
        text = f'Internal error occurred: the spec replicas field "{paths["specReplicasPath"]}" does not exist'
        raise StatusError(500, "InternalError", text)
    status: Json = {"replicas": _at(obj, paths["statusReplicasPath"]) or 0}
    selector = _at(obj, paths["labelSelectorPath"]) if "labelSelectorPath" in paths else None
    if selector:
        status["selector"] = selector
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": wanted},
        "status": status,
    }


def with_scale(resource: Resource, obj: Json, scale: Json) -> Json:
    """The object with the replicas that a written Scale asks for."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise StatusError(
            422, "Invalid", f"spec.replicas: Invalid value: {replicas!r}: should be a number of at least 0"
        )
    patch: Json = {}
    inner = patch
    *parents, last = _paths(resource)["specReplicasPath"].strip(".").split(".")
    for part in parents:
        inner[part] = {}
        inner = inner[part]
    inner[last] = replicas
    version = scale.get("metadata", {}).get("resourceVersion")
    if version:
        patch["metadata"] = {"resourceVersion": version}
    merged: Json = merge_patch(obj, patch)
    return merged
