"""Model configs from a Hub on loopback: what is found, what is said of what is not, and when it is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from slmpack.adapters.hub import KEPT_SECONDS, LARGEST_BYTES, BundledFirst, HubModels, HubSettings
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import ModelUnknown
from tests.support.fake_clock import FakeClock


class Hub:
    """Answers by repository name and remembers who asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.healed = False

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.tokens.append(request.headers.get("Authorization"))
        name = request.match_info["name"]
        if name == "good" or self.healed:
            return web.json_response({"hidden_size": 8})
        if name == "large":
            return web.Response(body=b" " * (LARGEST_BYTES + 1))
        if name == "html":
            return web.Response(text="<html>")
        if name == "list":
            return web.json_response([])
        return web.Response(status={"gated": 401, "missing": 404}.get(name, 500))


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    found = Hub()
    app = web.Application()
    app.router.add_get("/org/{name}/resolve/{revision}/config.json", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def _ask(models: HubModels, woken: asyncio.Event, name: str, revision: str | None = None) -> object:
    first = models.lookup(source=f"hf://org/{name}", revision=revision)
    if isinstance(first, ModelUnknown):
        assert first.reason is Reason.MODEL_PENDING
        await asyncio.wait_for(woken.wait(), 10)
        woken.clear()
    return models.lookup(source=f"hf://org/{name}", revision=revision)


async def test_a_config_is_fetched_once_with_the_operators_token(hub: Hub) -> None:
    woken = asyncio.Event()
    async with HubModels(HubSettings(endpoint=hub.url, token="secret"), wake=woken.set) as models:
        assert await _ask(models, woken, "good", "v1.0") == {"hidden_size": 8}
        assert await _ask(models, woken, "good", "v1.0") == {"hidden_size": 8}
    assert hub.asked == ["/org/good/resolve/v1.0/config.json"]
    assert hub.tokens == ["Bearer secret"]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("gated", Reason.MODEL_GATED, "HF_TOKEN"),
        ("missing", Reason.MODEL_NOT_FOUND, "no config.json at revision 'main'"),
        ("broken", Reason.MODEL_UNAVAILABLE, "answered 500"),
        ("large", Reason.MODEL_UNAVAILABLE, "larger than"),
        ("html", Reason.MODEL_UNAVAILABLE, "not JSON"),
        ("list", Reason.MODEL_UNAVAILABLE, "not a JSON object"),
    ],
)
async def test_what_cannot_be_had_is_explained(hub: Hub, name: str, reason: Reason, words: str) -> None:
    woken = asyncio.Event()
    async with HubModels(HubSettings(endpoint=hub.url), wake=woken.set) as models:
        found = await _ask(models, woken, name)
    assert isinstance(found, ModelUnknown)
    assert found.reason is reason
    assert words in found.message


async def test_a_failure_is_asked_again_after_its_back_off(hub: Hub) -> None:
    woken, clock = asyncio.Event(), FakeClock()
    async with HubModels(HubSettings(endpoint=hub.url), wake=woken.set, clock=clock) as models:
        await _ask(models, woken, "broken")
        assert len(hub.asked) == 1
        hub.healed = True
        clock.advance(6)
        models.lookup(source="hf://org/broken", revision=None)
        await asyncio.wait_for(woken.wait(), 10)
        assert models.lookup(source="hf://org/broken", revision=None) == {"hidden_size": 8}


async def test_offline_answers_come_from_the_cache_folder(hub: Hub, tmp_path: Path) -> None:
    woken = asyncio.Event()
    async with HubModels(HubSettings(endpoint=hub.url, cache=tmp_path), wake=woken.set) as models:
        await _ask(models, woken, "good")
    async with HubModels(HubSettings(offline=True, cache=tmp_path), wake=woken.set) as models:
        woken.clear()
        assert await _ask(models, woken, "good") == {"hidden_size": 8}
        woken.clear()
        unknown = await _ask(models, woken, "another")
    assert isinstance(unknown, ModelUnknown)
    assert "offline" in unknown.message
    assert len(hub.asked) == 1


