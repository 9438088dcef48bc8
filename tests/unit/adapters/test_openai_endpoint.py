"""The client of an OpenAI server, against a server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from slmpack.adapters.openai_endpoint import OpenAiEndpoint, ServedModel
from slmpack.ports import Forbidden, Invalid, NotFound, PortError, Unavailable
from tests.support.fake_vllm import serving_vllm

Answer = Callable[[web.Request], web.Response]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """A server that gives one answer to everything."""

    async def respond(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def complete(url: str, *, output_tokens: int = 6) -> list[int]:
    """How many tokens came at each call."""
    found: list[int] = []
    async with OpenAiEndpoint(url) as endpoint:
        await endpoint.complete([11, 12], model="tiny", output_tokens=output_tokens, on_tokens=found.append)
    return found


async def test_what_a_server_says_of_itself() -> None:
    async with serving_vllm(kv_tokens=3200) as fake, OpenAiEndpoint(f"{fake.url}/v1/") as endpoint:
        assert endpoint.url == fake.url
        assert await endpoint.models() == (ServedModel(name="tiny", root="org/tiny", max_model_len=4096),)
        assert await endpoint.version() == "0.32.0"
        sample = await endpoint.sample()
        assert sample is not None
        assert (sample.running, sample.kv_cache_tokens) == (0, 3200)


async def test_a_server_without_version_and_metrics() -> None:
    async with serving(lambda _: web.Response(status=404)) as url, OpenAiEndpoint(url) as endpoint:
        assert await endpoint.version() is None
        assert await endpoint.sample() is None


@pytest.mark.parametrize("body", ["[]", "{}", "<html>"])
async def test_a_version_that_cannot_be_read(body: str) -> None:
    async with serving(lambda _: web.Response(text=body)) as url, OpenAiEndpoint(url) as endpoint:
        assert await endpoint.version() is None


@pytest.mark.parametrize("body", ["[]", "{}", "<html>", '{"data": [{}]}', '{"data": null}'])
async def test_what_is_no_openai_server(body: str) -> None:
    async with serving(lambda _: web.Response(text=body)) as url, OpenAiEndpoint(url) as endpoint:
        with pytest.raises(Unavailable, match="not the list of an OpenAI server"):
            await endpoint.models()


async def test_a_server_without_models() -> None:
    async with serving(lambda _: web.json_response({"data": []})) as url, OpenAiEndpoint(url) as endpoint:
        with pytest.raises(Unavailable, match="lists no model"):
            await endpoint.models()


async def test_the_key_goes_with_every_request() -> None:
    async with serving_vllm(key="secret") as fake:
        async with OpenAiEndpoint(fake.url, token="secret") as endpoint:
            assert await endpoint.models()
        async with OpenAiEndpoint(fake.url) as endpoint:
            with pytest.raises(Forbidden, match="answered 401: Unauthorized"):
                await endpoint.models()


async def test_a_completion_asks_for_exact_lengths() -> None:
    async with serving_vllm() as fake:
        assert sum(await complete(fake.url)) == 6
        body = fake.bodies[0]
    assert body["prompt"] == [11, 12]
    assert (body["min_tokens"], body["max_tokens"], body["ignore_eos"], body["stream"]) == (6, 6, True, True)


@pytest.mark.parametrize("usage", [True, False])
async def test_tokens_are_counted_as_they_come(usage: bool) -> None:
    async with serving_vllm(usage=usage, step_s=0.01) as fake:
        assert sum(await complete(fake.url)) == 6


async def test_tokens_that_come_in_one_piece() -> None:
    async with serving_vllm(at_once=True) as fake:
        assert await complete(fake.url) == [6]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Invalid), (403, Forbidden), (404, NotFound), (503, Unavailable), (500, Unavailable)]
)
async def test_refusals(status: int, kind: type[PortError]) -> None:
    body = {"error": {"message": "queue is full"}}
    async with serving(lambda _: web.json_response(body, status=status)) as url:
        with pytest.raises(kind, match=f"/v1/completions answered {status}: queue is full") as caught:
            await complete(url)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"message": "old style"}', "old style"),
        ('{"error": "just text"}', "just text"),
        ("plain\n text", "plain text"),
        ("[1]", r"\[1\]"),
        ("x" * 400, "x" * 300 + r"\.\.\."),
    ],
)
async def test_the_words_of_a_refusal(body: str, shown: str) -> None:
    async with serving(lambda _: web.Response(text=body, status=500)) as url:
        with pytest.raises(Unavailable, match=f"answered 500: {shown}$"):
            await complete(url)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ('data: {"error":{"message":"EngineCore died"}}\n\n', "the stream broke off: EngineCore died"),
        ('data: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n', "a completion ended after 1 of 6 tokens"),
    ],
)
async def test_streams_that_break_off(stream: str, message: str) -> None:
    async with serving(lambda _: web.Response(text=stream)) as url:
        with pytest.raises(Unavailable, match=message):
            await complete(url)


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    big = "x" * (8 * 1024 * 1024 + 1)
    async with serving(lambda _: web.Response(text=big)) as url, OpenAiEndpoint(url) as endpoint:
        with pytest.raises(Unavailable, match="larger than 8388608 bytes"):
            await endpoint.sample()


async def test_nobody_there() -> None:
    async with serving(lambda _: web.Response()) as url:
        pass
    async with OpenAiEndpoint(url) as endpoint:
        with pytest.raises(Unavailable, match=f"{url}/v1/models: "):
            await endpoint.models()
    with pytest.raises(Unavailable, match=f"{url}/v1/completions: "):
        await complete(url)


async def test_a_request_that_takes_too_long() -> None:
    async with serving_vllm(step_s=30) as fake, OpenAiEndpoint(fake.url, request_seconds=0.05) as endpoint:
        with pytest.raises(Unavailable, match="/v1/completions: "):
            await endpoint.complete([11], model="tiny", output_tokens=2, on_tokens=lambda _: None)


async def test_it_is_used_as_a_context() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await OpenAiEndpoint("http://127.0.0.1:1").models()
