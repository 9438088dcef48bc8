"""The planner's loop: observe, plan, execute, report. A turn that fails never ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from slmpack.controller.advice import Advisor
from slmpack.controller.execute import Execution, Executor
from slmpack.controller.report import Reporter
from slmpack.domain.plan import Action, ClusterPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.snapshot import Policy, Snapshot
from slmpack.ports import Clock, Leadership, PortError, Telemetry, Unavailable, World

__all__ = ["Pace", "Parts", "PlannerLoop", "Wake"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the loop turns, in seconds."""

    tick: float = 15.0
    """At the latest."""
    idle: float = 0.1
    """After the last of a batch of events."""
    longest: float = 0.2
    """After the first of a batch of events."""
    longest_untold: float = 2.0
    """While events keep coming, pods come first and status this much later at most."""
    first_pause: float = 0.5
    """After a turn that failed; it doubles with each further one."""
    longest_pause: float = 15.0
    longest_refresh: float = 45.0
    """Reading the cluster may take this long: liveness must not depend on an API server that hangs."""


class Wake:
    """Something changed. Set from the loop's own thread; whoever waits gathers what comes close together."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._event = asyncio.Event()

    def set(self) -> None:
        """Ask for a turn."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether something has changed since the turn began."""
        return self._event.is_set()

    async def wait(self, seconds: float) -> None:
        """Return once a batch of events is over, or after this long without any."""
        if not await self._set_within(seconds):
            return
        end = asyncio.get_running_loop().time() + self._pace.longest
        while (left := end - asyncio.get_running_loop().time()) > 0:
            self._event.clear()
            if not await self._set_within(min(self._pace.idle, left)):
                break
        self._event.clear()

    async def _set_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout=max(seconds, 0.001))
        return self._event.is_set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop is put together from."""

    world: World
    executor: Executor
    reporter: Reporter
    leadership: Leadership
    policy: Policy
    clock: Clock
    telemetry: Telemetry
    jitter: Callable[[], float]
    """A number from 0 to 1."""
    see: Callable[[ClusterPlan, Snapshot], None] | None = None
    """Is shown every plan and what it was made of, before anything is done; it must take no time."""


class PlannerLoop:
    """Turns until told to stop."""

    def __init__(self, parts: Parts, *, wake: Wake, pace: Pace) -> None:
        self._parts = parts
        self._wake = wake
        self._pace = pace
        self._advisor = Advisor(parts.policy)
        self._stopping = False
        self._failures = 0
        self._last_turn = parts.clock.monotonic()
        self._untold: list[Action] = []
        """Done, but not told by an event yet."""
        self._put_off_at: float | None = None
        self._trouble = "no turn has ended yet"
        self._obstacle = ""

    @property
    def age_seconds(self) -> float:
        """Since the last turn ended, however it ended: only a loop that hangs grows old."""
        return self._parts.clock.monotonic() - self._last_turn

    @property
    def stands_by(self) -> bool:
        """Whether another operator leads."""
        return not self._obstacle and not self._parts.leadership.held

    @property
    def trouble(self) -> str:
        """Why the operator is not ready; empty if it is."""
        if self._obstacle:
            return self._obstacle
        if self.stands_by:
            return f"standby: {self._parts.leadership.holder}"
        return self._trouble

    def put_off(self, why: str) -> None:
        """Say that turns cannot begin yet; it counts as a turn, as a dead API server must not end the operator."""
        self._last_turn = self._parts.clock.monotonic()
        self._obstacle = f"not started yet: {why}"

    def stop(self) -> None:
        """End after the turn in progress."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Turn until stopped."""
        self._obstacle = ""
        while not self._stopping:
            pause = await self.turn()
            if not self._stopping:
                await self._wake.wait(pause)

    async def turn(self) -> float:
        """One turn; seconds until the next one is due at the latest. Raises nothing but cancellation."""
        started = self._parts.clock.monotonic()
        try:
            result, pause = await self._try_turn()
        except PortError as error:
            logger.warning("this turn failed: %s", error)
            result, pause = "failed", self._back_off(str(error))
        except Exception as error:  # a bug must not stop the planning for everybody
            logger.exception("this turn failed")
            result, pause = "failed", self._back_off(f"{type(error).__name__}: {error}")
        self._last_turn = self._parts.clock.monotonic()
        self._parts.telemetry.turn(result, seconds=self._last_turn - started)
        return pause

    async def _try_turn(self) -> tuple[str, float]:
        try:
            async with asyncio.timeout(self._pace.longest_refresh):
                await self._parts.world.refresh()
        except TimeoutError as error:
            raise Unavailable(f"the cluster was not read within {self._pace.longest_refresh} s") from error
        if not self._parts.leadership.held:
            return "standby", self._pace.tick
        snapshot = replace(self._parts.world.snapshot(), refused=self._parts.executor.refused)
        plan = plan_cluster(snapshot, self._parts.policy)
        if self._parts.see is not None:
            self._parts.see(plan, snapshot)
        execution = await self._parts.executor.execute(plan)
        self._untold.extend(execution.done)
        if self._may_defer(execution):
            return "ok", 0.0
        execution = replace(execution, done=tuple(self._untold))
        execution = await self._parts.executor.serve(plan, execution, bare=self._parts.world.bare_packs())
        self._untold.clear()
        self._put_off_at = None
        untold = await self._parts.reporter.report(self._advisor.told(plan, snapshot), execution)
        if broken := execution.broken or untold:
            raise broken
        self._failures = 0
        self._trouble = ""
        due = (self._pace.tick, plan.next_wake_seconds, self._parts.executor.next_retry)
        return "ok", min(seconds for seconds in due if seconds is not None)

    def _may_defer(self, execution: Execution) -> bool:
        """Whether Services, status and events can wait a turn: more news is in, and pods come first."""
        now = self._parts.clock.monotonic()
        if not self._wake.is_set or execution.broken is not None:
            return False
        self._put_off_at = now if self._put_off_at is None else self._put_off_at
        return now - self._put_off_at < self._pace.longest_untold

    def _back_off(self, why: str) -> float:
        self._failures += 1
        self._trouble = f"the last {self._failures} turns failed: {why}"
        pause: float = min(self._pace.first_pause * 2.0 ** min(self._failures - 1, 16), self._pace.longest_pause)
        return pause * (0.5 + self._parts.jitter() / 2)
