"""A container's life as a kubelet leads it: probes as the manifest writes them, preStop, SIGTERM, grace, SIGKILL."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.engine.client import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engine.replica import Runnable

__all__ = ["Container", "ProbeResult", "Start"]

WATCHDOG = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"
"""Waits for this process to end, however it ends, then kills the container's."""
TAIL_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One probe: the status, or 0 and what went wrong."""

    status: int
    error: str = ""
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """As the kubelet judges an HTTP probe."""
        return 200 <= self.status < 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a container became started."""

    seconds: float
    failures: tuple[ProbeResult, ...]
    """Startup probes before the one that succeeded."""


@dataclass(slots=True, kw_only=True)
class Container:
    """A running container."""

    runnable: Runnable
    log: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @classmethod
    @contextmanager
    def run(cls, runnable: Runnable, *, log: Path) -> Iterator[Container]:
        """Start it; at the end every process of it is killed, as a container's are."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                runnable.command,
                env=runnable.env,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard = [sys.executable, "-I", "-S", "-c", WATCHDOG, str(process.pid)]
        with subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True, stderr=subprocess.DEVNULL) as dog:
            try:
                yield cls(runnable=runnable, log=log, process=process)
            finally:
                _kill_group(process.pid)
                process.wait()
                dog.kill()

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def probe(self, name: str) -> ProbeResult:
        """Do one of the manifest's probes (startupProbe, readinessProbe, livenessProbe) once."""
        probe = self.runnable.container[name]
        assert probe["httpGet"]["port"] in {"http", "control"}, probe
        began = time.monotonic()
        try:
            answer = get(self.runnable.port, probe["httpGet"]["path"], timeout=probe["timeoutSeconds"])
        except (OSError, http.client.HTTPException) as error:
            return ProbeResult(status=0, error=type(error).__name__, seconds=time.monotonic() - began)
        return ProbeResult(status=answer.status, seconds=answer.seconds)

    def wait_until_started(self) -> Start:
        """Probe by the startup probe's period until one succeeds; AssertionError past its threshold or at an exit."""
        probe = self.runnable.container["startupProbe"]
        failures: list[ProbeResult] = []
        while not (result := self.probe("startupProbe")).succeeded:
            failures.append(result)
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.tail()}"
            assert len(failures) < probe["failureThreshold"], f"past its startup probe: {failures[-3:]}\n{self.tail()}"
            time.sleep(probe["periodSeconds"])
        return Start(seconds=time.monotonic() - self.began, failures=tuple(failures))

    def pre_stop(self) -> None:
        """Do the manifest's preStop hook."""
        time.sleep(self.runnable.container["lifecycle"]["preStop"]["sleep"]["seconds"])

    def terminate(self) -> None:
        """Send SIGTERM to the first process alone, as a container runtime does."""
        self.process.send_signal(signal.SIGTERM)

    def exit_within(self, seconds: float) -> int | None:
        """The exit code, or None where it still runs after so long."""
        try:
            return self.process.wait(timeout=max(seconds, 0.01))
        except subprocess.TimeoutExpired:
            return None

    def processes(self) -> dict[int, str]:
        """Process ids of the container with the names they show; those that ended and wait to be reaped left out."""
        found = {}
        ps = ["ps", "-eo", "pid=,sid=,stat=,args="]
        for line in subprocess.run(ps, capture_output=True, text=True, check=True).stdout.splitlines():
            pid, session, state, name = line.split(maxsplit=3)
            if int(session) == self.process.pid and not state.startswith("Z"):
                found[int(pid)] = name
        return found

    def resident_bytes(self) -> int:
        """Memory of all its processes, shared pages split among them (PSS), as a memory limit would count it."""
        return sum(_pss(pid) for pid in self.processes())


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it ended since it was listed
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
