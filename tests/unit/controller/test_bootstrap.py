"""How the operator starts: against an API server that is down, that hangs, and that does not know us."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from slmpack import bootstrap
from slmpack.adapters import health
from slmpack.adapters.policy import load_policy
from slmpack.api.crd import build_crd
from slmpack.bootstrap import serve
from slmpack.cli import main
from slmpack.config import OperatorConfig
from slmpack.devcluster.cluster import EmbeddedCluster
from slmpack.ports import Forbidden

DEAD = "http://127.0.0.1:1"


@pytest.fixture
async def hanging() -> AsyncIterator[str]:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async for url in _served(hang):
        yield url


@pytest.fixture
async def unknowing() -> AsyncIterator[str]:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"message": "Unauthorized"}, status=401)

    async for url in _served(refuse):
        yield url


async def _served(answer: Callable[[web.Request], object]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)  # type: ignore[arg-type]
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def _config(tmp_path: Path, server: str) -> OperatorConfig:
    path = tmp_path / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(config))
    return OperatorConfig(kubeconfig=str(path), lease_namespace="system", port=0)


async def test_a_dead_api_server_leaves_the_operator_alive_and_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bootstrap, "ASK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(health, "OLDEST_TURN_SECONDS", 0.5)
    caplog.set_level("INFO")
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(_config(tmp_path, DEAD), load_policy(), stop=stop))
    await asyncio.sleep(1.0)
    (url,) = [record.args[0] for record in caplog.records if record.msg == "listening on %s" and record.args]  # type: ignore[index]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert "not started yet: the API server does not answer" in await answer.text()
    stop.set()
    assert await asyncio.wait_for(serving, 5) == 0


async def test_sigterm_ends_a_start_that_hangs(tmp_path: Path, hanging: str) -> None:
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(_config(tmp_path, hanging), load_policy(), stop=stop))
    await asyncio.sleep(0.3)
    started = time.monotonic()
    stop.set()
    assert await asyncio.wait_for(serving, 5) == 0
    assert time.monotonic() - started < 2


async def test_a_token_that_is_refused_is_no_reason_to_wait(tmp_path: Path, unknowing: str) -> None:
    serving = serve(_config(tmp_path, unknowing), load_policy(), stop=asyncio.Event())
    with pytest.raises(Forbidden, match="Unauthorized"):
        await asyncio.wait_for(serving, 10)


async def test_the_user_of_the_process_needs_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a container it is a number without an entry in /etc/passwd."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)
    caplog.set_level("INFO")
    async with EmbeddedCluster(crds=[build_crd()]) as cluster:
        config = OperatorConfig(
            kubeconfig=str(cluster.kubeconfig(tmp_path / "kubeconfig")), lease_namespace="default", port=0
        )
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(config, load_policy(), stop=stop))
        while not any(record.msg == "listening on %s" for record in caplog.records):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        (url,) = [record.args[0] for record in caplog.records if record.msg == "listening on %s" and record.args]  # type: ignore[index]
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while (await session.get(f"{url}/readyz")).status != 200 and not serving.done():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        stop.set()
        assert await asyncio.wait_for(serving, 10) == 0, caplog.text


@pytest.mark.parametrize(("name", "identity"), [("slmpack-0", "slmpack-0"), ("", None)])
def test_a_pods_name_is_who_holds_the_lease(name: str, identity: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[OperatorConfig] = []
    monkeypatch.setattr(bootstrap, "run", started.append)
    monkeypatch.setenv("POD_NAME", name)
    CliRunner().invoke(main, ["run"])
    assert [config.identity for config in started] == [identity]


def _configs(monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[list[OperatorConfig], str]:
    started: list[OperatorConfig] = []
    monkeypatch.setattr(bootstrap, "run", started.append)
    return started, CliRunner().invoke(main, ["run", *flags]).output


@pytest.mark.parametrize(
    ("flags", "image", "proxy"),
    [
        ([], None, None),
        (["--supervisor-image", "r.example:5000/s@sha256:0"], "r.example:5000/s@sha256:0", None),
        (["--supervisor-image", "s", "--pod-proxy", "http://127.0.0.1:3128"], "s", "http://127.0.0.1:3128"),
    ],
)
def test_packs_are_set_up_by_flags(
    flags: list[str], image: str | None, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config,), _ = _configs(monkeypatch, *flags)
    assert (config.supervisor_image, config.pod_proxy) == (image, proxy)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--supervisor-image", ""),
        ("--supervisor-image", "two words"),
        ("--supervisor-image", " s"),
        ("--pod-proxy", ""),
        ("--pod-proxy", "127.0.0.1:3128"),
        ("--pod-proxy", "https://proxy"),
        ("--pod-proxy", "http://proxy/path"),
        ("--pod-proxy", "http:// proxy"),
    ],
)
def test_what_cannot_be_one_is_refused_with_one_that_can(
    flag: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, output = _configs(monkeypatch, flag, value)
    assert started == []
    assert flag in output
    assert "write for instance" in " ".join(output.split())


async def test_the_page_is_there_where_it_is_asked_for_and_says_why_there_is_no_plan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stop = asyncio.Event()
    config = replace(_config(tmp_path, DEAD), page=True)
    serving = asyncio.create_task(serve(config, load_policy(), stop=stop))
    await asyncio.sleep(1.0)
    (url,) = [record.args[0] for record in caplog.records if record.msg == "listening on %s" and record.args]  # type: ignore[index]
    async with aiohttp.ClientSession() as session, session.get(str(url)) as answer:
        assert answer.status == 200
        text = await answer.text()
    assert "Nothing has been planned yet." in text
    stop.set()
    assert await asyncio.wait_for(serving, 5) == 0
