"""The JSON output: its keys are those that docs/plan-json.md documents, in its order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.cli import a_cr, slmpack, some_nodes, write

DOCS = Path(__file__).parents[3] / "docs/plan-json.md"


def _paths(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            here = f"{path}.{key}" if path else key
            here += "[]" if isinstance(child, list) else ""
            yield here
            yield from _paths(child, here)
    elif isinstance(value, list):
        for child in value:
            yield from _paths(child, path)


def _plan(folder: Path, *crs: object) -> dict[str, Any]:
    result = slmpack("plan", "-f", write(folder, "all.yaml", *crs, some_nodes()), "-o", "json")
    assert result.exit_code == 2, result.output
    plan: dict[str, Any] = json.loads(result.stdout)
    return plan


def test_the_documentation_names_every_key_in_order(tmp_path: Path) -> None:
    plan = _plan(tmp_path, a_cr(scaling={"min": 9, "max": 9}, sharing={"mode": "MPS"}))
    documented = re.findall(r"^\| `([^`]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    seen = [path for path in dict.fromkeys(_paths(plan)) if path not in {"deployments[]", "gpus[]"}]
    assert seen == documented


def test_the_terms_add_up_to_the_need(tmp_path: Path) -> None:
    deployment = _plan(tmp_path, a_cr(replicas=9, sharing={"mode": "MPS"}))["deployments"][0]
    terms = {key: value for key, value in deployment["footprint"].items() if key.endswith("_bytes")}
    assert sum(terms.values()) == deployment["needed_bytes"]
    pays = deployment["decisions"][0]["replicas_per_gpu"]
    assert deployment["replicas"] == {"wanted": 9, "placed": pays, "unplaced": 9 - pays}
    assert [(reason["reason"], reason["count"]) for reason in deployment["reasons"]] == [("DoesNotPay", 9 - pays)]


def test_no_gpu_is_used_beyond_what_is_usable(tmp_path: Path) -> None:
    for gpu in _plan(tmp_path, a_cr(replicas=99))["gpus"]:
        assert gpu["used_bytes"] == sum(block["bytes"] for block in gpu["blocks"]) <= gpu["usable_bytes"]


def test_a_rejected_spec_is_there_with_its_reasons(tmp_path: Path) -> None:
    deployment = _plan(tmp_path, a_cr(replicas="three"))["deployments"][0]
    assert deployment["accepted"] is False
    assert deployment["footprint"] is None
    assert deployment["replicas"] == {"wanted": None, "placed": 0, "unplaced": 0}
    assert deployment["reasons"] == [
        {"reason": "InvalidSpec", "message": 'spec.replicas: must be a whole number, got "three"', "count": 0}
    ]


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    crs = [a_cr(name, replicas=3) for name in ("a", "b", "c")]
    assert _plan(tmp_path, *crs, a_cr("d", replicas=50)) == _plan(tmp_path, a_cr("d", replicas=50), *reversed(crs))
