"""The real helm 4: from PATH where it is of that major version, or compiled once into a cache outside the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.go_programs import GoPrograms, build_main

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["HELM", "ensure_helm", "helm", "helm_binary"]

MAJOR = "4"
VERSION = "v4.3.1"
HELM = GoPrograms(
    label="Helm",
    module=Path(__file__).resolve().parents[1] / "helm",
    sources=("go.mod", "go.sum", "tools.go"),
    packages={"helm": "helm.sh/helm/v4/cmd/helm"},
    flags=(f"-ldflags=-s -w -X helm.sh/helm/v4/internal/version.version={VERSION}",),
    takes="2 to 4 minutes on two quiet cores",
    instead="Or put helm 4 on PATH.",
)
SECONDS = 120.0
"""The longest that one command of helm may take."""


def find_helm() -> Path | None:
    """The folder of helm if it is there already: from PATH where it is of the major version, or cached."""
    if (found := shutil.which("helm")) and _major(Path(found)) == MAJOR:
        return Path(found).parent
    return HELM.cached()


def ensure_helm(*, say: Callable[[str], None] = print) -> Path:
    """The folder of helm, built first where it is not there (minutes). Raises BinariesError."""
    return find_helm() or HELM.build(say=say)


def helm_binary() -> Path:
    """The program itself, built first where it is not there (minutes). Raises BinariesError."""
    return ensure_helm() / "helm"


def helm(
    *args: str, home: Path, kubeconfig: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run helm with its caches and settings under `home`; its exit status and output are the caller's to judge.

    Without a kubeconfig it reaches no cluster, whatever this machine is set up for.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "KUBECONFIG": str(kubeconfig or os.devnull),
        **{f"HELM_{kind}_HOME": str(home / f"helm-{kind.lower()}") for kind in ("CACHE", "CONFIG", "DATA")},
        **(env or {}),
    }
    command = [str(helm_binary()), *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


def _major(program: Path) -> str:
    try:
        answer = subprocess.run(
            [str(program), "version", "--template={{.Version}}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except OSError:
        return ""
    match = re.match(r"v(\d+)\.", answer.stdout)
    return match[1] if match else ""


if __name__ == "__main__":
    sys.exit(build_main("helm", ensure_helm))
