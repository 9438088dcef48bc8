"""What the supervisor holds of one engine: its check, its process, its memory; it turns actions into calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass

from slmpack.supervisor.attachment import judge_tree
from slmpack.supervisor.config import EngineConfig
from slmpack.supervisor.device import DeviceReading, engine_bytes
from slmpack.supervisor.engine_process import EngineProcess, engine_env
from slmpack.supervisor.helper import HelperError
from slmpack.supervisor.log import say
from slmpack.supervisor.mps import MpsDaemon
from slmpack.supervisor.mps_view import MpsView
from slmpack.supervisor.preflight import Preflight
from slmpack.supervisor.processes import Family, Proc
from slmpack.supervisor.settings import Settings
from slmpack.supervisor.states import Attachment, Do, EngineFacts, Verdict
from slmpack.supervisor.watch import DeviceWatch

__all__ = ["Machine", "Slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What all engines share."""

    daemon: MpsDaemon
    device: DeviceWatch
    family: Family
    preflight: Preflight


class Slot:
    """One engine of the pack, running or not."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        settings: Settings,
        machine: Machine,
        cores: Sequence[int] | None,
    ) -> None:
        self.cores = cores
        self.server: int | None = None
        """The MPS server of the running process, once it was seen there."""
        self._config = config
        self._settings = settings
        self._machine = machine
        self._check: asyncio.Task[Verdict] | None = None
        self._process: EngineProcess | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._before: DeviceReading | None = None
        self._delta: int | None = None

    @property
    def busy(self) -> bool:
        """A check runs, or a process is not yet known to be attached."""
        checks = self._check is not None and not self._check.done()
        return checks or (self._process is not None and self.server is None)

    def facts(self, *, table: Mapping[int, Proc], view: MpsView | None, withdrawn: bool) -> EngineFacts:
        """This turn's observation."""
        process = self._process
        if process is None:
            return EngineFacts(verdict=self._verdict(), withdrawn=withdrawn)
        code = process.exit_code
        return EngineFacts(
            verdict=self._verdict(),
            exit_code=code,
            gone=not process.look(table) and code is not None and process.silent(),
            last_line=process.last_line,
            healthy=code is None and process.healthy,
            attachment=self._attachment(process, view),
            withdrawn=withdrawn,
            clients_terminated=self._ending is not None and self._ending.done(),
        )

    def do(self, do: Do, *, view: MpsView | None) -> None:
        """Begin one action; what takes time goes on by itself."""
        if do is not Do.KILL:
            say(f"engine {self._config.index}: {do.value}")
        match do:
            case Do.CHECK:
                self._before = self._delta = None
                self._check = asyncio.ensure_future(self._run_check())
            case Do.CANCEL_CHECK:
                self._cancel_check()
            case Do.LAUNCH:
                self._check = None
                self._launch()
            case Do.FORGET:
                self._forget()
            case Do.TERMINATE_CLIENTS:
                self._ending = asyncio.ensure_future(self._terminate(view))
            case Do.SIGTERM if self._process is not None:
                self._process.terminate()
            case Do.KILL if self._process is not None:
                self._process.kill()

    def memory(self, reading: DeviceReading | None) -> tuple[int | None, str]:
        """Device memory of its process and the basis; None where there is none or nobody knows."""
        if reading is None or self._process is None:
            return None, ""
        return engine_bytes(reading, tree=self._process.tree, delta=self._delta)

    def read(self, reading: DeviceReading) -> None:
        """The first reading after its start tells what the start added: nothing else started or stopped in between."""
        before, process = self._before, self._process
        if before is None or process is None or self._delta is not None or self.server is None:
            return
        if process.healthy_at is not None and reading.asked_at > process.healthy_at:
            self._delta = max(0, reading.used_bytes - before.used_bytes)

    async def close(self) -> None:
        """End what still runs."""
        if self._process is not None:
            self._process.kill()
        tasks = [task for task in (self._check, self._ending, *self._closing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_check(self) -> Verdict:
        self._before = await self._machine.device.read()
        env = engine_env(self._machine.daemon.env, self._config)
        return await self._machine.preflight.check(self._config, env=env, device=self._before)

    def _cancel_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._later(_quiet(self._check))
        self._check = None

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _launch(self) -> None:
        settings, pinned = self._settings, ",".join(map(str, self.cores or ()))
        self._ending, self.server = None, None
        self._process = EngineProcess(
            [*settings.launcher, str(os.getpid()), pinned, *settings.pack.command, *self._config.args],
            config=self._config,
            host=settings.place.bind or "127.0.0.1",
            env=engine_env(self._machine.daemon.env, self._config),
            family=self._machine.family,
            intervals=settings.intervals,
        )

    async def _terminate(self, view: MpsView | None) -> None:
        tree = set() if self._process is None else set(self._process.tree)
        try:
            await self._machine.daemon.terminate(tree, view=view)
        except HelperError as error:
            say(f"engine {self._config.index}: {error}")

    def _forget(self) -> None:
        process, self._process, self.server = self._process, None, None
        if process is not None:
            self._later(process.close())

    def _verdict(self) -> Verdict | None:
        return self._check.result() if self._check is not None and self._check.done() else None

    def _attachment(self, process: EngineProcess, view: MpsView | None) -> Attachment | None:
        if view is None or process.healthy_at is None or view.asked_at < process.healthy_at:
            return None
        found = judge_tree(view, tree=process.tree)
        if found.attached and self.server is None:
            self.server = view.server_of(process.tree)
        return found


async def _quiet(task: asyncio.Task[Verdict]) -> None:
    await asyncio.gather(task, return_exceptions=True)
