"""kube-score, a lint of what runs in Kubernetes, compiled once into a cache outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.support.go_programs import GoPrograms, build_main

__all__ = ["KUBE_SCORE", "findings"]

KUBE_SCORE = GoPrograms(
    label="kube-score",
    module=Path(__file__).resolve().parents[1] / "kube-score",
    sources=("go.mod", "go.sum", "tools.go"),
    packages={"kube-score": "github.com/zegl/kube-score/cmd/kube-score"},
    flags=("-ldflags=-s -w",),
    takes="a minute or two on two quiet cores",
    instead="There is no other way to have this version.",
)
FLAGS = (
    "--output-format=json",
    "--all-default-optional",
    "--exit-one-on-warning",
    "--ignore-container-cpu-limit",
    "--kubernetes-version=v1.29",
)
GOOD = 10


def findings(objects: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """What it finds wrong or could be better: the object's kind and the check's id. RuntimeError where it cannot judge."""
    program = KUBE_SCORE.build(say=lambda _: None) / "kube-score"
    text = yaml.safe_dump_all(objects, sort_keys=False)
    done = subprocess.run(
        [str(program), "score", *FLAGS, "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    if not done.stdout.startswith("["):
        raise RuntimeError(f"kube-score ended with {done.returncode}: {done.stdout}{done.stderr}")
    return {
        (one["type_meta"]["kind"], check["check"]["id"])
        for one in json.loads(done.stdout)
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < GOOD
    }


if __name__ == "__main__":
    sys.exit(build_main("kube_score", KUBE_SCORE.build))
