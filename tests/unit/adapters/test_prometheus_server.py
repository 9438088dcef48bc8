"""Servers that misbehave, threads that wait, and as whom Prometheus is asked."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

import slmpack
from slmpack.adapters.prometheus import LARGEST_BYTES, THREADS, PrometheusClient, PrometheusSettings
from slmpack.adapters.prometheus_loads import PrometheusLoads
from tests.support.fake_clock import FakeClock
from tests.support.measured_world import (
    CHAT,
    HEALTHY,
    NAMES,
    WATCHED,
    World,
    healthy_world,
    make_source,
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with healthy_world() as found:
        yield found


# ---- the server ----------------------------------------------------------------------------------------------------

Fault = Callable[[web.Request, str], Awaitable[web.StreamResponse | None]]


def _answers(status: int, text: str, **headers: str) -> Fault:
    async def answer(_: web.Request, __: str) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return answer


async def _cut(request: web.Request, _: str) -> None:
    assert request.transport is not None
    request.transport.abort()


async def _drip(request: web.Request, _: str) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _number in range(60):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


WHOLE_SERVER = {
    "500": (_answers(500, "oops"), "{url} answered 500: oops"),
    "503 of a proxy": (_answers(503, "<html>no backend</html>"), "{url} answered 503: <html>no backend</html>"),
    "401": (_answers(401, "who?"), "{url} answered 401 (does it need --prometheus-token-file?): who?"),
    "redirect": (_answers(302, "", Location="/login"), "{url} answered 302: "),
    "HTML": (_answers(200, "<html>Sign in</html>"), "{url} answered, but not as Prometheus does: no JSON"),
    "empty": (_answers(200, ""), "{url} answered, but not as Prometheus does: no JSON"),
    "not a vector": (_answers(200, '{"data": {"result": [{"metric": {}, "values": []}]}}'), "{url} answered, but not as Prometheus does: no vector"),
    "another JSON": (_answers(200, '{"hello": [1]}'), "{url} answered, but not as Prometheus does: no vector"),
    "a list": (_answers(200, "[]"), "{url} answered, but not as Prometheus does: no vector"),
    "no time": (_answers(200, '{"data": {"result": []}}'), "Prometheus does not tell its time"),
    "too long": (_answers(200, " " * (LARGEST_BYTES + 1)), f"its answer is longer than {LARGEST_BYTES} bytes"),
    "in drops": (_drip, "{url} did not answer within 2 s"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WHOLE_SERVER)
async def test_a_server_without_a_usable_answer_measures_nothing(world: World, fault: str) -> None:
    world.server.misbehave, trouble = WHOLE_SERVER[fault]
    reading = await world.source.read(WATCHED)
    assert (reading.loads, reading.gpus) == ({}, ())
    assert reading.trouble == trouble.format(url=world.server.url)


async def test_down_at_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        source = make_source(f"http://127.0.0.1:{taken.getsockname()[1]}", FakeClock())
        reading = await source.read(WATCHED)
    assert (reading.loads, reading.gpus) == ({}, ())
    assert reading.trouble.endswith("does not answer: [Errno 111] Connection refused")


async def test_slow_and_the_event_loop_goes_on(world: World) -> None:
    world.server.misbehave = world.server.hang
    round_ = asyncio.create_task(world.source.read(WATCHED))
    turns = 0
    while not round_.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert (await round_).trouble == f"{world.server.url} did not answer within 2 s"
    assert turns > 10


async def test_down_in_the_middle_of_a_round(world: World) -> None:
    """The clock was told, nothing else: there is no sample, and the one before stays until it is too old."""

    async def cut_later(request: web.Request, query: str) -> None:
        if "time()" not in query:
            await _cut(request, query)

    world.server.misbehave = cut_later
    reading = await world.source.read(WATCHED)
    assert reading.loads == {}
    assert "does not answer" in reading.trouble


async def test_a_dead_server_is_left_alone_for_a_while(world: World) -> None:
    world.server.misbehave = _answers(500, "oops")
    for _ in range(3):
        said = (await world.source.read(WATCHED)).trouble
    asked = len(world.server.seen)
    world.server.misbehave = None
    assert (await world.source.read(WATCHED)).trouble == said, "the same words: it is no news"
    assert len(world.server.seen) == asked
    world.clock.advance(15)
    assert (await world.source.read(WATCHED)).trouble == ""


async def test_the_pause_grows_to_a_minute(world: World) -> None:
    world.server.misbehave = _answers(500, "oops")
    for _ in range(3):
        await world.source.read(WATCHED)
    pauses = []
    for _ in range(4):
        pause, asked = 0, len(world.server.seen)
        while (await world.source.read(WATCHED)).trouble and len(world.server.seen) == asked:
            world.clock.advance(5)
            pause += 5
        pauses.append(pause)
    assert pauses == [15, 30, 60, 60]


async def test_without_a_thread_to_be_had_it_says_so_and_asks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More times than there are slots: none of them is lost."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(THREADS + 1):
            world.clock.advance(60)
            assert (await world.source.read(WATCHED)).trouble.endswith("cannot be asked: can't start new thread")
    world.clock.advance(60)
    assert (await world.source.read(WATCHED)).trouble == ""


# ---- as whom -------------------------------------------------------------------------------------------------------


async def test_the_token_is_sent_read_anew_and_never_shown(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    source = make_source(world.server.url, world.clock, token_file=token, headers=(("X-Scope-OrgID", "acme"),))
    await source.read(WATCHED)
    token.write_text("second")

    async def echo(request: web.Request, _: str) -> web.Response:
        return web.Response(status=500, text=f"{request.headers['Authorization']} {request.headers['X-Scope-OrgID']}")

    world.server.misbehave = echo
    reading = await source.read(WATCHED)
    assert world.server.seen[0][2]["Authorization"] == "Bearer first"
    assert world.server.seen[-1][2]["Authorization"] == "Bearer second"
    assert reading.trouble == f"{world.server.url} answered 500: Bearer *** ***"


async def test_basic_auth(world: World, tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.write_text("me:s3cret")
    await make_source(world.server.url, world.clock, basic_auth_file=file).read(WATCHED)
    assert world.server.seen[0][2]["Authorization"] == "Basic bWU6czNjcmV0"


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot be read"), ("", "holds no secret on one line"), ("a\nb", "holds no secret on one line")],
)
async def test_a_token_that_is_not_there(world: World, tmp_path: Path, content: str | None, what: str) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    reading = await make_source(world.server.url, world.clock, token_file=token).read(WATCHED)
    assert what in reading.trouble
    assert world.server.seen == []


async def test_a_basic_auth_file_without_a_password(world: World, tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.write_text("me")
    reading = await make_source(world.server.url, world.clock, basic_auth_file=file).read(WATCHED)
    assert reading.trouble == f"{file} does not hold user:password"


async def test_partial_answers_of_thanos_are_not_wanted(world: World) -> None:
    await world.sample()
    assert all(
        form["partial_response"] == "false" and form["deny_partial_response"] == "1" for _, form, _ in world.server.seen
    )


def _patient(world: World, *, seconds: float) -> PrometheusLoads:
    """One whose requests may take longer than a round."""
    client = PrometheusClient(PrometheusSettings(url=world.server.url, timeout_s=60), world.clock)
    return PrometheusLoads(
        client, names=NAMES, clock=world.clock, gateway="", max_age=timedelta(seconds=60), deadline=timedelta(seconds=seconds)
    )  # fmt: skip


async def test_a_round_ends_while_every_thread_still_waits(world: World) -> None:
    world.server.misbehave = world.server.hang
    source = _patient(world, seconds=0.4)
    for _ in range(6):  # more than there are threads
        assert (await source.read(WATCHED)).trouble == "Prometheus did not answer within 0.4 s"
    assert len(world.server.seen) <= THREADS


async def test_what_has_no_answer_when_a_round_ends_is_unknown(world: World) -> None:
    async def hang(_: web.Request, query: str) -> None:
        if "histogram_quantile" in query:
            await world.server.hang()

    world.server.misbehave = hang
    sample = (await _patient(world, seconds=2).read(replace(WATCHED, scaled=frozenset()))).loads[CHAT]
    assert sample == replace(
        HEALTHY,
        ttft_s=None,
        itl_p95_s=None,
        gateway_waiting=None,
        trouble=("ttft_s, itl_p95_s: no answer within 2 s",),
    )


SILENT = """
import asyncio, sys
from datetime import timedelta
from slmpack.adapters.clock import SystemClock
from slmpack.adapters.prometheus import PrometheusClient, PrometheusSettings

async def main():
    client = PrometheusClient(PrometheusSettings(url=sys.argv[1], timeout_s=3600), SystemClock())
    asked = asyncio.create_task(client.ask("up"))
    await asyncio.sleep(0.2)
    asked.cancel()
    print("ends", flush=True)

asyncio.run(main())
"""


def test_a_process_ends_though_a_server_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ = {"PYTHONPATH": str(Path(slmpack.__file__).parents[1])}
        ended = subprocess.run(
            [sys.executable, "-c", SILENT, url], env=environ, capture_output=True, text=True, check=False, timeout=60
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ends\n", "")
