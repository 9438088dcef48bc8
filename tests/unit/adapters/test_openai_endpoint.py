"""The client of an OpenAI server, against a server on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
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


@pytest.mark.parametrize(
    "body",
    ["[]", "{}", "<html>", '{"version": ""}', '{"version": 0.32}', pytest.param("[" * 100_000, id="deep")],
)
async def test_a_version_that_cannot_be_read(body: str) -> None:
    async with serving(lambda _: web.Response(text=body)) as url, OpenAiEndpoint(url) as endpoint:
        assert await endpoint.version() is None
        assert endpoint.untold == {"/version": f"{url}/version is not that of a vLLM server"}


@pytest.mark.parametrize("status", [401, 404, 500, 503])
async def test_what_a_server_does_not_tell_is_unknown(status: int) -> None:
    async with serving(lambda _: web.Response(status=status, text="oh")) as url, OpenAiEndpoint(url) as endpoint:
        assert await endpoint.version() is None
        assert await endpoint.sample() is None
    assert endpoint.untold == {path: f"GET {url}{path} answered {status}: oh" for path in ("/version", "/metrics")}


async def test_metrics_that_cannot_be_read_are_unknown() -> None:
    text = "vllm:num_requests_running many\n"
    async with serving(lambda _: web.Response(text=text)) as url, OpenAiEndpoint(url) as endpoint:
        assert await endpoint.sample() is None
    assert endpoint.untold["/metrics"].startswith(f"{url}/metrics is no Prometheus text: ")


@pytest.mark.parametrize("length", [-5, 0, True, 10**12, 7.5, "4096", None])
async def test_a_length_that_no_model_has_is_unknown(length: object) -> None:
    body = {"data": [{"id": "tiny", "max_model_len": length}]}
    async with serving(lambda _: web.json_response(body)) as url, OpenAiEndpoint(url) as endpoint:
        assert await endpoint.models() == (ServedModel(name="tiny", root="tiny", max_model_len=None),)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        "<html>",
        '{"data": [{}]}',
        '{"data": null}',
        '{"data": [1]}',
        '{"data": ["tiny"]}',
        '{"data": [{"id": ""}]}',
        '{"data": [{"id": 5}]}',
        pytest.param('{"data": [{"id": "%s"}]}' % ("x" * 1025), id="a long name"),
        '{"data": [{"id": "a\\u001b[2Jb"}]}',
        '{"data": [{"id": "\\ud800"}]}',
        '{"data": [{"id": "tiny", "root": {}, "max_model_len": "\\n"}, {"id": []}]}',
        pytest.param(DEEP, id="deep"),
        pytest.param('{"data": ' + DEEP, id="deep data"),
    ],
)
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


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
@pytest.mark.parametrize("usage", [True, False])
async def test_lines_may_end_as_the_standard_allows(line_end: str, usage: bool) -> None:
    async with serving_vllm(line_end=line_end, usage=usage) as fake:
        assert sum(await complete(fake.url)) == 6


@pytest.mark.parametrize("cut", range(1, 8))
async def test_a_line_end_may_come_in_two_pieces(cut: int) -> None:
    event = b'data: {"choices":[{"text":"a"}]}\r\n\r\n'

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        pieces = event * 6
        at = 2 * len(event) - cut
        for piece in (pieces[:at], pieces[at:]):
            await response.write(piece)
            await asyncio.sleep(0.02)
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert sum(await complete(f"http://127.0.0.1:{runner.addresses[0][1]}")) == 6
    await runner.cleanup()


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
        (r'{"message": "a\u001b[2J\ud800b"}', r"a \[2J b"),
        ("[" * 4000, r"\[" * 300 + r"\.\.\."),
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
        ('data:{ "error": {"message":"EngineCore died"}}\r\n\r\n', "the stream broke off: EngineCore died"),
        ('data: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n', "a completion ended after 1 of 6 tokens"),
        pytest.param(
            'data: {"usage":{"completion_tokens":%s}}\n\n' % ("9" * 6000),
            "completion_tokens is a number of 6000 digits",
            id="a number of 6000 digits",
        ),
        pytest.param("x" * (8 * 1024 * 1024 + 1), "event of the stream is larger than 8388608 bytes", id="no end"),
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
        port = url.rpartition(":")[2]
        with pytest.raises(Unavailable, match=f"^{url}/v1/models: 127.0.0.1 port {port}: Connection refused$"):
            await endpoint.models()
    with pytest.raises(Unavailable, match=f"{url}/v1/completions: "):
        await complete(url)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(113, "Connect call failed ('10.0.0.1', 80)"), "No route to host"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 80), [Errno 111] Connect call failed"
            ),
            "Connection refused",
        ),
        (OSError("[Errno 111] here, [Errno 113] there"), "Connection refused and No route to host"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
            "[SSL: WRONG_VERSION_NUMBER] wrong version",
        ),
        (OSError("odd"), "odd"),
    ],
    ids=["no route", "two addresses", "two reasons", "no such name", "no TLS", "without a number"],
)
async def test_a_connection_that_fails_is_told_in_words(
    error: OSError, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = aiohttp.client_reqrep.ConnectionKey("here", 80, True, True, None, None, None)

    def fail(*_: object, **__: object) -> None:
        raise aiohttp.ClientConnectorError(key, error)

    monkeypatch.setattr(aiohttp.ClientSession, "get", fail)
    async with OpenAiEndpoint("http://here") as endpoint:
        with pytest.raises(Unavailable) as caught:
            await endpoint.models()
    assert str(caught.value).startswith(f"http://here/v1/models: here port 80: {words}")


async def test_redirects_without_end() -> None:
    def again(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": str(request.rel_url)})

    async with serving(again) as url, OpenAiEndpoint(url) as endpoint:
        message = r"/v1/models: redirected 10 times, the last to /v1/models; give the address that answers itself"
        with pytest.raises(Unavailable, match=message):
            await endpoint.models()


@pytest.mark.parametrize("url", ["http://", "http://x:99999", "http://[::1", "http://a b", "http://x..y"])
async def test_an_address_that_is_none(url: str) -> None:
    async with OpenAiEndpoint(url) as endpoint:
        with pytest.raises(Unavailable, match="/v1/models: "):
            await endpoint.models()


async def test_a_request_that_takes_too_long() -> None:
    async with serving_vllm(step_s=30) as fake, OpenAiEndpoint(fake.url, request_seconds=0.05) as endpoint:
        with pytest.raises(Unavailable, match="/v1/completions: "):
            await endpoint.complete([11], model="tiny", output_tokens=2, on_tokens=lambda _: None)


async def test_it_is_used_as_a_context() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await OpenAiEndpoint("http://127.0.0.1:1").models()
