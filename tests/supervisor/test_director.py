"""The state machine: starts, stops, failures of one engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.supervisor.states import Attachment, Do, DomainFacts, EngineFacts, Phase, Reason, Verdict
from tests.support.pack_director import ALIVE, FINE, NO, SERVES, TIMING, World, started


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
