"""The health port against those who are slow, who never read, and who send nonsense."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from slmpack.adapters import health
from slmpack.adapters.health import HealthServer, PageBytes

MIB = 2**20
PAGE = PageBytes(body=b"x" * (8 * MIB), policy="default-src 'none'")
"""More than the buffers of a socket hold."""
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Patient:
    age_seconds = 1.0
    trouble = ""


class Still:
    """A page that is always the same."""

    async def page(self, *, refreshes: bool) -> PageBytes:
        assert refreshes
        return PAGE


class Port:
    """Connections to a server, all closed at the end."""

    def __init__(self, url: str) -> None:
        self._at = urlsplit(url)
        self._wires: list[Wire] = []

    async def open(self) -> Wire:
        """A connection; about 1 KiB is read before somebody asks for it."""
        self._wires.append(await asyncio.open_connection(self._at.hostname, self._at.port, limit=1024))
        return self._wires[-1]

    async def send(self, words: bytes) -> asyncio.StreamReader:
        """A connection that has sent this."""
        reader, writer = await self.open()
        writer.write(words)
        return reader

    async def get(self, path: str) -> str:
        """The whole answer's head."""
        reader = await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(10):
            return (await reader.readuntil(b"\r\n\r\n")).decode()

    def close(self) -> None:
        for _, writer in self._wires:
            writer.transport.abort()


def _broken() -> bytes:
    raise ValueError("no figures")


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    server = HealthServer(Patient(), metrics=_broken, page=Still())
    port = Port(await server.start(host="127.0.0.1", port=0))
    yield port
    port.close()
    await server.close()


async def _is_cut(reader: asyncio.StreamReader, *, within: float = 10.0) -> bool:
    try:
        async with asyncio.timeout(within):
            while await reader.read(1024):
                pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


async def _until_pages_can_be_had(port: Port) -> None:
    async with asyncio.timeout(10):
        while "200 OK" not in await port.get("/"):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


async def test_clients_that_never_read_cost_little(port: Port) -> None:
    tracemalloc.start()
    try:
        heads = [await port.get("/") for _ in range(30)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [head.split("\r\n")[0] for head in heads] == (
        ["HTTP/1.1 200 OK"] * health.MOST_PAGES + ["HTTP/1.1 503 Service Unavailable"] * (30 - health.MOST_PAGES)
    )
    assert f"Retry-After: {health.RETRY_SECONDS}\r\n" in heads[-1]
    assert held < 8 * MIB, "not even one copy of the page"
    assert "200 OK" in await port.get("/healthz")


async def test_who_does_not_read_a_page_in_time_is_cut(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_PAGES", 1)
    monkeypatch.setattr(health, "PAGE_SECONDS", 0.3)
    await port.get("/")
    assert "503" in await port.get("/")
    await _until_pages_can_be_had(port)


async def test_who_leaves_frees_the_place(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_PAGES", 1)
    await port.get("/")
    assert "503" in await port.get("/")
    port.close()
    await _until_pages_can_be_had(port)


async def test_a_page_is_sent_whole(port: Port) -> None:
    reader = await port.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"Content-Length: {len(PAGE.body)}\r\n".encode() in head
    assert await reader.readexactly(len(PAGE.body)) == PAGE.body


@pytest.mark.parametrize("words", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
async def test_half_a_request_is_not_waited_for(port: Port, words: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HEADER_SECONDS", 0.2)
    assert await _is_cut(await port.send(words))


async def test_half_a_second_request_is_not_waited_for(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.2)
    reader = await port.send(REQUEST + b"GET / HT")
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    assert await _is_cut(reader)


async def test_an_idle_connection_is_closed(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "IDLE_SECONDS", 0.2)
    reader = await port.send(REQUEST)
    assert await _is_cut(reader)


async def test_probes_are_answered_while_slow_clients_sit_there(port: Port) -> None:
    slow = [await port.send(b"GET / HT") for _ in range(2 * health.MOST_CONNECTIONS)]
    for path in ("/healthz", "/readyz"):
        assert "200 OK" in await port.get(path)
    cut = await asyncio.gather(*(_is_cut(reader, within=1.0) for reader in slow))
    assert sum(cut) >= health.MOST_CONNECTIONS


async def test_those_that_were_silent_longest_go_first(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_CONNECTIONS", 2)
    talks, writer = await port.open()
    silent, _ = await port.open()
    writer.write(REQUEST)
    await talks.readuntil(b"\r\n\r\n")
    await port.open()
    assert await _is_cut(silent)
    writer.write(REQUEST)
    assert b"200 OK" in await talks.readuntil(b"\r\n\r\nlast turn 1.0 s ago\n")


@pytest.mark.parametrize(
    "words", [b"\x16\x03\x01\x00\x01\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n"]
)
async def test_nonsense_is_no_news(port: Port, words: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    reader = await port.send(words)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert b"Server: slmpack\r\n" in head
    (record,) = [record for record in caplog.records if record.name != "asyncio"]
    assert record.levelname == "DEBUG"
    assert record.exc_info is None
    assert await _is_cut(reader)


async def test_a_fault_of_ours_is_logged_and_ends_nothing(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    head = await port.get("/metrics")
    assert "500 Internal Server Error" in head
    assert "no figures" not in head
    (record,) = [record for record in caplog.records if record.name != "asyncio"]
    assert record.getMessage() == "cannot answer GET /metrics"
    assert "no figures" in caplog.text
    assert "200 OK" in await port.get("/healthz")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/no-such"])
async def test_no_answer_names_a_version(port: Port, path: str) -> None:
    assert "Server: slmpack\r\n" in await port.get(path)
