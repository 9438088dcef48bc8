"""One engine's processes: its start, output, health and family tree."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence

from slmpack.supervisor.config import EngineConfig
from slmpack.supervisor.intervals import Intervals
from slmpack.supervisor.log import put
from slmpack.supervisor.processes import Family, Proc, descendants, kill_all
from slmpack.supervisor.timeouts import TooLateError, within

__all__ = ["EngineProcess", "engine_env"]

LONGEST_LINE = 16_384
OUTPUT_SECONDS = 2.0
UNHEALTHY_AFTER = 3
"""Looks in a row. A busy server may be late once."""


def engine_env(base: Mapping[str, str], engine: EngineConfig) -> dict[str, str]:
    """The variables of one engine: `base` has the pipe directory."""
    env = dict(base) | {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={engine.limit_mib}M"}
    if engine.sm_percent is not None:
        env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = f"{engine.sm_percent:g}"
    return env


class EngineProcess:
    """From its start until none of its processes is left."""

    def __init__(  # noqa: PLR0913 - what a process is started with
        self,
        command: Sequence[str],
        *,
        config: EngineConfig,
        host: str,
        env: Mapping[str, str],
        family: Family,
        intervals: Intervals,
    ) -> None:
        """OSError if it cannot be started."""
        self.healthy = False
        self.healthy_at: float | None = None
        """When it first answered, in the loop's seconds."""
        self.last_line = ""
        self.tree: set[int] = set()
        self._members: dict[int, int] = {}
        self._prefix = f"[engine {config.index}] ".encode()
        self._port = config.port
        self._host = host
        self._family = family
        self._intervals = intervals
        self._dead_at: float | None = None
        self._process = family.start(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._tasks = [asyncio.ensure_future(self._pump()), asyncio.ensure_future(self._watch())]

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def look(self, table: Mapping[int, Proc]) -> bool:
        """Bring the family tree up to date; whether anything of it lives."""
        root = self._process.pid
        # A grandchild whose parent died, in a session of its own, is known only because it was seen before.
        known = {pid for pid, began in self._members.items() if pid in table and table[pid].started == began}
        session = {proc.pid for proc in table.values() if proc.session == root}
        found = descendants(table, roots={root, *known, *session})
        alive = {pid for pid in found if not table[pid].zombie}
        self._members = {pid: table[pid].started for pid in alive}
        self.tree = alive
        return bool(alive)

    def silent(self) -> bool:
        """All output of its dead processes was read; after a moment also if a stranger holds the pipe open."""
        now = asyncio.get_running_loop().time()
        self._dead_at = now if self._dead_at is None else self._dead_at
        return self._tasks[0].done() or now - self._dead_at > OUTPUT_SECONDS

    def terminate(self) -> None:
        """SIGTERM for the main process alone: it tells its workers once their requests are answered."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """All its processes."""
        kill_all(self.tree)
        if self._process.poll() is None:
            kill_all([self._process.pid], group=True)

    async def close(self) -> None:
        """Nothing of it lives: hand over the last lines of its output."""
        pump, watch = self._tasks
        watch.cancel()
        await asyncio.wait([pump], timeout=1.0)
        pump.cancel()
        await asyncio.gather(pump, watch, return_exceptions=True)
        self._family.abandon(self._process)

    async def _watch(self) -> None:
        loop, missed = asyncio.get_running_loop(), 0
        while True:
            healthy = await _is_healthy(self._port, host=self._host, limit=self._intervals.health_limit)
            missed = 0 if healthy else missed + 1
            if healthy and self.healthy_at is None:
                self.healthy_at = loop.time()
            self.healthy = healthy or (self.healthy and missed < UNHEALTHY_AFTER)
            await asyncio.sleep(self._intervals.health)

    async def _pump(self) -> None:
        if self._process.stdout is None:
            return
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout)
        rest = b""
        try:
            while chunk := await reader.read(LONGEST_LINE):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._line(line)
        finally:
            if rest:
                self._line(rest)
            transport.close()

    def _line(self, line: bytes) -> None:
        put(self._prefix + line)
        if line.strip():
            self.last_line = line.decode(errors="replace").strip()


async def _is_healthy(port: int, *, host: str, limit: float) -> bool:
    """Whether GET /health is answered by 200 within `limit` seconds."""
    try:
        return await within(limit, _ask(host, port)) == 200
    except (OSError, TooLateError, ValueError, IndexError):
        return False


async def _ask(host: str, port: int) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