async def test_an_endpoint_that_does_not_answer_is_explained() -> None:
    woken = asyncio.Event()
    async with HubModels(HubSettings(endpoint="http://127.0.0.1:9"), wake=woken.set) as models:
        found = await _ask(models, woken, "good")
    assert isinstance(found, ModelUnknown)
    assert found.reason is Reason.MODEL_UNAVAILABLE
    assert "GET http://127.0.0.1:9/org/good/resolve/main/config.json" in found.message


async def test_a_cache_that_cannot_be_written_is_done_without(hub: Hub, tmp_path: Path) -> None:
    woken = asyncio.Event()
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    settings = HubSettings(endpoint=hub.url, cache=tmp_path / "file")
    async with HubModels(settings, wake=woken.set) as models:
        assert await _ask(models, woken, "good") == {"hidden_size": 8}


async def test_a_damaged_cache_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "org%2Fgood").mkdir()
    (tmp_path / "org%2Fgood" / "main.json").write_text("{", encoding="utf-8")
    woken = asyncio.Event()
    async with HubModels(HubSettings(endpoint=hub.url, cache=tmp_path), wake=woken.set) as models:
        assert await _ask(models, woken, "good") == {"hidden_size": 8}
    assert len(hub.asked) == 1


async def test_other_sources_need_an_inline_config() -> None:
    async with HubModels(wake=lambda: None) as models:
        found = models.lookup(source="pvc://claim/model", revision=None)
    assert isinstance(found, ModelUnknown)
    assert "spec.model.config" in found.message


async def test_bundled_models_need_no_hub() -> None:
    async with HubModels(HubSettings(offline=True), wake=lambda: None) as models:
        found = BundledFirst(models).lookup(source="hf://Qwen/Qwen2.5-0.5B-Instruct", revision=None)
    assert isinstance(found, dict)
    assert found["model_type"] == "qwen2"


async def test_another_revision_of_a_bundled_model_is_asked_for() -> None:
    async with HubModels(HubSettings(offline=True), wake=lambda: None) as models:
        bundled = BundledFirst(models)
        source = "hf://Qwen/Qwen2.5-0.5B-Instruct"
        assert isinstance(bundled.lookup(source=source, revision="main"), dict)
        found = bundled.lookup(source=source, revision="abc123")
    assert isinstance(found, ModelUnknown)
    assert found.reason is Reason.MODEL_PENDING


async def test_what_nobody_asks_for_any_more_is_forgotten(hub: Hub) -> None:
    woken, clock = asyncio.Event(), FakeClock()
    async with HubModels(HubSettings(endpoint=hub.url), wake=woken.set, clock=clock) as models:
        for revision in ("old", "used"):
            await _ask(models, woken, "good", revision)
        clock.advance(KEPT_SECONDS + 1)
        assert models.lookup(source="hf://org/good", revision="used") == {"hidden_size": 8}
        await _ask(models, woken, "good", "new")
        assert models.lookup(source="hf://org/good", revision="used") == {"hidden_size": 8}
        assert isinstance(models.lookup(source="hf://org/good", revision="old"), ModelUnknown)


async def test_a_bug_in_fetching_waits_its_back_off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    woken, asked = asyncio.Event(), 0

    async def buggy(*_: object) -> object:
        nonlocal asked
        asked += 1
        raise KeyError("bug")

    monkeypatch.setattr(HubModels, "_download", buggy)
    async with HubModels(HubSettings(endpoint=hub.url), wake=woken.set, clock=FakeClock()) as models:
        found = await _ask(models, woken, "good")
        await asyncio.sleep(0)
    assert isinstance(found, ModelUnknown)
    assert found.reason is Reason.INTERNAL
    assert asked == 1
