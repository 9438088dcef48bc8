"""The MPS control daemon of this pod."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from slmpack.supervisor.helper import HelperError, run_helper
from slmpack.supervisor.mps_view import MpsView, ServerView, parse_pids
from slmpack.supervisor.processes import Family, kill_all

__all__ = ["PROGRAM", "MpsDaemon"]

PROGRAM = "nvidia-cuda-mps-control"
"""The container toolkit mounts it with the driver."""


class MpsDaemon:
    """The daemon's process, and questions to it."""

    def __init__(self, *, folder: Path, env: Mapping[str, str], family: Family, limit: float) -> None:
        self.env = dict(env) | {
            "CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(folder / "log"),
        }
        self._log = folder / "log" / "control.log"
        self._family = family
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("pipe", "log"):
            (folder / name).mkdir(mode=0o700)

    def start(self, *, launcher: Sequence[str]) -> None:
        """Start it in the foreground, so that its end is seen. OSError if the launcher cannot be started."""
        command = [*launcher, str(os.getpid()), "", PROGRAM, "-f"]
        self._process = self._family.start(command, env=self.env, stdin=subprocess.DEVNULL, stdout=1, stderr=1)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def ended(self) -> bool:
        """It does not run: not any more, or it never did."""
        return self._process is None or self.exit_code is not None

    def last_log_line(self) -> str:
        """What it wrote last; empty if nothing."""
        try:
            lines = self._log.read_text(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    async def look(self, *, now: float) -> MpsView:
        """All servers and their clients. HelperError if the daemon does not answer."""
        servers: list[ServerView] = []
        for pid in parse_pids(await self.ask("get_server_list")):
            status = (await self.ask(f"get_server_status {pid}")).strip().rsplit(maxsplit=1)
            clients = parse_pids(await self.ask(f"get_client_list {pid}"))
            servers.append(ServerView(pid=pid, status=status[-1] if status else "", clients=frozenset(clients)))
        return MpsView(asked_at=now, servers=tuple(servers))

    async def terminate(self, pids: Iterable[int], *, view: MpsView | None) -> None:
        """End the work of these clients on the GPU, so that SIGKILL is safe. HelperError if the daemon hangs."""
        wanted = frozenset(pids)
        for server in () if view is None else view.servers:
            for pid in sorted(server.clients & wanted):
                await self.ask(f"terminate_client {server.pid} {pid}")

    async def quit(self) -> None:
        """End the daemon and its servers; by SIGKILL if it does not do so by itself."""
        if self._process is None:
            return
        if self._process.poll() is None:
            try:
                await self.ask("quit")
            except HelperError:
                kill_all([self._process.pid])

    async def ask(self, command: str) -> str:
        """One command of the control interface. HelperError if the daemon does not answer."""
        output = await run_helper([PROGRAM], env=self.env, family=self._family, limit=self._limit, text=f"{command}\n")
        if output.code != 0:
            said = (output.errors or output.text).strip().split("\n")[-1][:200]
            raise HelperError(f"{PROGRAM}: {command}: exit code {output.code}: {said}")
        return output.text
