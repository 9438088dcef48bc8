"""`slmpack demo` as a user runs it: a process of its own, whose output is read line by line."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["Demo", "a_demo", "check_session", "run_session"]

ROOT = Path(__file__).parents[2]
READY_SECONDS = 150


@dataclass(kw_only=True)
class Demo:
    process: subprocess.Popen[bytes]
    output: Iterator[str]
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, marker: str) -> None:
        guard = threading.Timer(READY_SECONDS, self.process.kill)
        guard.start()
        try:
            for line in self.output:
                self.lines.append(line)
                if marker in line:
                    return
        finally:
            guard.cancel()
        raise AssertionError(f"the demo ended before it said {marker!r}:\n{self.text}")

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.finish()

    def finish(self) -> int:
        """Read to the end; the exit code."""
        guard = threading.Timer(READY_SECONDS, self.process.kill)
        guard.start()
        try:
            self.lines += self.output
            return self.process.wait()
        finally:
            guard.cancel()

    def session(self) -> tuple[dict[str, str], list[list[str]]]:
        """The environment and the kubectl lines that the demo suggests."""
        exports = [line.split("export ", 1)[1] for line in self.lines if line.startswith("  export ")]
        commands = [shlex.split(line) for line in self.lines if line.startswith("  ") and "kubectl" in line.split()[0]]
        return dict(line.split("=", 1) for line in exports), commands


def _lines(stream: IO[str]) -> Iterator[str]:
    with suppress(OSError):  # a terminal whose other end is closed
        for line in stream:
            yield line.rstrip("\r\n")


@contextmanager
def a_demo(*args: str, folder: Path, terminal: bool = False) -> Iterator[Demo]:
    """The demo in a pipe, or in a terminal of its own."""
    environ = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT / "operator"), "COLUMNS": "100"}
    if "--kubeconfig" not in args:  # the demo's own cluster is reached behind a proxy, and without any network
        environ |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    ours, its = pty.openpty() if terminal else os.pipe()
    with os.fdopen(ours, encoding="utf-8") as stream:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "slmpack", "demo", *args],
                cwd=ROOT,
                env=environ,
                stdout=its,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(its)
        try:
            yield Demo(process=process, output=_lines(stream))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def run_session(demo: Demo, *, logs: bool = True) -> dict[str, str]:
    """Run the suggested lines as they stand; what each printed, by its verb and object. All of them must succeed.

    Without `logs` that line is left out: a real API server asks the kubelet for them, and the stand-in has no port.
    """
    environ, commands = demo.session()
    assert commands, demo.text
    printed = {}
    for command in commands:
        if "logs" in command and not logs:
            continue
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        words = [word for word in command[1:] if not word.startswith("-")]
        printed[" ".join(words)] = done.stdout
    return printed


def check_session(printed: dict[str, str], *, name: str) -> None:
    """What the lines print, whatever the cluster: the contract that D13 states."""
    by_verb = {line.split()[1 if line.startswith("slmpack-demo") else 0]: text for line, text in printed.items()}
    slm = next(text for line, text in printed.items() if line.endswith("get slm"))
    header, *rows = slm.splitlines()
    assert header.split() == ["NAME", "READY", "PER", "GPU", "SHARE", "GPU", "REASON", "AGE"]
    row = next(row for row in rows if row.split()[0] == name)
    assert row.split()[1] == "3/3"
    assert f"{name}-0" in next(text for line, text in printed.items() if "get pods" in line)
    assert "AllReady" in by_verb["describe"]
    assert "Created" in by_verb["describe"]
    assert all(text for line, text in printed.items() if "logs" in line)
    assert by_verb["scale"] == f"slmdeployment.slmpack.dev/{name} scaled\n"
    assert "gpuProducts" in by_verb["explain"]
    assert f'pod "{name}-0" deleted' in "".join(printed.values())
    assert f'slmdeployment.slmpack.dev "{name}" deleted' in "".join(printed.values())
