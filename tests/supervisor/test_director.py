"""The state machine, without processes or clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

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


def test_one_start_at_a_time_and_none_before_the_daemon() -> None:
    world = World(3)
    world.domain = DomainFacts(daemon_runs=False)
    assert [world.step(), world.step()] == [[], []]
    world.domain = DomainFacts(daemon_runs=True)
    assert world.step() == [(0, Do.CHECK)]
    world.facts[0] = EngineFacts(verdict=FINE)
    assert world.step() == [(0, Do.LAUNCH)]
    world.facts[0] = ALIVE
    assert [world.step(100), world.step(100)] == [[], []]
    world.facts[0] = SERVES
    assert world.step() == [(1, Do.CHECK)]
    assert [engine.phase for engine in world.director.engines] == [Phase.READY, Phase.CHECKING, Phase.WAITING]
    attachment = world.director.engines[0].attachment
    assert attachment == Attachment(attached=True, message="probe; seen")


def test_a_stop_waits_for_a_start_and_goes_before_the_next_start() -> None:
    world = World(3)
    world.start(0)
    assert world.phase(1) is Phase.CHECKING
    world.director.want({1, 2})
    world.facts[1] = EngineFacts(verdict=FINE)
    world.step()
    world.facts[1] = ALIVE
    world.step()
    assert world.phase(0) is Phase.READY
    world.facts[1] = SERVES
    world.step()
    assert (world.phase(0), world.phase(2)) == (Phase.WITHDRAWING, Phase.WAITING)


def test_a_stop_withdraws_waits_then_signals_then_kills() -> None:
    world = started()
    world.director.want({1})
    world.step()
    assert world.phase(0) is Phase.WITHDRAWING
    world.facts[0] = replace(SERVES, withdrawn=True)
    assert [world.step(1), world.step(9.5)] == [[], []]
    assert world.step(0.5) == [(0, Do.SIGTERM)]
    assert world.step(49.9) == []
    assert world.step(0.1) == [(0, Do.TERMINATE_CLIENTS)]
    assert world.step() == []
    world.facts[0] = replace(SERVES, clients_terminated=True)
    assert world.step() == [(0, Do.KILL)]
    assert world.exits(0, -9) == [(0, Do.FORGET)] or world.step() == [(0, Do.FORGET)]
    assert world.phase(0) is Phase.STOPPED
    assert world.director.engines[0].reason is Reason.NONE
    assert world.phase(1) is Phase.READY


def test_a_withdrawal_that_cannot_be_written_holds_nothing_up() -> None:
    world = started(1)
    world.director.want(set())
    world.step()
    assert world.step(world.intervals.withdraw_limit - 0.1) == []
    assert world.step(0.1) == []
    assert world.step(TIMING.endpoint) == [(0, Do.SIGTERM)]


def test_wanted_again_before_sigterm_goes_on_serving() -> None:
    world = started(1)
    world.director.want(set())
    world.step()
    world.director.want({0})
    assert world.step() == []
    assert world.phase(0) is Phase.READY


def test_wanted_again_after_sigterm_starts_anew() -> None:
    world = started(1)
    world.director.want(set())
    world.step()
    world.step(20)
    assert world.step(20) == [(0, Do.SIGTERM)]
    world.director.want({0})
    world.step()
    world.exits(0, 0)
    world.step()
    assert world.phase(0) in {Phase.WAITING, Phase.CHECKING}
    assert world.director.engines[0].restarts == 0


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.LAUNCHED])
def test_unwanted_in_the_middle_of_a_start(phase: Phase) -> None:
    world = World(1)
    world.step()
    if phase is Phase.LAUNCHED:
        world.facts[0] = EngineFacts(verdict=FINE)
        world.step()
        world.facts[0] = ALIVE
    world.director.want(set())
    assert world.step() == [(0, Do.CANCEL_CHECK if phase is Phase.CHECKING else Do.SIGTERM)]
    if phase is Phase.LAUNCHED:
        # No request can be in flight: only the time to exit.
        assert world.step(TIMING.exit - 0.1) == []
        assert world.step(0.1) == [(0, Do.TERMINATE_CLIENTS)]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "ended with exit code 0; its last line: bye"),
        (3, "ended with exit code 3; its last line: bye"),
        (-11, "was ended by SIGSEGV; its last line: bye"),
        (-63, "was ended by signal 63; its last line: bye"),
    ],
)
def test_an_exit_that_nobody_asked_for_is_a_crash(code: int, said: str) -> None:
    world = started()
    world.exits(0, code)
    world.step()
    engine = world.director.engines[0]
    assert (engine.phase, engine.reason, engine.message) == (Phase.BACKOFF, Reason.CRASHED, said)
    assert world.phase(1) is Phase.READY
    world.step(8.9)
    assert world.phase(0) is Phase.BACKOFF
    world.step(0.2)
    world.step()
    assert (world.phase(0), engine.restarts) == (Phase.CHECKING, 1)


def test_the_back_off_doubles_up_to_its_most_and_is_forgotten_by_a_long_life() -> None:
    world = World(1)
    pauses = []
    for _ in range(7):
        world.start(0)
        world.exits(0, 1)
        world.step(0.0)
        pauses.append(world.director.engines[0].retry_at - world.now)
        assert world.phase(0) is Phase.BACKOFF
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    world.start(0)
    world.step(world.intervals.settled)
    world.exits(0, 1)
    world.step(0.0)
    assert world.director.engines[0].retry_at - world.now == 10
    assert world.director.engines[0].restarts == 7


def test_leftovers_of_a_crash_are_ended_before_anything_starts() -> None:
    world = started(1)
    world.exits(0, 1, gone=False)
    assert world.step(1) == []
    assert world.step(3) == [(0, Do.TERMINATE_CLIENTS)]
    assert world.step() == []
    world.facts[0] = replace(world.facts[0], clients_terminated=True)
    assert world.step() == [(0, Do.KILL)]
    world.facts[0] = replace(world.facts[0], gone=True)
    assert world.step() == [(0, Do.FORGET)]
    assert world.phase(0) is Phase.BACKOFF


def test_not_attached_is_ended_and_waits_the_longest() -> None:
    world = World(1)
    world.step()
    world.facts[0] = EngineFacts(verdict=FINE)
    world.step()
    world.facts[0] = EngineFacts(gone=False, healthy=True)
    assert world.step() == []
    world.facts[0] = EngineFacts(gone=False, healthy=True, attachment=NO)
    assert world.step() == [(0, Do.SIGTERM)]
    world.exits(0, 0)
    world.step()
    engine = world.director.engines[0]
    assert (engine.phase, engine.reason, engine.message) == (Phase.FAILED, Reason.NOT_ATTACHED, "not seen")
    world.step(298)
    assert world.phase(0) is Phase.FAILED
    world.step(3)
    assert world.phase(0) is Phase.CHECKING


def test_healthy_but_the_daemon_does_not_tell() -> None:
    world = World(1)
    world.step()
    world.facts[0] = EngineFacts(verdict=FINE)
    world.step()
    world.facts[0] = EngineFacts(gone=False, healthy=True)
    world.step()
    assert world.step(world.intervals.attach_limit) == []
    assert world.step(0.1) == [(0, Do.SIGTERM)]
    assert world.director.engines[0].reason is Reason.NOT_ATTACHED


@pytest.mark.parametrize(
    ("reason", "phase"),
    [(Reason.PORT_IN_USE, Phase.BACKOFF), (Reason.NOT_ATTACHED, Phase.FAILED), (Reason.START_FAILED, Phase.BACKOFF)],
)
def test_a_check_that_fails_starts_nothing(reason: Reason, phase: Phase) -> None:
    world = World(2)
    world.step()
    world.facts[0] = EngineFacts(verdict=Verdict(reason=reason, message="why"))
    assert world.step() == [(1, Do.CHECK)]
    engine = world.director.engines[0]
    assert (engine.phase, engine.reason, engine.message) == (phase, reason, "why")
    world.director.want({1})
    world.step()
    assert (engine.phase, engine.reason, engine.message) == (Phase.STOPPED, Reason.NONE, "")


def test_not_ready_in_time() -> None:
    world = World(1)
    world.step()
    world.facts[0] = EngineFacts(verdict=FINE)
    world.step()
    world.facts[0] = ALIVE
    assert world.step(TIMING.start) == []
    assert world.step(0.1) == [(0, Do.SIGTERM)]
    assert world.director.engines[0].message == "not ready 600 s after its start"


def test_sick_for_long_is_ended_and_restarted_with_its_requests_drained() -> None:
    world = started(1)
    world.facts[0] = ALIVE
    world.step()
    assert not world.director.engines[0].ready
    assert world.step(TIMING.start) == []
    world.step(0.1)
    assert world.phase(0) is Phase.WITHDRAWING
    world.facts[0] = replace(ALIVE, withdrawn=True)
    world.step()
    assert world.step(TIMING.endpoint) == [(0, Do.SIGTERM)]
    world.exits(0, 0)
    world.step()
    assert world.director.engines[0].reason is Reason.NOT_READY_IN_TIME


def test_sick_for_a_moment_is_not() -> None:
    world = started(1)
    world.facts[0] = ALIVE
    world.step()
    world.facts[0] = SERVES
    world.step()
    assert world.director.engines[0].ready
    world.step(TIMING.start + 1)
    assert world.phase(0) is Phase.READY


def test_two_deaths_together_are_fatal() -> None:
    world = started(3)
    world.exits(0, 1)
    assert world.director.ending is None
    actions = world.exits(1, 1)
    ending = world.director.ending
    assert ending is not None
    assert (ending.code, ending.fatal) == (70, True)
    assert "engines 0 and 1 died within 10 s" in ending.reason
    assert (2, Do.SIGTERM) in actions
    assert world.step(world.intervals.fatal) == [(2, Do.TERMINATE_CLIENTS)]
    world.exits(2, -9)
    world.step()
    assert world.director.over


def test_two_deaths_apart_are_two_crashes() -> None:
    world = started()
    world.exits(0, 1)
    world.step(10.5)
    world.exits(1, 1)
    assert world.director.ending is None


def test_failures_at_start_one_after_another_are_no_fault() -> None:
    world = World(2)
    for index in range(2):
        while world.phase(index) is not Phase.CHECKING:
            world.step(0.1)
        world.facts[index] = EngineFacts(verdict=FINE)
        world.step(0.1)
        world.exits(index, 1)
    assert world.director.ending is None


@pytest.mark.parametrize("served", [True, False])
def test_a_fault_of_the_domain_ends_all(served: bool) -> None:
    world = started(2) if served else World(2)
    world.domain = DomainFacts(daemon_runs=True, fault="FAULT")
    actions = world.step()
    assert actions == ([(0, Do.SIGTERM), (1, Do.SIGTERM)] if served else [])
    for index in range(2):
        if served:
            world.exits(index, 0)
    world.step()
    assert world.director.over
    assert world.director.ending == Ending(code=70, reason="FAULT", fatal=True)


def test_sigterm_ends_all_at_once_whatever_they_are_in() -> None:
    world = World(4)
    world.start(0)
    world.start(1)
    world.exits(1, 1)
    world.step(0.0)
    assert world.phase(2) is Phase.CHECKING
    assert world.director.end(ENDING)
    assert not world.director.end(ENDING)
    assert world.step() == [(2, Do.CANCEL_CHECK)]
    assert [world.phase(index) for index in range(1, 4)] == [Phase.STOPPED] * 3
    world.facts[0] = replace(SERVES, withdrawn=True)
    world.step()
    assert world.step(TIMING.endpoint) == [(0, Do.SIGTERM)]
    assert not world.director.over
    world.exits(0, 0)
    world.step()
    assert world.director.over
    assert world.director.ending == ENDING


def test_a_fault_while_draining_cuts_the_drain_and_changes_the_code() -> None:
    world = started(1)
    world.director.end(ENDING)
    world.step()
    world.step(20)
    assert world.step(20) == [(0, Do.SIGTERM)]
    world.step(world.intervals.fatal)
    world.domain = DomainFacts(daemon_runs=False, fault="dead")
    assert world.step() == [(0, Do.TERMINATE_CLIENTS)]
    assert world.director.ending == Ending(code=70, reason="dead", fatal=True)


def test_a_process_that_cannot_be_killed_does_not_hold_the_end_up() -> None:
    world = started(1)
    world.domain = DomainFacts(daemon_runs=False, fault="dead")
    world.step()
    world.domain = DomainFacts(daemon_runs=False)
    assert world.step(world.intervals.fatal) == [(0, Do.TERMINATE_CLIENTS)]
    world.facts[0] = replace(SERVES, clients_terminated=True)
    assert world.step() == [(0, Do.KILL)]
    world.step(world.intervals.unkillable)
    assert world.director.over


def test_want_says_whether_anything_changes() -> None:
    director = World(3, wanted=[0]).director
    assert [director.want({0}), director.want({1, 2}), director.want({2, 1})] == [False, True, False]
