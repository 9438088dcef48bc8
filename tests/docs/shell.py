"""One bash for a page: what a command exports or where it changes to holds for the next, as in a user's terminal."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Done", "Shell", "a_shell"]

READ_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a command."""

    code: int
    output: str
    """Standard output."""
    told: str
    """Standard error."""


class Shell:
    """A running bash; make one with `a_shell`."""

    def __init__(self, folder: Path, *, env: Mapping[str, str], scratch: Path) -> None:
        self._scratch, self._number = scratch, 0
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, text: str, *, seconds: float, columns: int = 80) -> Done:
        """Run a command to its end, or for `seconds`: then AssertionError, with what it has printed."""
        self._number += 1
        script, out, err = (self._scratch / f"{self._number}.{kind}" for kind in ("sh", "out", "err"))
        script.write_text(f"{text}\n", encoding="utf-8")
        began = time.monotonic()
        # Output goes to files: what a command leaves in the background must not hold the reader.
        self._say(f"export COLUMNS={columns}; . '{script}' </dev/null >'{out}' 2>'{err}'; echo \"ended $?\"\n")
        answer = self._answer(began + seconds)
        output, told = (it.read_text(encoding="utf-8", errors="replace") if it.exists() else "" for it in (out, err))
        assert answer is not None, f"not done after {seconds:.0f} s: {text}\n{output}{told}"
        return Done(code=answer, output=output, told=told)

    def last_output(self) -> str:
        """What the last command, also in the background, has printed by now."""
        files = (self._scratch / f"{self._number}.{kind}" for kind in ("out", "err"))
        return "".join(it.read_text(encoding="utf-8", errors="replace") for it in files if it.exists())

    def close(self) -> None:
        """End the shell and all that it has left in the background."""
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def _answer(self, deadline: float) -> int | None:
        assert self._process.stdout is not None
        got = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if not selector.select(left):
                    break
                chunk = os.read(self._process.stdout.fileno(), READ_BYTES)
                got += chunk
                line = next((it for it in got.decode(errors="replace").splitlines() if it.startswith("ended ")), None)
                if line is not None and got.endswith(b"\n"):
                    return int(line.split()[1])
                assert chunk, f"the shell ended: {got.decode(errors='replace')}"
        return None


@contextmanager
def a_shell(folder: Path, *, env: Mapping[str, str], scratch: Path) -> Iterator[Shell]:
    """A bash in `folder`; it and its background jobs are gone afterwards. `scratch` is for its files."""
    shell = Shell(folder, env=env, scratch=scratch)
    try:
        yield shell
    finally:
        shell.close()
