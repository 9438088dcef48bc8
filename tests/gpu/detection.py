"""The supervisor's own answer to "is this process under its limit?": its probe as a process, and its rule."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slmpack.supervisor.attachment import judge_probe, parse_probe
from tests.gpu.lab import Daemon, Lab, python_for, run_as
from tests.gpu.limits import MIB

__all__ = ["Detect", "Found", "detect", "judge_answer"]

PROBE_S = 30.0
"""As long as opening a GPU may take; a process that queues for its turn takes for ever."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the supervisor would say."""

    attached: bool
    message: str


class Detect(Protocol):
    """`detect`."""

    def __call__(
        self, lab: Lab, daemon: Daemon, /, *, env: Mapping[str, str], limit_mib: int, uid: int | None
    ) -> Found: ...


def detect(lab: Lab, daemon: Daemon, *, env: Mapping[str, str], limit_mib: int, uid: int | None = None) -> Found:
    """Run the probe as installed in a pack, under `env`, and judge it; `daemon` is the pack's own."""
    command = [python_for(uid), "-I", str(_install(lab)), "probe", str(limit_mib * MIB)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=lab.env(env), cwd="/", stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, **run_as(uid)
    ) as process:
        assert process.stdout is not None
        try:
            if not select.select([process.stdout], [], [], PROBE_S)[0]:
                return Found(attached=False, message=f"the probe could not use the GPU within {PROBE_S:.0f} s")
            line = process.stdout.readline()
            listed = any(process.pid in pids for pids in daemon.clients().values())
            total, used = lab.nvml.memory()
            return judge_answer(line, limit_mib=limit_mib, listed=listed, device_free=total - used)
        finally:
            _end(process)


def judge_answer(line: bytes, *, limit_mib: int, listed: bool, device_free: int) -> Found:
    """The supervisor's rule over the probe's line."""
    try:
        seen = parse_probe(line)
    except ValueError as error:
        return Found(attached=False, message=str(error))
    judged = judge_probe(seen, limit_bytes=limit_mib * MIB, listed=listed, device_free=device_free)
    return Found(attached=judged.attached, message=judged.message)


def _install(lab: Lab) -> Path:
    """The supervisor's program, as the init container of a pack writes it; once a run."""
    folder = lab.folder / "supervisor"
    program = folder / "supervisor.pyz"
    if not program.exists():
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-S", "-m", "slmpack.supervisor.install", str(folder)]
        env = {"PYTHONPATH": str(ROOT / "operator")}
        subprocess.run(command, env=lab.env(env), cwd=ROOT, check=True, timeout=30, capture_output=True)
    return program


def _end(process: subprocess.Popen[bytes]) -> None:
    """It closes its context when its input ends."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
        return
    process.kill()
