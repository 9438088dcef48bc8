"""The Table form of lists, which `kubectl get` prints: columns of a few built-in kinds and a CRD's printer columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from slmpack.devcluster.resources import Resource

__all__ = ["table"]

Json = dict[str, Any]
Cell = tuple[str, int, Callable[[Json, datetime], object]]  # name, priority (1: only with -o wide), value


def _age_since(moment: str | None, now: datetime) -> str:
    if not moment:
        return "<unknown>"
    start = datetime.fromisoformat(moment)
    seconds = max(0, int((now - (start if start.tzinfo else start.replace(tzinfo=UTC))).total_seconds()))
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def _age(obj: Json, now: datetime) -> str:
    return _age_since(obj["metadata"].get("creationTimestamp"), now)


def _name(obj: Json, _now: datetime) -> str:
    return str(obj["metadata"]["name"])


def _containers(pod: Json) -> list[Json]:
    statuses: list[Json] = pod.get("status", {}).get("containerStatuses", [])
    return statuses


def _pod_status(pod: Json, _now: datetime) -> str:
    """The word kubectl shows: Terminating, else the first container's trouble, else the phase."""
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    if status.get("reason"):
        return str(status["reason"])
    for item in _containers(pod):
        state = item.get("state", {})
        trouble = state.get("waiting", {}).get("reason") or state.get("terminated", {}).get("reason")
        if trouble:
            return str(trouble)
    return str(status.get("phase", "Unknown"))


def _pod_ready(pod: Json, _now: datetime) -> str:
    return f"{sum(bool(item.get('ready')) for item in _containers(pod))}/{len(pod['spec'].get('containers', []))}"


def _node_status(node: Json, _now: datetime) -> str:
    conditions = node.get("status", {}).get("conditions", [])
    ready = next((item["status"] for item in conditions if item["type"] == "Ready"), "Unknown")
    word = "Ready" if ready == "True" else "NotReady"
    return f"{word},SchedulingDisabled" if node["spec"].get("unschedulable") else word


def _roles(node: Json, _now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    return (
        ",".join(
            sorted(key.removeprefix(prefix) for key in node["metadata"].get("labels", {}) if key.startswith(prefix))
        )
        or "<none>"
    )


def _ports(service: Json, _now: datetime) -> str:
    return (
        ",".join(f"{item['port']}/{item.get('protocol', 'TCP')}" for item in service["spec"].get("ports", []))
        or "<none>"
    )


def _about(event: Json, _now: datetime) -> str:
    regarding = event.get("involvedObject", {})
    return f"{str(regarding.get('kind', '')).lower()}/{regarding.get('name', '')}"


def _at(path: str, missing: object = "<none>") -> Callable[[Json, datetime], object]:
    """Value at a JSONPath of the kind CRDs use: names, numeric indexes and `[?(@.key=="value")]`."""
    steps = [step for step in re.findall(r"\[[^\]]*\]|[^.\[\]]+", path) if step]

    def read(obj: Json, _now: datetime) -> object:
        value: object = obj
        for step in steps:
            value = _step(value, step)
        return missing if value is None else value

    return read


def _step(value: object, step: str) -> object:
    filtered = re.fullmatch(r"\[\?\(@\.(\w+)\s*==\s*[\"'](.*?)[\"']\)\]", step)
    if filtered and isinstance(value, list):
        return next((item for item in value if item.get(filtered[1]) == filtered[2]), None)
    if step.startswith("[") and isinstance(value, list):
        index = int(step[1:-1])
        return value[index] if index < len(value) else None
    return value.get(step) if isinstance(value, dict) else None


_BUILT_IN: dict[str, Sequence[Cell]] = {
    "pods": (
        ("Name", 0, _name),
        ("Ready", 0, _pod_ready),
        ("Status", 0, _pod_status),
        ("Restarts", 0, lambda pod, _: str(sum(int(item.get("restartCount", 0)) for item in _containers(pod)))),
        ("Age", 0, _age),
        ("IP", 1, _at("status.podIP")),
        ("Node", 1, _at("spec.nodeName")),
    ),
    "nodes": (
        ("Name", 0, _name),
        ("Status", 0, _node_status),
        ("Roles", 0, _roles),
        ("Age", 0, _age),
        ("Version", 0, _at("status.nodeInfo.kubeletVersion", "")),
    ),
    "services": (
        ("Name", 0, _name),
        ("Type", 0, _at("spec.type")),
        ("Cluster-IP", 0, _at("spec.clusterIP")),
        ("External-IP", 0, lambda _obj, _now: "<none>"),
        ("Port(s)", 0, _ports),
        ("Age", 0, _age),
    ),
    "events": (
        (
            "Last Seen",
            0,
            lambda obj, now: _age_since(
                obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"].get("creationTimestamp"), now
            ),
        ),
        ("Type", 0, _at("type", "")),
        ("Reason", 0, _at("reason", "")),
        ("Object", 0, _about),
        ("Message", 0, _at("message", "")),
    ),
    "namespaces": (("Name", 0, _name), ("Status", 0, _at("status.phase", "")), ("Age", 0, _age)),
    "leases.coordination.k8s.io": (("Name", 0, _name), ("Holder", 0, _at("spec.holderIdentity", "")), ("Age", 0, _age)),
}


def _custom_cell(column: Json) -> Cell:
    read = _at(column["jsonPath"].lstrip("."), None)
    if column["type"] == "date":
        return column["name"], column.get("priority", 0), lambda obj, now: _age_since(str(read(obj, now) or ""), now)
    return column["name"], column.get("priority", 0), read


def _cells(resource: Resource) -> Sequence[Cell]:
    columns = (resource.version_spec or {}).get("additionalPrinterColumns")
    if columns:
        return (("Name", 0, _name), *(_custom_cell(column) for column in columns))
    return _BUILT_IN.get(resource.key, (("Name", 0, _name), ("Age", 0, _age)))


def table(resource: Resource, objects: Sequence[Json], *, now: datetime, version: str, whole: bool = False) -> Json:
    """A meta.k8s.io/v1 Table; each row carries the object's metadata, or all of it if `whole`."""
    cells = _cells(resource)
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    columns = [
        {
            "name": name,
            "type": "string",
            "format": "name" if name == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for name, priority, _ in cells
    ]
    rows = [
        {
            "cells": [read(obj, now) for _, _, read in cells],
            "object": obj if whole else partial | {"metadata": obj["metadata"]},
        }
        for obj in objects
    ]
    meta = {"resourceVersion": version}
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    }
