"""The tables of good and bad SLMDeployments, and the example files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ROOT", "BadSpec", "bad_specs", "examples", "good_specs", "merge_patch"]

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadSpec:
    name: str
    obj: dict[str, Any]
    server: str | None
    """What the API server says; None where it accepts the object."""
    operator: str
    """What the operator says."""


def bad_specs() -> list[BadSpec]:
    table = yaml.safe_load((DATA / "bad_specs.yaml").read_text())
    return [
        BadSpec(
            name=row["name"],
            obj=merge_patch(table["base"], row["patch"]),
            server=row["server"] if row["by"] == "crd" else None,
            operator=row["operator"],
        )
        for row in table["rows"]
    ]


def good_specs() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = yaml.safe_load((DATA / "good_specs.yaml").read_text())
    return table


def examples() -> dict[str, dict[str, Any]]:
    return {
        path.name: yaml.safe_load(path.read_text())
        for folder in ("examples", "examples/sharing", "examples/scaling")
        for path in sorted((ROOT / folder).glob("*.yaml"))
    }


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
