"""What a test sees of a fake pack from outside: its processes and its engines' answers."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

__all__ = ["ask", "processes_of"]


def processes_of(folder: Path) -> dict[int, str]:
    """What runs of a pack, by its state folder in the environment: ids and command lines."""
    mark = f"FAKE_PACK_STATE={folder}".encode()
    found: dict[int, str] = {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdecimal() and mark in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
    return {pid: command for pid, command in found.items() if command}


def ask(url: str, *, method: str = "GET") -> int:
    """The status of one request to an engine or a supervisor. OSError if there is none."""
    data = b"{}" if method == "POST" else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
