"""Builds an image with buildah, without a daemon, and mounts it to look at and to run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BuildError", "Builder", "Image", "missing"]

ROOT = Path(__file__).parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SUITE = "bookworm"
"""Of the stand-in for the base image: the Debian that python:3.11-slim-bookworm is made of, with its own Python 3.11."""
USER = "65532:65532"
READ_ONLY = """
root=$1; shift
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" || exit 99
mount --rbind /dev "$root/dev" && mount --bind /proc "$root/proc" || exit 99
if [ -n "$SHARED" ]; then mount --bind "$SHARED" "$root/mnt" || exit 99; fi
exec chroot --userspec="$WHO" "$root" env -i "$@"
"""
"""A container's root as a cluster with readOnlyRootFilesystem has it; $SHARED is an emptyDir at /mnt."""


class BuildError(Exception):
    """An image cannot be built here."""


def missing() -> str:
    """Why nothing can be built here; empty where it can."""
    if shutil.which("buildah") is None:
        return "buildah is not installed"
    if os.geteuid() != 0:
        return "building and running without a daemon needs root"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One that is mounted."""

    root: Path
    config: dict[str, Any]
    """As the OCI image has it: User, Env, Entrypoint, Cmd, Labels."""

    def command(self, words: Sequence[str]) -> list[str]:
        """To run that in it, as its user and with its environment."""
        return ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(self.root), *self.config["Env"], *words]

    def environment(self, *, shared: Path | None = None) -> dict[str, str]:
        """Of that command: what the script above reads."""
        path = os.environ["PATH"]
        return {"PATH": path, "WHO": self.config.get("User") or USER, "SHARED": str(shared or "")}

    def run(self, *words: str, shared: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        env = self.environment(shared=shared)
        return subprocess.run(self.command(words), env=env, capture_output=True, text=True, check=False, timeout=120)


class Builder:
    """Buildah with a storage of its own in `folder`."""

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        folder.mkdir(parents=True, exist_ok=True)
        where = ["--root", str(folder / "layers"), "--runroot", str(folder / "run")]
        self._buildah = ["buildah", "--storage-driver", "vfs", *where]

    def base_image(self) -> str:
        """The one that the Dockerfile names, or a stand-in made by mmdebstrap where no registry is in reach."""
        text = (ROOT / "images/operator/Dockerfile").read_text(encoding="utf-8")
        found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", text, flags=re.MULTILINE)
        assert found is not None
        if self._call("pull", "--quiet", f"docker.io/library/{found[1]}", check=False) is not None:
            return f"docker.io/library/{found[1]}"
        if shutil.which("mmdebstrap") is None:
            raise BuildError(f"{found[1]} cannot be pulled, and mmdebstrap, which makes a stand-in, is not installed")
        name = f"localhost/stand-in:{SUITE}"
        if self._call("inspect", "--type", "image", name, check=False) is None:
            self._say(f"images: {found[1]} cannot be pulled; Debian's {SUITE} with its own Python stands in for it")
            self._make_stand_in(name)
        return name

    def _make_stand_in(self, name: str) -> None:
        archive = self._folder / "rootfs.tar"
        if not archive.exists():
            include = "--include=python3,python3-venv,ca-certificates"
            self._run(["mmdebstrap", "--quiet", "--variant=minbase", include, SUITE, str(archive)])
        container = self._call("from", "scratch")
        self._call("add", str(container), str(archive), "/")
        self._call("commit", "--quiet", str(container), name)
        self._call("rm", str(container))

    def build(self, name: str, folder: Path, **arguments: str) -> None:
        """Build `folder`'s Dockerfile from the repository's root. Raises BuildError with the last lines of output."""
        self._say(f"images: building {folder.name}; this takes minutes")
        given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        if CERTIFICATES.exists():  # also those that this machine's administrator added
            given += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        ignore = ["--ignorefile", str(folder / "Dockerfile.dockerignore")]
        where = ["--file", str(folder / "Dockerfile"), "--tag", f"localhost/{name}", str(ROOT)]
        self._call("bud", "--isolation", "chroot", *given, *ignore, *where)

    @contextmanager
    def mounted(self, name: str) -> Iterator[Image]:
        """The image's files and configuration."""
        container = str(self._call("from", f"localhost/{name}"))
        try:
            described = json.loads(str(self._call("inspect", "--type", "image", f"localhost/{name}")))
            yield Image(root=Path(str(self._call("mount", container))), config=described["OCIv1"]["config"])
        finally:
            self._call("rm", container)

    def _call(self, *words: str, check: bool = True) -> str | None:
        """What it printed; with check=False, None where it failed."""
        return self._run([*self._buildah, *words], check=check)

    @staticmethod
    def _run(command: Sequence[str], *, check: bool = True) -> str | None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        if not check:
            return None
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise BuildError(f"{command[0]} failed ({' '.join(command[1:])}):\n{last}")
