"""The size of a checkpoint from a Hub on loopback that tells it in all the ways a real one may, or may not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from slmpack.adapters.hub import HubModels, HubSettings
from slmpack.adapters.safetensors import INDEX, LARGEST_HEADER_BYTES, SINGLE
from slmpack.domain.checkpoint import CHECKPOINT_KEY
from slmpack.domain.model import ModelProfile, parse_model_config
from slmpack.domain.snapshot import ModelUnknown
from tests.support.models import a_model_config

WEIGHTS = 64 * 1024 * 1024
"""Bytes that a server without ranges would send after the header."""


def header(tensors: dict[str, Any], *, length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def tensor(start: object, end: object) -> dict[str, object]:
    return {"dtype": "BF16", "shape": [1], "data_offsets": [start, end]}


TWO = {"__metadata__": {"format": "pt"}, "a": tensor(0, 600), "b": tensor(600, 1000)}
MANY = {f"model.layers.{index}.weight": tensor(index * 10, index * 10 + 10) for index in range(5000)}


class Hub:
    """A repository whose files are set by each test."""

    def __init__(self) -> None:
        self.url = ""
        self.config: dict[str, object] = {"hidden_size": 8}
        self.index: bytes | int = 404
        self.single: bytes | int = 404
        self.ranges = True
        self.moved = False
        self.hangs = False
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.sent = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        self.asked.append((name, request.headers.get("Range"), request.headers.get("Authorization")))
        if name == "config.json":
            return web.json_response(self.config)
        content = self.index if name == INDEX else self.single
        if self.hangs:
            await asyncio.sleep(30)
        if isinstance(content, int):
            return web.Response(status=content)
        if self.moved and "moved" not in request.query:
            raise web.HTTPFound(f"{self.url.replace('127.0.0.1', 'localhost')}{request.path}?moved=1")
        if self.ranges:
            part = content[request.http_range]
            return web.Response(status=206, body=part)
        return await self._all(request, content)

    async def _all(self, request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content) + WEIGHTS)})
        await response.prepare(request)
        try:
            await response.write(content)
            for _ in range(WEIGHTS // 65536):
                await response.write(bytes(65536))
                self.sent += 65536
        except ConnectionError:
            return response
        return response


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    found = Hub()
    app = web.Application()
    app.router.add_get("/org/model/resolve/main/{file}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def ask(hub: Hub, *, cache: Path | None = None, offline: bool = False, token: str | None = None) -> Any:
    woken = asyncio.Event()
    settings = HubSettings(endpoint=hub.url, cache=cache, offline=offline, token=token)
    async with HubModels(settings, wake=woken.set) as models:
        first = models.lookup(source="hf://org/model", revision=None)
        assert isinstance(first, ModelUnknown)
        await asyncio.wait_for(woken.wait(), 20)
        return models.lookup(source="hf://org/model", revision=None)


def size_of(found: Any) -> int | None:
    assert isinstance(found, dict), found
    return found.get(CHECKPOINT_KEY)


@pytest.mark.parametrize("total", [123, 123.0])
async def test_a_checkpoint_in_parts_states_its_total(hub: Hub, total: object) -> None:
    hub.index = json.dumps({"metadata": {"total_size": total}, "weight_map": {}}).encode()
    assert await ask(hub, token="secret") == {"hidden_size": 8, CHECKPOINT_KEY: 123}
    assert [name for name, _, _ in hub.asked] == ["config.json", INDEX]
    assert {token for _, _, token in hub.asked} == {"Bearer secret"}


async def test_a_single_files_header_is_summed_by_one_range_request(hub: Hub) -> None:
    hub.single = header(TWO)
    assert size_of(await ask(hub)) == 1000
    name, asked, _ = hub.asked[-1]
    assert (name, asked, len(hub.asked)) == (SINGLE, f"bytes=0-{256 * 1024 - 1}", 3)


async def test_a_long_header_takes_a_second_range_request(hub: Hub) -> None:
    hub.single = header(MANY)
    assert len(hub.single) > 256 * 1024
    assert size_of(await ask(hub)) == 50_000
    assert [asked for name, asked, _ in hub.asked if name == SINGLE][1] == f"bytes=0-{len(hub.single) - 1}"


@pytest.mark.parametrize("tensors", [TWO, MANY])
async def test_a_server_that_sends_everything_is_stopped(hub: Hub, tensors: dict[str, Any]) -> None:
    hub.single, hub.ranges = header(tensors), False
    assert size_of(await ask(hub)) in {1000, 50_000}
    assert hub.sent < WEIGHTS


async def test_a_redirect_to_another_host_goes_without_the_token(hub: Hub) -> None:
    hub.single, hub.moved = header(TWO), True
    assert size_of(await ask(hub, token="secret")) == 1000
    assert hub.asked[-1] == (SINGLE, f"bytes=0-{256 * 1024 - 1}", None)


@pytest.mark.parametrize("status", [401, 403, 429, 500])
@pytest.mark.parametrize("name", [INDEX, SINGLE])
async def test_metadata_that_is_refused_is_no_error(
    hub: Hub, name: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    if name == INDEX:
        hub.index = status
    else:
        hub.single = status
    with caplog.at_level(logging.WARNING):
        assert await ask(hub) == {"hidden_size": 8}
    assert f"{name}: the answer is {status}" in caplog.text


async def test_a_config_does_not_wait_long_for_its_size(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmpack.adapters.hub.METADATA_SECONDS", 0.2)
    hub.hangs = True
    assert await asyncio.wait_for(ask(hub), 10) == {"hidden_size": 8}


async def test_a_repository_without_safetensors_is_no_warning(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert await ask(hub) == {"hidden_size": 8}
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it has 0 bytes"),
        (b"1234", "it has 4 bytes"),
        (header({}, length=0), "a header of 0 bytes"),
        (header({}, length=LARGEST_HEADER_BYTES + 1), "16777217 bytes"),
        (header({}, length=2**64 - 1), "18446744073709551615 bytes"),
        (header(TWO, length=5000), "the header has 5008 bytes"),
        (header(MANY)[:300_000], "300000 came"),
        (header({})[:8] + b"{]", "not JSON"),
        ((4).to_bytes(8, "little") + b"null", "not a JSON object"),
        (header({"a": {"dtype": "BF16"}}), "no data_offsets"),
        (header({"a": 7}), "no data_offsets"),
        (header({"a": tensor(5, 4)}), "no data_offsets"),
        (header({"a": tensor(-5, 4)}), "no data_offsets"),
        (header({"a": tensor(0, 2**60)}), "no data_offsets"),
        (header({"a": tensor("0", "9")}), "no data_offsets"),
        (header({"__metadata__": {}}), "have 0 bytes"),
    ],
)
async def test_a_damaged_header_is_no_error(
    hub: Hub, content: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.single = content
    with caplog.at_level(logging.WARNING):
        assert await ask(hub) == {"hidden_size": 8}
    assert words in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "total_size"),
        (b'{"metadata": []}', "total_size"),
        (b'{"metadata": {"total_size": -1}}', "total_size"),
        (b'{"metadata": {"total_size": true}}', "total_size"),
        (b'{"metadata": {"total_size": 1.5}}', "total_size"),
        (b'{"metadata": {"total_size": 1e300}}', "total_size"),
        (b" " * (LARGEST_HEADER_BYTES + 1), "larger than"),
    ],
)
async def test_a_damaged_index_is_no_error(
    hub: Hub, content: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.index = content
    with caplog.at_level(logging.WARNING):
        assert await ask(hub) == {"hidden_size": 8}
    assert words in caplog.text


async def test_a_configs_own_claim_is_not_believed(hub: Hub) -> None:
    hub.config = {"hidden_size": 8, CHECKPOINT_KEY: 1}
    assert await ask(hub) == {"hidden_size": 8}
    hub.single = header(TWO)
    assert size_of(await ask(hub)) == 1000


async def test_the_size_is_kept_with_the_config(hub: Hub, tmp_path: Path) -> None:
    hub.single = header(TWO)
    await ask(hub, cache=tmp_path)
    asked = len(hub.asked)
    assert size_of(await ask(hub, cache=tmp_path)) == 1000
    assert size_of(await ask(hub, cache=tmp_path, offline=True)) == 1000
    assert len(hub.asked) == asked


async def test_what_could_not_be_read_is_read_by_the_next_process(hub: Hub, tmp_path: Path) -> None:
    hub.index = 429
    assert size_of(await ask(hub, cache=tmp_path)) is None
    assert size_of(await ask(hub, cache=tmp_path, offline=True)) is None
    hub.index, hub.single = 404, header(TWO)
    assert size_of(await ask(hub, cache=tmp_path)) == 1000


async def test_that_there_is_none_is_kept_too(hub: Hub, tmp_path: Path) -> None:
    assert await ask(hub, cache=tmp_path) == {"hidden_size": 8}
    asked = len(hub.asked)
    assert await ask(hub, cache=tmp_path) == {"hidden_size": 8}
    assert len(hub.asked) == asked


async def test_the_size_reaches_the_profile(hub: Hub) -> None:
    config = a_model_config("Qwen/Qwen2.5-0.5B-Instruct")
    hub.config = config
    hub.index = json.dumps({"metadata": {"total_size": 1_988_065_536}}).encode()
    profile = parse_model_config(await ask(hub))
    assert isinstance(profile, ModelProfile)
    assert (profile.weight_bytes, profile.config_weight_bytes) == (1_988_065_536, 988_065_536)
    assert profile.weights_note is not None
