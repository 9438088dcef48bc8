"""What the supervisor holds of one engine: its check, its process, its memory; it turns actions into calls."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass

from slmpack.supervisor.attachment import judge_tree
from slmpack.supervisor.config import EngineConfig
from slmpack.supervisor.control import HelperError
from slmpack.supervisor.device import DeviceReading, engine_bytes
from slmpack.supervisor.engine_process import EngineProcess, engine_env
from slmpack.supervisor.log import say
from slmpack.supervisor.mps import MpsDaemon
from slmpack.supervisor.mps_view import MpsView
from slmpack.supervisor.preflight import Preflight
from slmpack.supervisor.processes import Family, Proc
from slmpack.supervisor.report import EngineMemory
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
        self._gone = True
        self._exit_code: int | None = None
        self._before: DeviceReading | None = None
        self._delta: int | None = None

    @property
    def busy(self) -> bool:
        """A check or a process that is not yet known to be attached."""
        return self._check is not None or (self._process is not None and self.server is None)

    def facts(self, *, table: Mapping[int, Proc], view: MpsView | None, withdrawn: bool) -> EngineFacts:
        """This turn's observation."""
        process = self._process
        if process is not None:
            self._exit_code = process.exit_code
            self._gone = not process.look(table) and self._exit_code is not None and process.silent()
        return EngineFacts(
            verdict=self._verdict(),
            exit_code=None if process is None else self._exit_code,
            gone=self._gone,
            last_line="" if process is None else process.last_line,
            healthy=process is not None and self._exit_code is None and process.healthy,
            attachment=self._attachment(view),
            withdrawn=withdrawn,
            clients_terminated=self._ending is not None and self._ending.done(),
        )

    async def do(self, do: Do, *, view: MpsView | None) -> None:
        """Carry one action out; none of them waits for anything slow."""
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
            case Do.SIGTERM | Do.KILL:
                self._signal(do)

    def memory(self, reading: DeviceReading | None) -> EngineMemory:
        """Of the running process."""
        if reading is None or self._process is None:
            return EngineMemory()
        used, basis = engine_bytes(reading, tree=self._process.tree, delta=self._delta)
        return EngineMemory(used_bytes=used, basis=basis)

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

    def _signal(self, do: Do) -> None:
        if self._process is None:
            return
        if do is Do.KILL:
            self._process.kill()
        else:
            self._process.terminate()

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _launch(self) -> None:
        self._process = EngineProcess(
            self._config,
            family=self._machine.family,
            intervals=self._settings.intervals,
            host=self._settings.place.bind or "127.0.0.1",
        )
        self._ending, self.server = None, None
        self._process.start(
            launcher=self._settings.launcher,
            command=self._settings.pack.command,
            cores=self.cores,
            env=engine_env(self._machine.daemon.env, self._config),
        )

    async def _terminate(self, view: MpsView | None) -> None:
        tree = set() if self._process is None else set(self._process.tree)
        try:
            await self._machine.daemon.terminate(tree, view=view)
        except HelperError as error:
            say(f"engine {self._config.index}: {error}")

    def _forget(self) -> None:
        process, self._process, self.server = self._process, None, None
        self._exit_code, self._gone = None, True
        if process is not None:
            self._later(process.close())

    def _verdict(self) -> Verdict | None:
        return self._check.result() if self._check is not None and self._check.done() else None

    def _attachment(self, view: MpsView | None) -> Attachment | None:
        process = self._process
        if process is None or view is None or process.healthy_at is None or view.asked_at < process.healthy_at:
            return None
        found = judge_tree(view, tree=process.tree)
        if found.attached and self.server is None:
            self.server = next(server.pid for server in view.servers if server.clients & process.tree)
        return found


async def _quiet(task: asyncio.Task[Verdict]) -> None:
    await asyncio.gather(task, return_exceptions=True)
