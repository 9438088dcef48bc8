"""Files for the command line's tests, and a way to call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from slmpack.cli import main
from slmpack.devcluster.nodes import a100_mig_node, mps_node, timesliced_node, whole_node

Json = dict[str, Any]


def a_cr(name: str = "qwen", **spec: Any) -> Json:
    body = {"model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"}} | spec
    return {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": {"name": name}, "spec": body}


def some_nodes() -> Json:
    items = [
        a100_mig_node("a100", profiles={"1g.10gb": 4, "3g.40gb": 1}),
        mps_node("h100", replicas=4),
        timesliced_node("sliced", replicas=4),
        whole_node("l4", gpus=2),
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def write(folder: Path, name: str, *objects: object) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return str(path)


def slmpack(*args: str, width: int = 100, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, args, env={"COLUMNS": str(width), "TERM": "dumb", "NO_COLOR": "1"}, input=stdin)
