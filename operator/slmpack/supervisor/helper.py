"""Short helper programs with a time limit; one that hangs is killed and left behind, and hangs nothing here."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmpack.supervisor.processes import Family

__all__ = ["HelperError", "Output", "run_helper"]

POLL_SECONDS = 0.02


class HelperError(Exception):
    """It could not be started or did not end in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What it said."""

    code: int
    text: str
    errors: str


async def run_helper(
    command: Sequence[str], *, env: Mapping[str, str], family: Family, limit: float, text: str = ""
) -> Output:
    """Run `command` with `text` as its input. HelperError after `limit` seconds."""
    name = command[0].rsplit("/", 1)[-1]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        given.write(text.encode())
        given.seek(0)
        try:
            process = family.start(command, env=env, stdin=given, stdout=said, stderr=errors)
        except OSError as error:
            raise HelperError(f"cannot start {name}: {error.strerror}") from None
        try:
            await _ended(process, name=name, limit=limit)
        finally:
            family.abandon(process)
        said.seek(0)
        errors.seek(0)
        return Output(
            code=process.returncode or 0,
            text=said.read(1 << 20).decode(errors="replace"),
            errors=errors.read(1 << 16).decode(errors="replace").strip(),
        )


async def _ended(process: subprocess.Popen[bytes], *, name: str, limit: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while process.poll() is None:
        if loop.time() > end:
            raise HelperError(f"{name} did not answer in {limit:g} s")
        await asyncio.sleep(POLL_SECONDS)
