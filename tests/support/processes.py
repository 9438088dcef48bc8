"""Child processes that never outlive this one, and a folder that goes with them.

A watchdog process holds the read end of a pipe. When this process ends, however it ends, the pipe closes, and the
watchdog kills the children and removes the folder. (PR_SET_PDEATHSIG would fire when the starting *thread* ends.)
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ProcessFolder"]

WATCHDOG = """
import os, shutil, signal, sys
children = set()
for line in sys.stdin:
    sign, pid = line[0], int(line[1:])
    (children.add if sign == "+" else children.discard)(pid)
for pid in children:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
TAIL_LINES = 15


class ProcessFolder:
    """A temporary folder and the processes that write their logs into it."""

    def __init__(self, *, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # A session of its own: Ctrl-C reaches every process of the terminal's group, and this one must survive it.
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCHDOG, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pids(self) -> Mapping[str, int]:
        """The process ids by name, the watchdog's included."""
        return {name: process.pid for name, process in self._processes.items()} | {"watchdog": self._watchdog.pid}

    def start(self, name: str, *, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start `command` in the background; its output is appended to `name`.log."""
        with (self.path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tell(f"+{process.pid}")
        self._processes[name] = process

    def kill(self, name: str) -> None:
        """End one process at once and wait for it."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._tell(f"-{process.pid}")

    def ended(self) -> str | None:
        """What is to be said about the first process that has ended by itself; None while all run."""
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                return f"{name} ended with {code}:\n{self.tail(name)}"
        return None

    def tail(self, name: str) -> str:
        """The last lines of a process's log."""
        lines = (self.path / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(line[:400] for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        """Kill all, the youngest first, and remove the folder."""
        for name in reversed(tuple(self._processes)):
            self.kill(name)
        shutil.rmtree(self.path, ignore_errors=True)
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        self._watchdog.wait()

    def _tell(self, line: str) -> None:
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.write(f"{line}\n".encode())
            self._watchdog.stdin.flush()
