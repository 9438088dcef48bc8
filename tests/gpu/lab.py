"""What the checks work with: CUDA processes and MPS daemons of their own, and nothing left of them afterwards.

No privileges, no change of compute mode, MIG or clocks: a daemon has a private pipe directory, and a process that is not given
it runs beside it.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gpu import guard
from tests.gpu.nvml import Nvml

__all__ = [
    "OTHER_UID",
    "CannotRunError",
    "CudaProcess",
    "Daemon",
    "Lab",
    "Refused",
    "Silent",
    "find_control",
    "other_users",
    "python_for",
    "run_as",
    "unlimited_outside",
]

Json = dict[str, Any]
HERE = Path(__file__).parent
CONTROL = "nvidia-cuda-mps-control"
MORE_FOLDERS = ("/usr/local/nvidia/bin", "/usr/bin", "/usr/sbin", "/opt/nvidia/bin")
"""Where a container's driver mount may be, though not on PATH."""
OTHER_UID = 65534
"""nobody."""
MPS_VARIABLES = "CUDA_MPS_"
ANSWER_S = 60.0
DAEMON_S = 20.0
DEFAULT_PIPE = Path("/tmp/nvidia-mps")


class CannotRunError(Exception):
    """This machine lacks what the check needs; the message says what."""


class Refused(Exception):
    """CUDA refused a call; the text is `call: error`."""


class Silent(Exception):
    """A process gave no answer in time: it waits inside CUDA."""


@dataclass(kw_only=True)
class CudaProcess:
    """A process of child.py."""

    process: subprocess.Popen[bytes]
    log: Path
    _rest: bytes = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, do: str, **arguments: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `receive` says how it ended
            self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self, *, timeout: float = ANSWER_S) -> Json:
        """The next answer. Raises Refused, Silent, or RuntimeError where the process ended."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise Silent(f"no answer within {timeout:.0f} s")
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                code = self.process.wait(timeout=DAEMON_S)
                raise RuntimeError(f"a CUDA process ended with {code}: {_tail(self.log)}")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: Json = json.loads(line)
        if not answer["ok"]:
            raise Refused(f"{answer['at']}: {answer['error']}")
        return answer

    def ask(self, do: str, *, timeout: float = ANSWER_S, **arguments: object) -> Json:
        """Send and receive."""
        self.send(do, **arguments)
        return self.receive(timeout=timeout)

    def close(self) -> None:
        """Let it end by itself, since SIGKILL of an MPS client at work is undefined; then end it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        _end(self.process)
        self.process.stdout.close()


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A running MPS control daemon."""

    control: str
    pipe: Path
    log: Path
    env: Mapping[str, str]
    """What a client needs to reach it."""
    asks_as: Mapping[str, Any]
    """User id of whoever talks to it, as keywords of subprocess."""

    def ask(self, command: str, *, timeout: float = DAEMON_S) -> str:
        """What it answers to a command. Raises RuntimeError where it does not."""
        done = subprocess.run(
            [self.control],
            input=f"{command}\n".encode(),
            env={**os.environ, **self.env},
            capture_output=True,
            timeout=timeout,
            check=False,
            **self.asks_as,
        )
        answer: str = done.stdout.decode(errors="replace").strip()
        if done.returncode:
            raise RuntimeError(f"{CONTROL}: `{command}` ended with {done.returncode}: {answer} {done.stderr!r}")
        return answer

    def clients(self) -> dict[int, list[int]]:
        """Process ids of the clients of each server, by the server's id."""
        servers = _numbers(self.ask("get_server_list"))
        return {server: _numbers(self.ask(f"get_client_list {server}")) for server in servers}


