"""The programs of the real control plane: found, or compiled once into a cache outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.go_programs import BinariesError, GoPrograms

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PROGRAMS", "BinariesError", "cache_folder", "ensure_binaries"]

MODULE = Path(__file__).resolve().parents[1] / "controlplane"
SOURCES = ("go.mod", "go.sum", "tools.go", "etcd/main.go")
KUBERNETES_VERSION = "v1.36.3"
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "./etcd",
}
_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
_STAMP = (
    f"-X {_VERSION}.gitVersion={KUBERNETES_VERSION} -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)
CONTROL_PLANE = GoPrograms(
    label="control plane",
    module=MODULE,
    sources=SOURCES,
    packages=PROGRAMS,
    flags=("-ldflags", f"-s -w {_STAMP}"),
    takes="5 minutes on two quiet cores",
    instead=f"Or point SLMPACK_CONTROL_PLANE at a folder that holds {', '.join(PROGRAMS)}.",
)


def cache_folder() -> Path:
    """The folder that holds, or will hold, what this version of the Go module compiles to."""
    return CONTROL_PLANE.cache_folder()


def find_binaries(*, say: Callable[[str], None] = print) -> Path | None:
    """The folder of programs that are already there, or None if they have to be built.

    Raises BinariesError if SLMPACK_CONTROL_PLANE names a folder that lacks one.
    """
    if named := os.environ.get("SLMPACK_CONTROL_PLANE"):
        if lacking := CONTROL_PLANE.lacking(Path(named)):
            raise BinariesError(
                f"SLMPACK_CONTROL_PLANE={named}: the folder lacks {', '.join(lacking)}; it must hold all of "
                f"{', '.join(PROGRAMS)}. Unset the variable to have them built."
            )
        return Path(named)
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        if not (lacking := CONTROL_PLANE.lacking(Path(assets))):
            return Path(assets)
        say(f"control plane: KUBEBUILDER_ASSETS={assets} is not used: it lacks {', '.join(lacking)}")
    return CONTROL_PLANE.cached()


def ensure_binaries(*, say: Callable[[str], None] = print) -> Path:
    """The folder of programs, built first where they are not there yet (minutes). Raises BinariesError."""
    return find_binaries(say=say) or CONTROL_PLANE.build(say=say)
