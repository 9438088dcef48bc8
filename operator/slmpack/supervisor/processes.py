"""All processes below this one: starting, finding and reaping them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

__all__ = ["Family", "Proc", "descendants", "kill_all", "read_processes"]

START_FIELD, SESSION_FIELD = 19, 3
"""Counted from `state`, the first field behind the command's name: proc(5), fields 22 and 6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proc:
    """One line of the process table. `started` tells a process from a later one with the same id."""

    pid: int
    parent: int
    session: int
    started: int
    zombie: bool


def read_processes() -> dict[int, Proc]:
    """All processes in sight, by id."""
    found: dict[int, Proc] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only, often
        if name.isdecimal() and (proc := _read(int(name))) is not None:
            found[proc.pid] = proc
    return found


class Family:
    """The children that were started here, and the orphans below them that become ours."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._abandoned: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: IO[bytes] | int,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
    ) -> subprocess.Popen[bytes]:
        """A child in a session of its own. OSError if it cannot be started."""
        process = subprocess.Popen(  # noqa: S603 - the pack's own commands
            list(command), env=dict(env), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        self._children[process.pid] = process
        return process

    def abandon(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it if it still runs. It is reaped when it ends, which may be never if the driver holds it.

        Each process that was started is to be abandoned in the end, one that has ended as well.
        """
        if process.poll() is None:
            kill_all([process.pid], group=True)
            self._abandoned.append(process)
        else:
            self._children.pop(process.pid, None)

    def reap(self, table: Mapping[int, Proc]) -> None:
        """Collect the orphans that have ended, and the abandoned."""
        still = [process for process in self._abandoned if process.poll() is None]
        for process in self._abandoned:
            if process not in still:
                self._children.pop(process.pid, None)
        self._abandoned = still
        for proc in table.values():
            if proc.zombie and proc.parent == os.getpid() and proc.pid not in self._children:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(proc.pid, os.WNOHANG)


def descendants(table: Mapping[int, Proc], *, roots: Iterable[int]) -> set[int]:
    """Every process below `roots`, themselves included where they are in the table."""
    children: dict[int, list[int]] = {}
    for proc in table.values():
        children.setdefault(proc.parent, []).append(proc.pid)
    found: set[int] = set()
    todo = [pid for pid in roots if pid in table]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo.extend(children.get(pid, ()))
    return found


def kill_all(pids: Iterable[int], *, group: bool = False) -> None:
    """SIGKILL for each, or for its group; one that is gone is as well."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def _read(pid: int) -> Proc | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - often
            line = file.read()
    except OSError:
        return None
    fields = line[line.rindex(b")") + 2 :].split()
    return Proc(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[SESSION_FIELD]),
        started=int(fields[START_FIELD]),
        zombie=fields[0] in {b"Z", b"X"},
    )
