"""Raw nodes into the planner's views: only the fields that are read are validated, and nothing raises.

A node that cannot be read is no view: None, with a line in the log, and `unread_node` has why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from slmpack.adapters.partial import GPU_PREFIX, UNITS_MAX, Condition, Meta, Partial, amount
from slmpack.adapters.selector import EVERYTHING, Selector
from slmpack.domain.snapshot import NodeView, Taint

__all__ = ["node_view", "other_node_view", "unread_node"]

logger = logging.getLogger(__name__)


class _Taint(Partial):
    key: str
    value: str | None = None
    effect: str


class _NodeSpec(Partial):
    unschedulable: bool | None = None
    taints: list[_Taint] | None = None


class _NodeStatus(Partial):
    allocatable: dict[str, Any] | None = None
    conditions: list[Condition] | None = None


class _Node(Partial):
    metadata: Meta
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


def node_view(raw: Mapping[str, Any]) -> NodeView | None:
    """The view of a node that has, or had, an NVIDIA GPU by its labels or resources; None for all others."""
    try:
        node = _node_view(raw)
    except ValueError:
        logger.exception("unreadable node %s", (raw.get("metadata") or {}).get("name"))
        return None
    return node if _is_nvidias(node) else None


def other_node_view(raw: Mapping[str, Any]) -> NodeView | None:
    """The view of a node that `node_view` gives none of; None for one that nobody can read."""
    try:
        node = _node_view(raw)
    except ValueError:
        return None
    return None if _is_nvidias(node) else node


def _is_nvidias(node: NodeView) -> bool:
    return any(name.startswith(GPU_PREFIX) for name in (*node.labels, *node.allocatable))


def _node_view(raw: Mapping[str, Any]) -> NodeView:
    node = _Node.read(raw)
    allocatable = {
        name: amount(name, value)
        for name, value in ((node.status.allocatable or {}) if node.status else {}).items()
        if name in {"cpu", "memory", "pods"} or name.startswith(GPU_PREFIX)
    }
    for name, units in allocatable.items():
        if name.startswith(GPU_PREFIX) and units > UNITS_MAX:
            raise ValueError(f"status.allocatable has {units} {name}; a node has at most {UNITS_MAX}")
    spec = node.spec or _NodeSpec()
    conditions = (node.status.conditions or ()) if node.status else ()
    return NodeView(
        name=node.metadata.name,
        labels=node.metadata.labels or {},
        taints=tuple(Taint(key=taint.key, value=taint.value or "", effect=taint.effect) for taint in spec.taints or ()),
        unschedulable=bool(spec.unschedulable),
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in conditions),
        allocatable=allocatable,
    )


def unread_node(raw: Mapping[str, Any], *, of: Selector = EVERYTHING) -> str | None:
    """The name of a node of ours with NVIDIA GPUs that `node_view` cannot read, and why; None for all others."""
    meta, status = _mapping(raw.get("metadata")), _mapping(raw.get("status"))
    labels = _mapping(meta.get("labels"))
    if not any(str(name).startswith(GPU_PREFIX) for name in (*labels, *_mapping(status.get("allocatable")))):
        return None
    if not of.matches({str(name): str(value) for name, value in labels.items()}):
        return None
    try:
        _node_view(raw)
    except ValueError as error:
        return f"node {meta.get('name')}: {error}"
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
