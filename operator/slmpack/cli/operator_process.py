"""The operator as a process of its own, as it runs in a cluster: the demo starts it and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunningOperator", "running_operator"]

STOP_SECONDS = 6.0
"""SIGTERM ends it within 5 s, or something is wrong."""
TAIL_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningOperator:
    """A started operator and its log."""

    process: Process
    log: Path

    def obituary(self) -> str | None:
        """Exit status and last lines of a dead operator; None while it lives."""
        if self.process.returncode is None:
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"the operator ended with exit status {self.process.returncode}:", *lines])


@asynccontextmanager
async def running_operator(kubeconfig: Path, flags: Sequence[str], *, folder: Path) -> AsyncIterator[RunningOperator]:
    """`slmpack run` with its log in `folder`; ended with SIGTERM, and with SIGKILL if that takes too long."""
    log = folder / "operator.log"
    environ = dict(os.environ)
    package = str(Path(__file__).parents[2])
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environ.get("PYTHONPATH"))))
    environ["PYTHONSAFEPATH"] = "1"
    command = [sys.executable, "-m", "slmpack", "run", "--kubeconfig", str(kubeconfig), "--http", "127.0.0.1:0", *flags]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            # a Ctrl-C in the terminal is the demo's, which ends the operator in its turn
            start_new_session=True,
        )
    try:
        yield RunningOperator(process=process, log=log)
    finally:
        await asyncio.shield(_stop(process))


async def _stop(process: Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), timeout=STOP_SECONDS)
