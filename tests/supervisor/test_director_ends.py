"""The state machine: what is fatal, and how all engines end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.supervisor.states import Do, DomainFacts, Ending, EngineFacts, Phase
from tests.support.pack_director import ENDING, FINE, SERVES, TIMING, World, started


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
