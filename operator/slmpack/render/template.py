"""Reading `Demand.template`, the user's spec as validated JSON: what is absent reads as empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["items", "mapping"]


def mapping(template: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """A copy of the object at a path, or an empty one."""
    found: Mapping[str, Any] = template
    for key in path:
        found = found.get(key) or {}
    return dict(found)


def items(template: Mapping[str, Any], *path: str) -> list[Any]:
    """A copy of the list at a path, or an empty one."""
    return list(mapping(template, *path[:-1]).get(path[-1]) or ())
