"""vLLM on the GPU: found on this machine, started one after another, ended in all cases."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu.guard import find_session
from tests.gpu.lab import CannotRunError, Lab

__all__ = ["NAME", "Client", "Engine", "Vllm", "find_vllm", "run_engines"]

Json = dict[str, Any]
NAME = "model"
HOST = "127.0.0.1"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
EXIT_S = 25
"""From SIGTERM to SIGKILL: nothing is in flight."""
VERSION_S = 120
LOG_LINES = 8


@dataclass(frozen=True, kw_only=True)
class Vllm:
    """An installed vLLM."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started_s: float

    def metrics(self) -> str:
        return _get(self.port, "/metrics")[1]

    def pids(self) -> set[int]:
        """Its processes."""
        return find_session(self.process.pid)


def find_vllm(program: str | None) -> Vllm:
    """The `vllm` program given, that of PATH, or the module of a Python of this machine. Raises CannotRunError."""
    pythons = dict.fromkeys(filter(None, (shutil.which("python3"), sys.executable)))
    candidates = (
        [(program,)] if program else [*_on_path(), *((python, "-m", "vllm.entrypoints.cli.main") for python in pythons)]
    )
    for command in candidates:
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [*command, "--version"],
                env={**os.environ, **OFFLINE},
                cwd="/",
                capture_output=True,
                timeout=VERSION_S,
                check=True,
                text=True,
            )
            return Vllm(command=tuple(command), version=done.stdout.split()[-1])
    raise CannotRunError(
        "vLLM is not installed: no `vllm` on PATH and no module of a python3 (--vllm names its program)"
    )


def _on_path() -> list[tuple[str]]:
    found = shutil.which("vllm")
    return [(found,)] if found else []


@contextmanager
def run_engines(
    lab: Lab,
    vllm: Vllm,
    *,
    count: int,
    args: Sequence[str],
    env: Mapping[str, str],
    deadline: float,
) -> Iterator[list[Engine]]:
    """Start them one after another, as under MPS slmpack does; RuntimeError where one does not become ready."""
    with ExitStack() as stack:
        yield [stack.enter_context(_run_engine(lab, vllm, args=args, env=env, deadline=deadline)) for _ in range(count)]


@contextmanager
def _run_engine(
    lab: Lab, vllm: Vllm, *, args: Sequence[str], env: Mapping[str, str], deadline: float
) -> Iterator[Engine]:
    port, folder = _free_port(), lab.new_folder("engine")
    log, began = folder / "log", time.monotonic()
    command = [*vllm.command, "serve", *args, f"--port={port}", f"--host={HOST}", f"--served-model-name={NAME}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=lab.env({**OFFLINE, **env}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    lab.note_session(process.pid)
    try:
        _wait_until_healthy(process, port=port, log=log, deadline=deadline)
        yield Engine(process=process, port=port, log=log, started_s=round(time.monotonic() - began, 1))
    finally:
        _stop(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], *, port: int, log: Path, deadline: float) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended with {process.returncode}: {_causes(log)}")
        with suppress(OSError, http.client.HTTPException):
            if _get(port, "/health")[0] == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM was not ready in time: {_causes(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM and a wait for the whole session: SIGKILL of an MPS client at work is undefined."""
    with suppress(ProcessLookupError):
        process.terminate()
    deadline = time.monotonic() + EXIT_S
    while find_session(process.pid) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.2)
    for pid in find_session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=10)


def _causes(log: Path) -> str:
    """The lines of a log that say why, its last where none does."""
    lines = log.read_text(errors="replace").splitlines()
    telling = [line for line in lines if "Error" in line and "See root cause" not in line]
    return " | ".join(line.strip()[:300] for line in (telling or lines)[-LOG_LINES:])


def _get(port: int, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Client:
    """A process of load.py."""

    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def run(cls, lab: Lab, order: Json) -> Iterator[Client]:
        command = [sys.executable, "-I", "-S", str(Path(__file__).parent / "load.py"), json.dumps(order)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=lab.env({}), stdin=pipe, stdout=pipe) as process:
            try:
                yield cls(process=process)
            finally:
                process.kill()

    def finish(self) -> tuple[list[list[float]], list[str]]:
        """Stop sending; completions as `latencies` reads them, and what went wrong."""
        out, _ = self.process.communicate(timeout=30)
        found = json.loads(out)
        return found["done"], found["failures"]
