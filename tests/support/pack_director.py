"""A director and what it sees: the supervisor's state machine, without processes or clocks."""

from __future__ import annotations

from collections.abc import Sequence

from slmpack.supervisor.config import Timing
from slmpack.supervisor.director import Director
from slmpack.supervisor.intervals import Intervals
from slmpack.supervisor.states import (
    Attachment,
    Do,
    DomainFacts,
    Ending,
    EngineFacts,
    Phase,
    Reason,
    Verdict,
)

__all__ = ["ALIVE", "ENDING", "FINE", "NO", "NOTHING", "SERVES", "TIMING", "YES", "World", "started"]

FINE = Verdict(reason=Reason.NONE, message="probe")
YES = Attachment(attached=True, message="seen")
NO = Attachment(attached=False, message="not seen")
TIMING = Timing(start=600, endpoint=10, drain=35, exit=15)
ALIVE = EngineFacts(gone=False)
SERVES = EngineFacts(gone=False, healthy=True, attachment=YES)
NOTHING = EngineFacts()
ENDING = Ending(code=0, reason="SIGTERM", fatal=False)


class World:
    """A director and what it sees, at a time that the test sets."""

    def __init__(self, count: int = 2, *, wanted: Sequence[int] | None = None) -> None:
        self.intervals = Intervals()
        every = frozenset(range(count)) if wanted is None else frozenset(wanted)
        self.director = Director(count=count, wanted=every, timing=TIMING, intervals=self.intervals)
        self.now = 1000.0
        self.facts = [NOTHING] * count
        self.domain = DomainFacts(daemon_runs=True)

    def step(self, seconds: float = 1.0) -> list[tuple[int, Do]]:
        self.now += seconds
        actions = self.director.step(self.now, facts=self.facts, domain=self.domain)
        return [(action.engine, action.do) for action in actions]

    def start(self, index: int) -> None:
        """From its check to ready."""
        while self.phase(index) is not Phase.CHECKING:
            self.step(0.2)
        self.facts[index] = EngineFacts(verdict=FINE)
        assert self.step() == [(index, Do.LAUNCH)]
        self.facts[index] = SERVES
        self.step()
        assert self.phase(index) is Phase.READY

    def exits(self, index: int, code: int, *, gone: bool = True) -> list[tuple[int, Do]]:
        self.facts[index] = EngineFacts(exit_code=code, gone=gone, last_line="bye")
        actions = self.step()
        if gone:
            self.facts[index] = NOTHING
        return actions

    def phase(self, index: int) -> Phase:
        return self.director.engines[index].phase


def started(count: int = 2) -> World:
    world = World(count)
    for index in range(count):
        world.start(index)
    return world