@dataclass(kw_only=True)
class Lab:
    """One run's processes. `with Lab.open(...) as lab`: nothing of them is left afterwards."""

    nvml: Nvml
    folder: Path
    device: str | None
    """The GPU's UUID where the machine has several: the checks use the first alone."""
    mark: str
    _guard: subprocess.Popen[bytes]
    _sessions: list[int] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, nvml: Nvml) -> Iterator[Lab]:
        # A short path: a Unix socket's name has at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="slmgpu-", dir="/tmp"))
        folder.chmod(0o755)
        mark = secrets.token_hex(8)
        command = [sys.executable, "-I", "-S", str(HERE / "guard.py")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as dog:
            lab = cls(
                nvml=nvml,
                folder=folder,
                device=nvml.uuid() if nvml.count > 1 else None,
                mark=mark,
                _guard=dog,
            )
            lab._tell(f"mark {mark}")
            lab._tell(f"folder {folder}")
            try:
                yield lab
            finally:
                lab.clean()
                assert dog.stdin is not None
                dog.stdin.close()
                dog.wait(timeout=30)

    def clean(self) -> set[int]:
        """End whatever a check left running; their ids."""
        ended = guard.end_all(marks=[self.mark], sessions=self._sessions)
        self._sessions.clear()
        return ended

    def env(self, more: Mapping[str, str]) -> dict[str, str]:
        """This process's environment without any MPS variable of its own, marked, with `more`."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(MPS_VARIABLES)}
        visible = {"CUDA_VISIBLE_DEVICES": self.device} if self.device else {}
        return {**own, **visible, guard.MARK: self.mark, **more}

    def note_session(self, session: int) -> None:
        """A session whose processes are ended with the run."""
        self._sessions.append(session)
        self._tell(f"session {session}")

    def daemon_logs(self) -> str:
        """The ends of the logs of the daemon that was started last, for whoever looks for a cause."""
        bases = sorted(self.folder.glob("mps-*/"), key=lambda base: base.stat().st_mtime_ns)
        paths = sorted(bases[-1].glob("log/*.log")) if bases else []
        return "\n".join(f"    {path.name}: {_tail(path, characters=1500)}" for path in paths)

    def new_folder(self, name: str) -> Path:
        """An empty folder, removed with the run."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    @contextmanager
    def process(self, env: Mapping[str, str], *, uid: int | None = None) -> Iterator[CudaProcess]:
        """A CUDA process with these variables and, as root, under another user id."""
        fd, name = tempfile.mkstemp(prefix="cuda-", dir=self.folder)
        source = (HERE / "child.py").read_text(encoding="utf-8")
        with os.fdopen(fd, "wb") as log:
            child = CudaProcess(
                process=subprocess.Popen(
                    [python_for(uid), "-I", "-S", "-c", source],
                    env=self.env(env),
                    cwd="/",
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    **run_as(uid),
                ),
                log=Path(name),
            )
        try:
            yield child
        finally:
            child.close()

    @contextmanager
    def daemon(self, *, uid: int | None = None, mode: int = 0o755) -> Iterator[Daemon]:
        """An MPS control daemon with a private pipe directory of that mode. Raises CannotRunError without MPS."""
        control = find_control()
        if control is None:
            raise CannotRunError(f"{CONTROL} is not on this machine")
        base = self.new_folder("mps")
        pipe, log = base / "pipe", base / "log"
        for folder in (pipe, log):
            folder.mkdir()
            if uid is not None:
                os.chown(folder, uid, uid)
        base.chmod(mode)
        if uid is not None:
            os.chown(base, uid, uid)
        env = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log)}
        found = Daemon(control=control, pipe=pipe, log=log, env=env, asks_as=run_as(uid))
        with (base.parent / f"{base.name}.out").open("wb") as out:
            process = subprocess.Popen(
                [control, "-f"],
                env=self.env(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **run_as(uid),
            )
        self.note_session(process.pid)
        try:
            _wait_for_daemon(found, process, output=base.parent / f"{base.name}.out")
            yield found
        finally:
            self._end_daemon(found, process)

    def _end_daemon(self, daemon: Daemon, process: subprocess.Popen[bytes]) -> None:
        with suppress(RuntimeError, OSError, subprocess.SubprocessError):
            daemon.ask("quit -t 5", timeout=15)
        _end(process)
        # Its servers have its session and its mark; no client runs any more.
        guard.end_all(marks=[], sessions=[process.pid])

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{line}\n".encode())
        self._guard.stdin.flush()


def run_as(uid: int | None) -> dict[str, Any]:
    """Keywords of subprocess for a process of that user id. Raises CannotRunError where we are not root."""
    if uid is None:
        return {}
    if os.geteuid() != 0:
        raise CannotRunError("starting a process under another user id needs root")
    return {"user": uid, "group": uid, "extra_groups": []}


def find_control() -> str | None:
    """The program of the MPS control daemon."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *MORE_FOLDERS))
    return shutil.which(CONTROL, path=path)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It was asked to end: wait, then insist."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return
        process.send_signal(number)
    process.wait(timeout=10)


def _wait_for_daemon(daemon: Daemon, process: subprocess.Popen[bytes], *, output: Path) -> None:
    deadline = time.monotonic() + DAEMON_S
    why = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{CONTROL} ended with {process.returncode}: {_tail(output)} {_logs(daemon)}")
        try:
            daemon.ask("get_server_list", timeout=5)
        except (RuntimeError, subprocess.SubprocessError) as error:
            why = str(error)
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"{CONTROL} does not answer within {DAEMON_S:.0f} s: {why} {_logs(daemon)}")


def _logs(daemon: Daemon) -> str:
    return " ".join(_tail(path) for path in sorted(daemon.log.glob("*.log")))


def _tail(path: Path, *, characters: int = 600) -> str:
    with suppress(OSError):
        return " ".join(path.read_text(errors="replace")[-characters:].split())
    return ""


def _numbers(text: str) -> list[int]:
    """The process ids in an answer; the daemon writes one a line and may add words."""
    return [int(word) for word in text.split() if word.isdigit()]


def python_for(uid: int | None) -> str:
    """A Python that another user may run: ours may lie in a folder closed to it."""
    system = None if uid is None else shutil.which("python3", path="/usr/bin:/usr/local/bin")
    return system or sys.executable


def unlimited_outside(pipe: Path = DEFAULT_PIPE) -> bool:
    """Whether a process without a pipe directory runs outside of MPS: no daemon has the default one."""
    return not (pipe / "control").exists()


def other_users(nvml: Nvml, *, most_bytes: int = 2 * 1024**3) -> str:
    """Who else seems to use the GPU, or empty."""
    _, used = nvml.memory()
    found: Sequence[str] = [f"{used / 1024**3:.1f} GiB were in use"] if used > most_bytes else []
    return "; ".join([*found, *(["a daemon has the default pipe directory"] if not unlimited_outside() else [])])
