"""The loop: observe, let the director decide, do it; once more."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slmpack.supervisor.api import ControlApi
from slmpack.supervisor.cores import split_cores
from slmpack.supervisor.director import FATAL_CODE, Director
from slmpack.supervisor.endpoints import Endpoint, SliceClient
from slmpack.supervisor.log import say
from slmpack.supervisor.mps import MpsDaemon
from slmpack.supervisor.preflight import Preflight
from slmpack.supervisor.processes import Family, descendants, kill_all, read_processes
from slmpack.supervisor.publisher import Publisher
from slmpack.supervisor.report import engine_report, gpu_report
from slmpack.supervisor.settings import Settings, inherited
from slmpack.supervisor.slot import Machine, Slot
from slmpack.supervisor.states import Ending, EngineState, Phase
from slmpack.supervisor.timeouts import TooLateError, within
from slmpack.supervisor.watch import DeviceWatch, MpsWatch

__all__ = ["Supervisor"]

LAST_SECONDS = 5.0
"""For the daemon to end, and for the last children to be killed."""
THREADS = 4


class Supervisor:
    """All of it; `run` is its life."""

    def __init__(self, settings: Settings, *, folder: Path) -> None:
        pack, intervals = settings.pack, settings.intervals
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._family = Family()
        env = inherited(os.environ)
        self._daemon = MpsDaemon(folder=folder, env=env, family=self._family, limit=intervals.control_limit)
        self._mps = MpsWatch(self._daemon, intervals=intervals)
        self._device = DeviceWatch(settings.nvml, env=env, family=self._family, intervals=intervals)
        cores = split_cores(allowed=os.sched_getaffinity(0), machine=os.cpu_count() or 1, engines=len(pack.engines))
        if cores is None:
            say("engines are not pinned to cores: the container has no cores of its own, or fewer than engines")
        machine = self._machine()
        self._slots = [
            Slot(config, settings=settings, machine=machine, cores=None if cores is None else cores[config.index])
            for config in pack.engines
        ]
        self._director = Director(count=len(pack.engines), wanted=pack.running, timing=pack.timing, intervals=intervals)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="endpoints")
        self._publisher = Publisher(
            [engine.slice for engine in pack.engines],
            write=SliceClient(settings.place).set,
            threads=self._threads,
            intervals=intervals,
        )
        self._phases = [Phase.STOPPED] * len(pack.engines)
        self._turned_at = self._now()

    async def run(self) -> Ending:
        """Until all has ended. An error of ours is an ending too, a fatal one."""
        api = ControlApi(self, pack=self._settings.pack, limit=self._settings.intervals.client_limit)
        tasks: list[asyncio.Task[None]] = []
        try:
            await api.start(host=self._settings.place.bind, port=self._settings.pack.control_port)
            self._daemon.start(launcher=self._settings.launcher)
            tasks = [
                asyncio.ensure_future(work) for work in (self._mps.run(), self._device.run(), self._publisher.run())
            ]
            ending = await self._turns(tasks)
            await self._withdraw_all()
        except Exception as error:  # noqa: BLE001 - whatever it is, no engine may go on without a supervisor
            say("".join(traceback.format_exception(error)).rstrip())
            ending = Ending(code=FATAL_CODE, reason=f"the supervisor cannot go on: {error!r}", fatal=True)
        finally:
            await self._close(api, tasks)
        return ending

    def end(self, reason: str) -> None:
        """Drain and end, exit code 0; asked for again, it changes nothing."""
        if self._director.end(Ending(code=0, reason=reason, fatal=False)):
            say(f"{reason}: draining all engines")
        else:
            say(f"{reason}: already ending")

    @property
    def turn_age(self) -> float:
        """Seconds since the last turn."""
        return self._now() - self._turned_at

    @property
    def ready(self) -> bool:
        """At least one engine serves and the pod is not ending."""
        return not self.ending and any(engine.ready for engine in self._director.engines)

    @property
    def ending(self) -> bool:
        """The pod ends."""
        return self._director.ending is not None

    def want(self, wanted: AbstractSet[int]) -> bool:
        """State the engines that shall run; False if it is so already."""
        return self._director.want(wanted)

    def report(self) -> dict[str, object]:
        """The state of everything."""
        now, reading = self._now(), self._device.reading
        return {
            "version": 1,
            "podUid": self._settings.place.pod_uid,
            "running": sorted(self._director.wanted),
            "ending": self.ending,
            "daemon": self._mps.report(now=now),
            "gpu": gpu_report(reading),
            "endpointsMessage": self._publisher.message,
            "engines": [
                engine_report(
                    self._settings.pack.engines[index],
                    state,
                    now=now,
                    wanted=index in self._director.wanted,
                    memory=slot.memory(reading),
                    cores=slot.cores,
                )
                for index, (slot, state) in enumerate(zip(self._slots, self._director.engines, strict=True))
            ],
        }

    def _machine(self) -> Machine:
        preflight = Preflight(
            self._settings.probe,
            daemon=self._daemon,
            family=self._family,
            limit=self._settings.intervals.probe_limit,
            host=self._settings.place.bind or "",
        )
        return Machine(daemon=self._daemon, device=self._device, family=self._family, preflight=preflight)

    async def _turns(self, tasks: list[asyncio.Task[None]]) -> Ending:
        while True:
            self._turn()
            for task in tasks:
                if task.done():
                    task.result()
            if self._director.over and self._director.ending is not None:
                return self._director.ending
            await asyncio.sleep(self._settings.intervals.tick)

    def _turn(self) -> None:
        now, table = self._now(), read_processes()
        self._family.reap(table)
        view = self._mps.view
        facts = [
            slot.facts(table=table, view=view, withdrawn=self._publisher.withdrawn(index))
            for index, slot in enumerate(self._slots)
        ]
        servers = frozenset(slot.server for slot in self._slots if slot.server is not None)
        domain = self._mps.facts(now=now, servers=servers)
        for action in self._director.step(now, facts=facts, domain=domain):
            self._slots[action.engine].do(action.do, view=view)
        for index, state in enumerate(self._director.engines):
            self._publisher.want(index, _endpoint(state))
            self._tell(index, state)
            if self._device.reading is not None:
                self._slots[index].read(self._device.reading)
        self._mps.hurry = any(slot.busy for slot in self._slots)
        self._turned_at = now

    def _tell(self, index: int, state: EngineState) -> None:
        if state.phase is not self._phases[index]:
            self._phases[index] = state.phase
            why = ": ".join(text for text in (state.reason.value, state.message) if text)
            say(f"engine {index} is {state.phase.state}{f' ({why})' if why else ''}")
            self._device.again.set()

    async def _withdraw_all(self) -> None:
        for index in range(len(self._slots)):
            self._publisher.want(index, Endpoint.NONE)
        try:
            await within(LAST_SECONDS, self._publisher.settled())
        except TooLateError:
            say("the endpoints could not be withdrawn in time")

    async def _close(self, api: ControlApi, tasks: list[asyncio.Task[None]]) -> None:
        for slot in self._slots:
            await slot.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await api.close()
        await self._daemon.quit()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._clean()

    async def _clean(self) -> None:
        """Give what is left a moment, then kill it; nothing outlives this process."""
        began = self._now()
        while (waited := self._now() - began) < 2 * LAST_SECONDS:
            table = read_processes()
            self._family.reap(table)
            left = descendants(table, roots=[os.getpid()]) - {os.getpid()}
            if not {pid for pid in left if not table[pid].zombie} and self._daemon.ended:
                return
            if waited > LAST_SECONDS:
                kill_all(left)
            await asyncio.sleep(0.05)

    def _now(self) -> float:
        return self._loop.time()


def _endpoint(state: EngineState) -> Endpoint:
    if state.ready:
        return Endpoint.READY
    if state.phase is Phase.WITHDRAWING and state.healthy:
        return Endpoint.WITHDRAWN
    if state.phase is Phase.DRAINING and state.served:
        return Endpoint.DRAINING
    return Endpoint.NONE
