"""A user's machine for one page: a copy of the checkout, a home folder, and the programs on PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.pages import ROOT
from tests.docs.switchboard import PORTS, SWITCHBOARD
from tests.support.components import LOOPBACK, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Sandbox", "programs"]

LOCAL = re.compile(r"(?:localhost|127\.0\.0\.1):(\d{2,5})\b")
FORWARDED = re.compile(r"\bport-forward\b[^\n]*?\s(\d{2,5})(?::\d{2,5})?(?=\s|$)")
RUNS = re.compile(r"(?P<program>\bslmpack|\bkubectl[ -]slm) run\b(?! --help| -h)")
RUN_PORT = 8080
"""`slmpack run` serves its health there."""
WRAPPER = """#!/bin/sh
for word in "$@"; do
  [ "$word" = port-forward ] && exec "{python}" -m tests.docs.switchboard "$@"
done
exec "{kubectl}" "$@"
"""


def programs(helm: Path) -> dict[str, Path]:
    """Those that are asked for their flags."""
    return {"kubectl": Path(sys.executable).parent / "kubectl", "helm": helm}


class Sandbox:
    """The folders and the environment of a page's shell. Ports that the page names become others that are free."""

    def __init__(self, folder: Path, *, texts: Iterable[str], helm: Path) -> None:
        self.checkout, self.home, self.scratch = folder / "slmpack", folder / "home", folder / "scratch"
        self._path = folder / "bin"
        for made in (self.home, self.scratch, self._path, folder / "tmp"):
            made.mkdir()
        self._tmp, self._helm = folder / "tmp", helm
        named = {int(port) for text in texts for port in (*LOCAL.findall(text), *FORWARDED.findall(text))}
        named.add(RUN_PORT)
        self.ports = dict(zip(sorted(named), free_ports(len(named)), strict=True))
        self._copy()
        self._write_programs()

    def _copy(self) -> None:
        """What git has or would have, and the environment that `make init` makes."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        for name in names:
            if (ROOT / name).is_file():
                target = self.checkout / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)

    def _write_programs(self) -> None:
        """The programs of .venv, and helm; kubectl is the real one but for `port-forward`."""
        real, bin_ = Path(sys.prefix), self.checkout / ".venv" / "bin"
        bin_.mkdir(parents=True)
        for entry in (*real.iterdir(), *(real / "bin").iterdir()):
            if entry.name not in {"bin", "kubectl"}:
                (bin_.parent / entry.relative_to(real)).symlink_to(entry)
        wrapper = bin_ / "kubectl"
        wrapper.write_text(WRAPPER.format(python=sys.executable, kubectl=real / "bin" / "kubectl"), encoding="utf-8")
        wrapper.chmod(0o755)
        (self._path / "helm").symlink_to(self._helm)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What the shell and its children see: nothing of this process's settings but PATH's end."""
        path = [self._path, self.checkout / ".venv" / "bin", "/usr/local/bin", "/usr/bin", "/bin"]
        return {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.home),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "NO_PROXY": f"{LOOPBACK},localhost",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
            "PYTHONDONTWRITEBYTECODE": "1",
            PORTS: json.dumps(self.ports),
            **more,
        }

    def here(self, text: str) -> str:
        """A command with the ports that are free here."""
        text = LOCAL.sub(lambda found: f"{LOOPBACK}:{self.ports[int(found[1])]}", text)
        return RUNS.sub(lambda found: f"{found[0]} --http {LOOPBACK}:{self.ports[RUN_PORT]}", text)

    def is_open(self, port: int, *, seconds: float = 40.0) -> bool:
        """Whether something comes to listen where the page says `port`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((LOOPBACK, self.ports[port])) == 0:
                    return True
            time.sleep(0.1)
        return False


def switchboard_variables(address: str, hub: str) -> dict[str, str]:
    """What the page's programs need to know of the stand-ins."""
    return {SWITCHBOARD: address, "HF_ENDPOINT": hub}
