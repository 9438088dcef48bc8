"""The client of supervisors against real HTTP servers that behave, misbehave or do not answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from slmpack.adapters import packs
from slmpack.adapters.packs import ASK_SECONDS, MISSES, PackClient
from slmpack.domain.pack import EngineState, PackReport
from slmpack.domain.snapshot import Key
from slmpack.ports import Conflict, Forbidden, Invalid, NotFound, PortError, Supervisor, Unavailable
from tests.support.fake_clock import FakeClock

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN = "s3cret" * 10


class Tokens:
    error: PortError | None = None

    async def token(self, *, owner_uid: str, pod: str) -> str:
        if self.error is not None:
            raise self.error
        return TOKEN

    async def token_hash(self, *, owner_uid: str, pod: str) -> str:
        return f"hash of {owner_uid}/{pod}"


def _engine(index: int, state: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "wanted": True, "state": state, "ready": state == "ready", "attached": True, **more}


def _body(running: list[int], **more: Any) -> dict[str, Any]:
    engines = [_engine(index, "ready" if index in running else "stopped") for index in range(3)]
    return {"version": 1, "podUid": "u", "running": running, "ending": False, "engines": engines, "gpu": None, **more}


class Fake:
    """A supervisor: obeys, unless a test puts another answer in."""

    def __init__(self) -> None:
        self.running = [0]
        self.seen: list[tuple[str, str, str, bytes]] = []
        self.answer: Answer | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, str(request.raw_path), request.headers.get("Authorization", ""), body))
        if self.answer is not None:
            return await self.answer(request)
        if request.method == "PUT":
            self.running = json.loads(body)["running"]
        return web.json_response(_body(self.running), status=202 if request.method == "PUT" else 200)

    def gives(self, status: int, body: bytes = b"", **headers: str) -> None:
        async def give(_: web.Request) -> web.Response:
            return web.Response(status=status, body=body, headers=headers)

        self.answer = give


class World:
    def __init__(self, fake: Fake, pod: Supervisor, proxy: str | None = None) -> None:
        self.fake, self.pod, self.clock, self.tokens = fake, pod, FakeClock(), Tokens()
        self.wakes = 0
        self.client = PackClient(self.tokens, wake=self._wake, clock=self.clock, proxy=proxy)

    def _wake(self) -> None:
        self.wakes += 1

    async def look(self, *pods: Supervisor) -> PackReport | None:
        """Ask whoever is due, wait for the answers, and say what is known then."""
        await self.client.refresh(pods or (self.pod,))
        await self.settle()
        return self.client.report("u")

    async def settle(self) -> None:
        while self.client._tasks:
            await asyncio.gather(*self.client._tasks, return_exceptions=True)

    async def later(self) -> PackReport | None:
        self.clock.advance(ASK_SECONDS)
        return await self.look()


def _pod(port: int) -> Supervisor:
    return Supervisor(
        key=Key("ns", "m-0"),
        uid="u",
        owner_uid="owner",
        address="127.0.0.1",
        port=port,
        account="m-pack",
        restarts=0,
        ready=False,
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    fake = Fake()
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found = World(fake, _pod(runner.addresses[0][1]))
    async with found.client:
        yield found
    await runner.cleanup()


async def test_a_new_one_is_waited_for_and_wakes_the_planner(world: World) -> None:
    world.fake.running = [2, 0]
    await world.client.refresh([world.pod])
    report = world.client.report("u")
    assert report is not None
    assert world.wakes == 1
    assert (report.running, report.ending, len(report.engines)) == ((0, 2), False, 3)
    assert [engine.state for engine in report.engines] == [EngineState.READY, EngineState.STOPPED, EngineState.READY]
    assert world.fake.seen == [("GET", "/v1/engines", f"Bearer {TOKEN}", b"")]


async def test_one_that_is_known_is_asked_in_the_background(world: World) -> None:
    await world.look()
    open_now = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await open_now.wait()
        return web.json_response(_body([1]))

    world.fake.answer = wait
    world.clock.advance(ASK_SECONDS)
    await world.client.refresh([world.pod])
    before = world.client.report("u")
    assert before is not None
    assert (before.running, world.wakes) == ((0,), 1)
    open_now.set()
    await world.settle()
    after = world.client.report("u")
    assert after is not None
    assert (after.running, world.wakes) == ((1,), 2)


async def test_one_that_hangs_is_waited_for_once_and_not_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    world.fake.answer = hang
    monkeypatch.setattr(packs, "CALL_SECONDS", 0.1)
    await asyncio.wait_for(world.client.refresh([world.pod]), 10)
    assert world.client.report("u") is None
    monkeypatch.setattr(packs, "CALL_SECONDS", 30.0)
    world.clock.advance(ASK_SECONDS)
    await asyncio.wait_for(world.client.refresh([world.pod]), 10)


async def test_it_is_asked_again_after_a_while_and_when_its_pod_has_changed(world: World) -> None:
    await world.look()
    await world.look()
    assert len(world.fake.seen) == 1
    world.clock.advance(ASK_SECONDS - 0.1)
    await world.look()
    assert len(world.fake.seen) == 1
    world.clock.advance(0.1)
    await world.look()
    assert (len(world.fake.seen), world.wakes) == (2, 1)
    changed = replace(world.pod, ready=True)
    await world.look(changed)
    await world.look(changed)
    assert len(world.fake.seen) == 3


async def test_a_call_under_way_is_not_doubled(world: World) -> None:
    await world.look()
    world.clock.advance(ASK_SECONDS)
    open_now = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await open_now.wait()
        return web.json_response(_body([1]))

    world.fake.answer = wait
    for _ in range(3):
        await world.client.refresh([world.pod])
        world.clock.advance(ASK_SECONDS)
    open_now.set()
    await world.settle()
    assert len(world.fake.seen) == 2


async def test_setting_is_a_put_whose_answer_is_the_news(world: World) -> None:
    await world.look()
    await world.client.set_engines("u", (0, 2))
    assert world.fake.seen[-1] == ("PUT", "/v1/engines", f"Bearer {TOKEN}", b'{"running": [0, 2]}')
    report = world.client.report("u")
    assert report is not None
    assert report.running == (0, 2)
    assert world.wakes == 2
    await world.settle()
    assert len(world.fake.seen) == 2


async def test_an_answer_from_before_a_put_is_no_news(world: World) -> None:
    await world.look()
    asked, open_now = asyncio.Event(), asyncio.Event()

    async def old(request: web.Request) -> web.Response:
        if request.method == "PUT":
            return web.json_response(_body([0, 1]))
        asked.set()
        await open_now.wait()
        return web.json_response(_body([0]))

    world.fake.answer = old
    world.clock.advance(ASK_SECONDS)
    await world.client.refresh([world.pod])
    await asked.wait()
    await world.client.set_engines("u", (0, 1))
    open_now.set()
    await world.settle()
    report = world.client.report("u")
    assert report is not None
    assert report.running == (0, 1)


async def test_a_pod_that_is_not_there_cannot_be_told(world: World) -> None:
    with pytest.raises(Unavailable, match="does not run"):
        await world.client.set_engines("u", (0,))
    await world.look()
    await world.client.refresh([])
    assert world.client.report("u") is None
    with pytest.raises(Unavailable, match="does not run"):
        await world.client.set_engines("u", (0,))


async def test_some_calls_without_an_answer_change_nothing_and_more_make_it_unknown(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.look()
    world.fake.gives(500, b"down")
    for _ in range(MISSES - 1):
        assert await world.later() is not None
    assert world.wakes == 1
    assert await world.later() is None
    assert world.wakes == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    world.fake.answer = None
    caplog.set_level(logging.INFO)
    assert await world.later() is not None
    assert world.wakes == 3
    assert "answers again" in caplog.records[-1].message
    world.fake.gives(500)
    assert await world.later() is not None, "an answer in between starts the count anew"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, Unavailable), (400, Invalid), (401, Forbidden), (409, Conflict), (413, Invalid), (500, Unavailable)],
)
async def test_a_refusal_is_one_error_of_the_tree(world: World, status: int, kind: type[PortError]) -> None:
    await world.look()
    world.fake.gives(status, b"\x1b[31mno\nway " + TOKEN.encode(), Location="/v1/engines")
    with pytest.raises(PortError) as caught:
        await world.client.set_engines("u", (0,))
    assert (type(caught.value), caught.value.status) == (kind, status)
    assert len(world.fake.seen) == 2, "a redirect is not followed, and nothing is sent twice"
    assert str(caught.value) == f"it answered {status}: '\\x1b[31mno way ***'"


async def test_a_slow_one_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "CALL_SECONDS", 0.1)
    await world.look()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    world.fake.answer = drip
    with pytest.raises(Unavailable, match="no answer within"):
        await asyncio.wait_for(world.client.set_engines("u", (0,)), 10)


async def test_nobody_there_is_unavailable(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        await world.client.refresh([_pod(taken.getsockname()[1])])
        with pytest.raises(Unavailable):
            await world.client.set_engines("u", (0,))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "JSON"),
        (b"<html>", "JSON"),
        (b"[]", "the body: Input should be an object"),
        (b"{}", "version"),
        (json.dumps(_body([0], version=2)).encode(), "version"),
        (json.dumps(_body([0], podUid="another")).encode(), "another pod's"),
        (json.dumps(_body([0], ending="no")).encode(), "ending"),
        (json.dumps(_body([0, 0])).encode(), "different indexes"),
        (json.dumps(_body([3])).encode(), "different indexes"),
        (json.dumps(_body([True])).encode(), "running.0"),
        (json.dumps(_body([0], engines=[_engine(0, "asleep")])).encode(), "engines.0.state"),
        (json.dumps(_body([], engines=[_engine(1, "ready")])).encode(), "numbered"),
        (json.dumps(_body([], engines=[_engine(0, "ready", deviceBytes=-1)])).encode(), "deviceBytes"),
        (json.dumps(_body([], engines=[_engine(0, "ready", deviceBytes=10**400)])).encode(), "deviceBytes"),
        (json.dumps(_body([], engines=[_engine(0, "backoff", restarts=10**400)])).encode(), "restarts"),
        (b"[" * 100_000, "JSON"),
    ],
)
async def test_what_is_no_report_is_unknown_at_once_and_one_line_in_the_log(
    world: World, body: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await world.look() is not None
    world.fake.gives(200, body)
    assert await world.later() is None
    assert await world.later() is None
    (record,) = caplog.records
    assert why in record.message


async def test_unknown_fields_are_no_fault_and_long_texts_are_cut(world: World) -> None:
    engine = _engine(0, "failed", reason="NotAttached", message="x" * 5000, restarts=2, deviceBytes=7, new={"a": 1})
    world.fake.gives(200, json.dumps(_body([0], engines=[engine], new=[])).encode())
    report = await world.look()
    assert report is not None
    (found,) = report.engines
    assert (found.state, found.reason, found.restarts, found.device_bytes) == (EngineState.FAILED, "NotAttached", 2, 7)
    assert len(found.message) == 1024


async def test_an_endless_body_is_cut_off(world: World) -> None:
    await world.look()
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10_000):
            await response.write(b" " * 65536)
            sent += 65536
        return response

    world.fake.answer = flood
    with pytest.raises(Unavailable, match="longer than"):
        await world.client.set_engines("u", (0,))
    assert sent < 64 * 2**20


async def test_a_packed_body_is_not_unpacked(world: World) -> None:
    world.fake.gives(200, json.dumps(_body([0])).encode(), **{"Content-Encoding": "gzip"})
    assert await world.look() is not None


async def test_the_token_is_in_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    world.fake.gives(401, TOKEN.encode())
    await world.look()
    world.fake.gives(200, json.dumps(_body([0], podUid=TOKEN)).encode())
    await world.later()
    assert len(caplog.records) >= 2
    assert TOKEN not in caplog.text


async def test_a_key_that_is_gone_is_said_and_nobody_is_called(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.tokens.error = NotFound("secrets not found")
    assert await world.look() is None
    assert world.fake.seen == []
    assert "the key it was made with is gone" in caplog.text


async def test_the_hash_of_a_token_is_the_keys(world: World) -> None:
    assert await world.client.token_hash(owner_uid="o", pod="m-0") == "hash of o/m-0"


async def test_only_the_proxy_that_was_named_is_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert await world.look() is not None
    through = World(world.fake, replace(_pod(8090), address="fd00::7"), f"http://127.0.0.1:{world.pod.port}")
    async with through.client:
        assert await through.look() is not None
    assert world.fake.seen[-1][1] == "http://[fd00::7]:8090/v1/engines"


async def test_many_are_asked_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    async def count(_: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return web.json_response(_body([0]))

    world.fake.answer = count
    await world.client.refresh([replace(world.pod, uid=f"u{number}") for number in range(50)])
    await world.settle()
    assert len(world.fake.seen) == 50
    assert 1 < most <= packs.AT_ONCE


async def test_closing_ends_calls_under_way(world: World) -> None:
    called = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        called.set()
        await asyncio.sleep(60)
        return web.Response()

    await world.look()
    world.fake.answer = hang
    world.clock.advance(ASK_SECONDS)
    await world.client.refresh([world.pod])
    await called.wait()
    await asyncio.wait_for(world.client.__aexit__(), 1)
