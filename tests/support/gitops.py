"""What Argo CD and Flux make of an object, by their own libraries: compiled once into a cache outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.go_programs import GoPrograms, build_main

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["JUDGE", "Judged", "Said", "ensure_judge", "judge", "read_strictly"]

JUDGE = GoPrograms(
    label="GitOps judge",
    module=Path(__file__).resolve().parents[1] / "gitops",
    sources=("go.mod", "go.sum", "main.go", "lua.go", "strict.go"),
    packages={"gitops-judge": "."},
    flags=("-ldflags=-s -w",),
    takes="1 to 3 minutes on two quiet cores",
    instead="Or put Go 1.26 on PATH.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A status in a tool's words; `error` is why there is none."""

    status: str
    message: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What each tool says of one object."""

    argo: Said
    """Argo CD's health, by the given script."""
    sigs: Said
    """kstatus of sigs.k8s.io/cli-utils."""
    flux: Said
    """Flux' fork of kstatus, which Helm 4 waits by as well."""
    expressions: Said
    """Flux with the given healthCheckExprs; an error comes with the status Unknown."""


def ensure_judge(*, say: Callable[[str], None] = print) -> Path:
    """The program, built first where it is not there (minutes). Raises BinariesError."""
    return (JUDGE.cached() or JUDGE.build(say=say)) / "gitops-judge"


def judge(
    objects: Sequence[Mapping[str, Any]], *, health: str, expressions: Sequence[Mapping[str, str]]
) -> list[Judged]:
    """The verdicts on objects, in their order, by a health script of Argo CD and healthCheckExprs of Flux."""
    answer = _ask(health=health, expressions=list(expressions), objects=list(objects))
    return [
        Judged(
            argo=Said(**entry["argo"]),
            sigs=Said(**entry["sigs"]),
            flux=Said(**entry["flux"]),
            expressions=Said(**entry["fluxExpressions"]),
        )
        for entry in answer["verdicts"]
    ]


def read_strictly(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why each object is not what Flux' controllers read, empty where it is."""
    found: list[str] = _ask(strict=list(objects))["strict"]
    return found


def _ask(**question: Any) -> Any:
    program = ensure_judge()
    end = subprocess.run(
        [str(program)], input=json.dumps(question), capture_output=True, text=True, timeout=60, check=False
    )
    if end.returncode:
        raise RuntimeError(f"{program.name}: {end.stderr.strip()}")
    return json.loads(end.stdout)


if __name__ == "__main__":
    sys.exit(build_main("gitops", ensure_judge))
