"""A pack on the bench: the fakes on PATH, a state folder, and the supervisor as a process. For tests."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.pack_fakes.outside import ask, processes_of
from tests.support.pki import Authority

__all__ = ["PackBench", "free_ports", "install_fakes"]

HERE = Path(__file__).parent
TOKEN = "the pod's token"
PATIENCE_SECONDS = 60.0
"""For a state to come: a slow machine is no failure."""
INTERVALS: Mapping[str, float] = {
    "tick": 0.1, "health": 0.1, "mps": 0.5, "nvml": 1.0, "backoff": 0.3, "backoff_most": 2.0, "together": 3.0,
    "withdraw_limit": 1.0, "leftover": 0.5, "fatal": 2.0, "endpoint_repeat": 0.1, "endpoint_resync": 0.5,
    "unkillable": 10.0,
}  # fmt: skip


def install_fakes(folder: Path) -> dict[str, str]:
    """Write `folder`/bin; the variables that make a supervisor use the fakes, FAKE_PACK_STATE=`folder` among them."""
    binaries = folder / "bin"
    binaries.mkdir()
    (folder / "memory").mkdir()
    run = f"exec {sys.executable} -IS {HERE}"
    for name, text in (
        ("nvidia-cuda-mps-control", f'[ $# = 0 ] && {run}/fake_mps_ask.py\n{run}/fake_mps.py "$@"'),
        ("vllm", f'{run}/fake_engine.py "$@"'),
    ):
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
        (binaries / name).chmod(0o755)
    gpu = [sys.executable, "-IS", str(HERE / "fake_gpu.py")]
    return {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "FAKE_PACK_STATE": str(folder),
        "SLMPACK_PROBE": json.dumps([*gpu, "probe"]),
        "SLMPACK_NVML": json.dumps([*gpu, "nvml"]),
    }


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, below the ephemeral range so that no client takes one meanwhile."""
    found: list[int] = []
    first = 10_000 + os.getpid() * 37 % 20_000
    for port in range(first, first + 2_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class PackBench:
    """One pack: its state folder, its API server and its supervisor. `close` leaves nothing behind."""

    def __init__(
        self,
        *,
        program: Path,
        engines: int = 2,
        running: Sequence[int] | None = None,
        python: str = sys.executable,
    ) -> None:
        """`python` runs the supervisor; the fakes run in this one."""
        self.folder = Path(tempfile.mkdtemp(prefix="pack-"))  # a short path: the pipe's socket is below it
        self.program = program
        self.python = python
        self.output = self.folder / "output"
        (self.folder / "tmp").mkdir()
        (self.folder / "account").mkdir()
        self.env = install_fakes(self.folder)
        self.control_port, *self.ports = free_ports(engines + 1)
        wanted = range(engines) if running is None else running
        self.config = _config(self.ports, control_port=self.control_port, running=wanted)
        self.intervals = dict(INTERVALS)
        self._api: subprocess.Popen[str] | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._start_api()
        for index in range(engines):
            self.make_slice(index)

    # Before the start, and while it runs

    def engine_behaves(self, index: int, **settings: object) -> None:
        """What the next start of this engine reads; see fake_engine."""
        (self.folder / f"engine-{self.ports[index]}.json").write_text(json.dumps(settings))

    def touch(self, name: str, text: str = "") -> None:
        """A file in the state folder; see the fakes."""
        (self.folder / name).write_text(text)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def make_slice(self, index: int) -> None:
        """As the operator does after the pod exists."""
        folder = self.folder / "slices" / "models"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"pack-e{index}"
        (folder / f"{name}.json").write_text(json.dumps({"metadata": {"name": name}, "endpoints": []}))

    def endpoints(self, index: int) -> list[dict[str, Any]]:
        text = (self.folder / "slices" / "models" / f"pack-e{index}.json").read_text()
        found: list[dict[str, Any]] = json.loads(text)["endpoints"]
        return found

    # The supervisor

    def start(self, **more: str) -> PackBench:
        """Start the supervisor as the pod would; `more` are variables."""
        env = {
            "HOME": os.environ.get("HOME", "/"),
            "TMPDIR": str(self.folder / "tmp"),
            "POD_NAME": "pack",
            "POD_NAMESPACE": "models",
            "POD_UID": "0000-pod",
            "POD_IP": "10.1.2.3",
            "NODE_NAME": "node-1",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self._api_port),
            "SLMPACK_PACK": json.dumps(self.config),
            "SLMPACK_ACCOUNT": str(self.folder / "account"),
            "SLMPACK_BIND": "127.0.0.1",
            "SLMPACK_INTERVALS": json.dumps(self.intervals),
            **self.env,
            **more,
        }
        with self.output.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [self.python, "-I", str(self.program)],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        assert self._supervisor is not None, "not started"
        return self._supervisor

    def wait_exit(self) -> int:
        """The supervisor's exit code."""
        try:
            return self.supervisor.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the supervisor does not end:\n{self.text()}") from None

    def text(self) -> str:
        """All output so far."""
        return self.output.read_text(errors="replace")

    def last_line(self) -> str:
        return self.text().rstrip("\n").rsplit("\n", 1)[-1]

    # The control API

    def call(self, method: str, path: str, body: object = None, *, token: str | None = TOKEN) -> tuple[int, Any]:
        """Status and JSON of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=30)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def report(self) -> dict[str, Any]:
        status, report = self.call("GET", "/v1/engines")
        assert status == 200, report
        found: dict[str, Any] = report
        return found

    def engine(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.report()["engines"][index]
        return found

    def put(self, *running: int) -> int:
        return self.call("PUT", "/v1/engines", {"running": list(running)})[0]

    def until(self, condition: Callable[[], Any], *, what: str) -> Any:
        """Wait for a state; AssertionError with all output if it does not come."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if found := condition():
                    return found
            except (OSError, http.client.HTTPException):
                pass
            if self.supervisor.poll() is not None and time.monotonic() < end - 1:
                end = time.monotonic() + 1
            assert time.monotonic() < end, f"never: {what}\n{self.text()}"
            time.sleep(0.05)

    def until_ready(self, *indexes: int) -> None:
        """These engines are ready and published, and no other is wanted but not ready."""
        self.until(lambda: all(self.engine(index)["ready"] for index in indexes), what=f"{indexes} ready")

    # Engines and events

    def ask(self, index: int, path: str, *, method: str = "GET") -> int:
        """The status of one request to an engine."""
        return ask(f"http://127.0.0.1:{self.ports[index]}{path}", method=method)

    def crash(self, index: int, code: int) -> None:
        """It ends in the middle of the request."""
        try:
            self.ask(index, f"/crash?code={code}")
        except (OSError, http.client.HTTPException):
            return

    def events(self, who: str = "", what: str = "") -> list[dict[str, Any]]:
        """What happened, in order; an engine is `engine-PORT`."""
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [one for one in found if who in {"", one["who"]} and what in {"", one["what"]}]

    def of(self, index: int, what: str = "") -> list[dict[str, Any]]:
        return self.events(f"engine-{self.ports[index]}", what)

    def processes(self) -> dict[int, str]:
        """What still runs of this pack, the API server aside."""
        api = -1 if self._api is None else self._api.pid
        return {pid: command for pid, command in processes_of(self.folder).items() if pid != api}

    def until_nothing_left(self) -> None:
        self.wait_exit()
        end = time.monotonic() + PATIENCE_SECONDS
        while left := self.processes():
            assert time.monotonic() < end, f"left: {left}\n{self.text()}"
            time.sleep(0.05)

    def close(self) -> None:
        """Kill what is left."""
        if self._supervisor is not None:
            self._supervisor.kill()
            self._supervisor.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._api is not None:
            self._api.kill()
            self._api.wait()
            for stream in (self._api.stdin, self._api.stdout):
                if stream is not None:
                    stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_api(self) -> None:
        authority = Authority(self.folder / "account", name="ca")  # writes ca.crt, as the kubelet does
        pair = authority.issue_server("api")
        self.touch("account/token", "service account token\n")
        self.touch("api.token", "service account token\n")
        self._api = subprocess.Popen(
            [sys.executable, "-IS", str(HERE / "fake_api_server.py"), str(pair.certificate), str(pair.key)],
            env=os.environ | self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._api.stdout is not None
        self._api_port = int(self._api.stdout.readline())


def _config(ports: Sequence[int], *, control_port: int, running: Sequence[int]) -> dict[str, Any]:
    """SLMPACK_PACK."""
    return {
        "version": 1,
        "command": ["vllm", "serve"],
        "engines": [
            {
                "port": port,
                "limitMiB": 24_000 - 8_000 * index,
                "smPercent": None,
                "args": ["Qwen/Qwen2.5-1.5B-Instruct", f"--port={port}"],
                "slice": f"pack-e{index}",
            }
            for index, port in enumerate(ports)
        ],
        "running": list(running),
        "controlPort": control_port,
        "tokenSHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "startSeconds": 60,
        "endpointSeconds": 0.2,
        "drainSeconds": 10,
        "exitSeconds": 5,
    }
