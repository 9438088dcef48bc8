"""Nothing outlives a run: every process that a check starts is marked, and whatever is left is ended.

Run as a program (`python guard.py`) it is the watchdog: it reads lines from standard input until the run ends, however that
ends, and then ends what it was told of: `mark <text>` (processes with SLMPACK_GPU_CHECK=<text> in their environment),
`session <id>` (processes of that session; an engine may overwrite its environment), `folder <path>` (removed).
Only processes of this run are ever touched, by their ids.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["MARK", "end_all", "find_marked", "find_session", "watch"]

MARK = "SLMPACK_GPU_CHECK"
PATIENCE_S = 3.0
"""Between SIGTERM and SIGKILL."""
PROC = Path("/proc")


def find_marked(mark: str, *, proc: Path = PROC) -> set[int]:
    """Processes whose environment has MARK=mark; those of other users cannot be read unless we are root."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in _pids(proc):
        with suppress(OSError):
            if wanted in (proc / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found - {os.getpid()}


def find_session(session: int, *, proc: Path = PROC) -> set[int]:
    """Processes of a session that still run."""
    found = set()
    for pid in _pids(proc):
        with suppress(OSError, ValueError, IndexError):
            # after the name, which may hold blanks and brackets: state, parent, group, session
            state, _, _, of = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in {"Z", "X"}:
                found.add(pid)
    return found - {os.getpid()}


def end_all(*, marks: Iterable[str], sessions: Iterable[int], patience_s: float = PATIENCE_S) -> set[int]:
    """SIGTERM, then SIGKILL, to what is left; the ids of the processes that had to be ended."""
    marks, sessions = tuple(marks), tuple(sessions)

    def left() -> set[int]:
        groups = [*map(find_marked, marks), *map(find_session, sessions)]
        return {pid for group in groups for pid in group if not _ended(pid)}

    ended = left()
    _signal(ended, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(left(), signal.SIGKILL)
    return ended


def watch(lines: Iterable[str]) -> None:
    """Collect what the run says, and end it all when it says no more."""
    told: dict[str, list[str]] = {"mark": [], "session": [], "folder": []}
    for line in lines:
        kind, _, value = line.strip().partition(" ")
        told[kind].append(value)
    end_all(marks=told["mark"], sessions=map(int, told["session"]))
    for folder in told["folder"]:
        shutil.rmtree(folder, ignore_errors=True)


def _pids(proc: Path) -> list[int]:
    return [int(path.name) for path in proc.iterdir() if path.name.isdigit()]


def _ended(pid: int) -> bool:
    """A process that waits to be reaped has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (OSError, IndexError):
        return True


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watch(sys.stdin)
