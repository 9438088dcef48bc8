"""Looking again and again at the MPS daemon and at the device."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from slmpack.supervisor.device import DeviceReading, parse_reading
from slmpack.supervisor.helper import HelperError, run_helper
from slmpack.supervisor.intervals import Intervals
from slmpack.supervisor.mps import MpsDaemon
from slmpack.supervisor.mps_view import MpsView
from slmpack.supervisor.processes import Family
from slmpack.supervisor.states import DomainFacts
from slmpack.supervisor.timeouts import pause

__all__ = ["DeviceWatch", "MpsWatch"]


class MpsWatch:
    """The last view of the daemon, and what it means."""

    def __init__(self, daemon: MpsDaemon, *, intervals: Intervals) -> None:
        self.view: MpsView | None = None
        self.hurry = False
        """Somebody waits for the next view."""
        self._daemon = daemon
        self._intervals = intervals
        self._message = ""
        self._began: float | None = None

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        while True:
            try:
                self.view = await self._daemon.look(now=loop.time())
                self._message = ""
            except HelperError as error:
                self._message = str(error)
            quick = self.hurry or self.view is None
            await asyncio.sleep(self._intervals.health if quick else self._intervals.mps)

    def facts(self, *, now: float, servers: AbstractSet[int]) -> DomainFacts:
        """Whether the domain is whole; `servers` are those that ready engines are clients of."""
        return DomainFacts(daemon_runs=self.view is not None, fault=self._fault(now=now, servers=servers))

    def report(self, *, now: float) -> dict[str, str]:
        """The control daemon in the report: running, starting or dead."""
        if self._daemon.exit_code is not None:
            return {"state": "dead", "message": self._fault(now=now, servers=frozenset())}
        return {"state": "starting" if self.view is None else "running", "message": self._message}

    def _fault(self, *, now: float, servers: AbstractSet[int]) -> str:
        code = self._daemon.exit_code
        if code is not None:
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            log = self._daemon.last_log_line()
            return f"the MPS control daemon ended with {how}" + (f"; its log: {log}" if log else "")
        if self.view is None:
            late = self._began is not None and now - self._began > self._intervals.daemon_limit
            waited = f"the MPS control daemon did not answer within {self._intervals.daemon_limit:g} s of its start"
            return f"{waited}: {self._message}" if late else ""
        if fault := self.view.fault():
            return fault
        if lost := sorted(servers - {server.pid for server in self.view.servers}):
            return f"MPS server {lost[0]} has ended while engines were its clients"
        return ""


class DeviceWatch:
    """The last reading of NVML; None while it does not answer."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], family: Family, intervals: Intervals) -> None:
        self.reading: DeviceReading | None = None
        self.again = asyncio.Event()
        """Something started or stopped."""
        self._command = command
        self._env = env
        self._family = family
        self._intervals = intervals
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """For ever."""
        while True:
            self.again.clear()
            await self.read()
            await pause(self._intervals.nvml, until=self.again)

    async def read(self) -> DeviceReading | None:
        """A new reading, taken after this was called; one at a time."""
        async with self._lock:
            asked_at = asyncio.get_running_loop().time()
            try:
                output = await run_helper(
                    self._command, env=self._env, family=self._family, limit=self._intervals.nvml_limit
                )
                self.reading = parse_reading(output.text, asked_at=asked_at)
            except (HelperError, ValueError):
                self.reading = None
            return self.reading
