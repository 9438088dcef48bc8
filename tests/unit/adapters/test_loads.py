"""The poller: when it asks, what it holds, and that nothing of a source reaches the loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from slmpack.adapters.loads import LoadPoller, Reading, count_replicas
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import Key
from slmpack.ports import EnginePod, Watched
from tests.support.fake_clock import FakeClock

CHAT, CODE = Key("team", "chat"), Key("team", "code")
CLOCK = FakeClock()


def _pod(name: str, *, ready: int = 1, engines: int = 1, age: float = 3600) -> EnginePod:
    return EnginePod(
        key=Key("team", name), uid=name, deployment=CHAT, address="", ports=(8000,), engines=engines, ready=ready,
        ready_since=CLOCK.now() - timedelta(seconds=age),
    )  # fmt: skip


@dataclass
class Source:
    """Tells of every SLMDeployment that it is watched."""

    clock: FakeClock
    asked: list[Watched] = field(default_factory=list)
    trouble: str = ""
    broken: bool = False
    hangs: bool = False
    running: float = 0.0
    closed: bool = False

    async def read(self, watched: Watched) -> Reading:
        self.asked.append(watched)
        if self.hangs:
            await asyncio.sleep(3600)
        if self.broken:
            raise ZeroDivisionError("a bug")
        if self.trouble:
            return Reading(trouble=self.trouble)
        sample = LoadSample(at=self.clock.now(), reporting=1, running=self.running)
        return Reading(
            loads=dict.fromkeys(watched.deployments, sample),
            gpus=(GpuReading(node="a", uuid="GPU-a", at=self.clock.now()),),
        )

    async def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, *, period: float = 3600) -> None:
        self.clock, self.wakes = FakeClock(), 0
        self.source = Source(self.clock)
        self.poller = LoadPoller(
            self.source, wake=self._wake, clock=self.clock, period=timedelta(seconds=period), keep=timedelta(seconds=90)
        )  # fmt: skip

    def _wake(self) -> None:
        self.wakes += 1

    def watch(self, *pods: EnginePod, deployments: tuple[Key, ...] = (CHAT,)) -> None:
        self.poller.watch(Watched(deployments=frozenset(deployments), pods=pods))

    async def asked(self, times: int) -> None:
        async with asyncio.timeout(10):
            while len(self.source.asked) < times:  # noqa: ASYNC110 - the source under test tells nobody
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)


async def test_nothing_to_measure_nothing_asked() -> None:
    world = World(period=0.01)
    async with world.poller:
        await asyncio.sleep(0.1)
        assert (world.source.asked, world.poller.samples(), world.poller.blind()) == ([], {}, None)
    assert world.source.closed


async def test_a_new_deployment_and_a_new_replica_are_asked_about_at_once() -> None:
    world = World()
    async with world.poller:
        world.watch()
        await world.asked(1)
        assert world.poller.samples()[CHAT].running == 0.0
        world.watch(_pod("chat-0"))
        await world.asked(2)
        world.watch(_pod("chat-0"))
        world.watch(_pod("chat-0", ready=0))
        await asyncio.sleep(0.05)
        assert len(world.source.asked) == 2
        world.watch(_pod("chat-0"), deployments=(CHAT, CODE))
        await world.asked(3)
        assert world.wakes >= 1


async def test_it_asks_every_period_and_wakes_the_loop_for_what_is_new() -> None:
    world = World(period=0.01)
    async with world.poller:
        world.watch()
        await world.asked(3)
        wakes = world.wakes
        asked = len(world.source.asked)
        await world.asked(asked + 3)
        assert world.wakes == wakes, "the same as before is no news"
        world.clock.advance(0.9)
        await world.asked(len(world.source.asked) + 2)
        assert world.wakes == wakes, "no newer scrape"
        world.clock.advance(0.2)
        await world.asked(len(world.source.asked) + 2)
        wakes += 1
        assert world.wakes == wakes, "a newer scrape, though of the same"
        world.source.running = 7.0
        await world.asked(len(world.source.asked) + 2)
        assert world.wakes == wakes + 1
        assert world.poller.samples()[CHAT].running == 7.0


async def test_the_last_sample_counts_until_it_is_too_old() -> None:
    world = World(period=0.01)
    async with world.poller:
        world.watch()
        await world.asked(1)
        world.source.trouble = "it is down"
        await world.asked(len(world.source.asked) + 2)
        world.clock.advance(90)
        assert (list(world.poller.samples()), len(world.poller.gpus()), world.poller.blind()) == ([CHAT], 1, None)
        world.clock.advance(1)
        blind = world.poller.blind()
        assert (world.poller.samples(), world.poller.gpus()) == ({}, ())
        assert blind is not None
        assert (blind.reason, blind.message) == (Reason.METRICS_UNKNOWN, "it is down")


async def test_before_the_first_answer_it_is_blind() -> None:
    world = World()
    world.source.hangs = True
    async with world.poller:
        world.watch()
        await world.asked(1)
        blind = world.poller.blind()
        assert blind is not None
        assert blind.message == "nothing has been measured yet"


async def test_a_source_that_stays_silent_leaves_samples_to_grow_old() -> None:
    world = World(period=0.01)
    async with world.poller:
        world.watch()
        await world.asked(1)
        world.source.hangs = True
        await world.asked(len(world.source.asked) + 1)
        world.clock.advance(91)
        blind = world.poller.blind()
        assert blind is not None
        assert blind.message == "what was measured is too old by now"


async def test_a_bug_in_a_source_is_told_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    world = World(period=0.01)
    world.source.broken = True
    async with world.poller:
        world.watch()
        await world.asked(2)
        blind = world.poller.blind()
        assert blind is not None
        assert blind.message == "ZeroDivisionError: a bug"
        world.source.broken = False
        await world.asked(len(world.source.asked) + 2)
        assert world.poller.blind() is None
    assert "measuring failed" in caplog.text


async def test_one_line_in_the_log_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World(period=0.01)
    world.source.trouble = "it is down"
    async with world.poller:
        world.watch()
        await world.asked(4)
        world.source.trouble = ""
        await world.asked(len(world.source.asked) + 3)
    assert [it.message for it in caplog.records] == ["nothing is measured: it is down", "loads are measured"]


async def test_a_deployment_that_is_gone_is_forgotten() -> None:
    world = World()
    async with world.poller:
        world.watch(deployments=(CHAT, CODE))
        await world.asked(1)
        world.watch(deployments=(CODE,))
        assert list(world.poller.samples()) == [CODE]


async def test_an_engine_of_a_pack_is_new_when_it_becomes_ready() -> None:
    """Its pod has been Ready for long, and nobody else says since when the engine is."""
    world = World()
    async with world.poller:
        world.watch(_pod("chat-0", engines=3))
        world.clock.advance(100)
        world.watch(_pod("chat-0", engines=3, ready=2))
        await world.asked(1)
        (pod,) = world.source.asked[-1].pods
        assert pod.ready_since == world.clock.now()
        world.clock.advance(100)
        world.watch(_pod("chat-0", engines=3, ready=2), deployments=(CHAT, CODE))
        await world.asked(2)
        (later,) = world.source.asked[-1].pods
        assert later == pod


async def test_it_ends_though_something_new_came_at_the_same_moment() -> None:
    """wait_for of Python 3.11 would swallow the cancellation, and the operator not end."""
    world = World()
    async with asyncio.timeout(10), world.poller:
        await asyncio.sleep(0)
        world.watch()
    assert world.source.closed


def test_many_that_are_missing_are_not_all_named() -> None:
    pods = [_pod(f"chat-{number}") for number in range(6)]
    counted = count_replicas(pods, {Key("team", "chat-0"): 1}, now=CLOCK.now())
    assert counted.reporting == 1
    assert counted.trouble == "1 of 6 Ready replicas report: no fresh scrape of chat-1, chat-2, chat-3 and 2 more"


def test_one_of_a_packs_engines_is_missing() -> None:
    counted = count_replicas([_pod("chat-0", engines=3, ready=3)], {Key("team", "chat-0"): 2}, now=CLOCK.now())
    assert counted.trouble == "2 of 3 Ready replicas report: no fresh scrape of chat-0"


def test_one_that_is_not_ready_may_report() -> None:
    counted = count_replicas([_pod("chat-0", ready=0)], {Key("team", "chat-0"): 1}, now=CLOCK.now())
    assert (counted.reporting, counted.trouble) == (1, "")


def test_ready_since_nobody_knows_when_is_not_new() -> None:
    counted = count_replicas([replace(_pod("chat-0"), ready_since=None)], {}, now=CLOCK.now())
    assert counted.trouble != ""
