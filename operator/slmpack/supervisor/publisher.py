"""Keeps the EndpointSlices as they should be: at each change, again after an error, and against drift."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from slmpack.supervisor.endpoints import Endpoint, EndpointError, SliceMissing
from slmpack.supervisor.intervals import Intervals
from slmpack.supervisor.log import say
from slmpack.supervisor.timeouts import pause

__all__ = ["Publisher"]


class Publisher:
    """All slices of the pod, by engine."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        write: Callable[[str, Endpoint], object],
        threads: Executor,
        intervals: Intervals,
    ) -> None:
        self._slices = [_Slice(name) for name in names]
        self._write = write
        self._threads = threads
        self._intervals = intervals
        self._right = asyncio.Event()

    @property
    def message(self) -> str:
        """The last error that still stands; empty if every slice is as it should be."""
        return next((one.message for one in self._slices if one.message), "")

    def want(self, index: int, endpoint: Endpoint) -> None:
        """State what the slice shall say."""
        one = self._slices[index]
        if one.wanted is not endpoint:
            one.wanted = endpoint
            one.changed.set()
            self._compare()

    def withdrawn(self, index: int) -> bool:
        """The API server was last told that this engine is not ready."""
        one = self._slices[index]
        return one.written is not None and one.written is one.wanted is not Endpoint.READY

    async def run(self) -> None:
        """For ever: one task a slice, so that one that is missing delays no other."""
        await asyncio.gather(*(self._keep(one) for one in self._slices))

    async def settled(self) -> None:
        """Until every slice says what it shall."""
        await self._right.wait()

    def _compare(self) -> None:
        if all(one.written is one.wanted for one in self._slices):
            self._right.set()
        else:
            self._right.clear()

    async def _keep(self, one: _Slice) -> None:
        loop, repeat = asyncio.get_running_loop(), self._intervals.endpoint_repeat
        while True:
            wanted = one.wanted
            one.changed.clear()
            try:
                await loop.run_in_executor(self._threads, self._write, one.name, wanted)
                one.written, seconds, repeat = wanted, self._intervals.endpoint_resync, self._intervals.endpoint_repeat
                one.hear("")
            except EndpointError as error:
                # What it says now is not known: the request may have arrived.
                nothing = isinstance(error, SliceMissing) and wanted is not Endpoint.READY
                one.written, seconds = wanted if nothing else None, repeat
                repeat = min(2 * repeat, self._intervals.endpoint_resync)
                one.hear(str(error))
            self._compare()
            await pause(seconds, until=one.changed)


class _Slice:
    """What it shall say, and what it is known to say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted = Endpoint.NONE
        self.written: Endpoint | None = None
        self.changed = asyncio.Event()
        self.message = ""

    def hear(self, message: str) -> None:
        if message and message != self.message:
            say(f"endpoints: {message}")
        self.message = message
