"""The control API, used and abused."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.pack_fakes.bench import PATIENCE_SECONDS, PackBench

CLIENT_SECONDS = 45.0


@pytest.fixture(scope="module")
def pack(program: Any) -> Iterator[PackBench]:
    """One pack for all tests of this module: two engines, none wanted."""
    bench = PackBench(program=program, engines=2, running=[])
    try:
        bench.intervals["client_limit"] = CLIENT_SECONDS
        bench.start()
        bench.until(lambda: bench.report()["daemon"]["state"] == "running", what="up")
        yield bench
    finally:
        bench.close()


def test_probes_need_no_token(pack: PackBench) -> None:
    assert pack.call("GET", "/livez", token=None)[0] == 200
    assert pack.call("GET", "/readyz", token=None)[0] == 503


@pytest.mark.parametrize("token", [None, "", "wrong", "the pod's token2"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_engines_need_the_token(pack: PackBench, method: str, token: str | None) -> None:
    body = {"running": [0]} if method == "PUT" else None
    assert pack.call(method, "/v1/engines", body, token=token)[0] == 401
    assert pack.report()["running"] == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 20_000, "not JSON"),
        (b'{"running": [' + b"9" * 5000 + b"]}", ""),
        ([0], "an object"),
        ({}, "running"),
        ({"running": [0], "more": 1}, "running"),
        ({"running": 0}, "a list"),
        ({"running": [0, 0]}, "twice"),
        ({"running": [2]}, "from 0 to 1"),
        ({"running": [-1]}, "from 0 to 1"),
        ({"running": [True]}, "from 0 to 1"),
        ({"running": [0.0]}, "from 0 to 1"),
        ({"running": ["0"]}, "from 0 to 1"),
    ],
)
def test_nonsense_is_refused_with_the_rule(pack: PackBench, body: object, said: str) -> None:
    status, answer = pack.call("PUT", "/v1/engines", body)
    assert status == 400
    assert said in answer["message"]
    assert pack.report()["running"] == []


def test_paths_and_methods(pack: PackBench) -> None:
    assert pack.call("GET", "/v2/engines")[0] == 404
    assert pack.call("DELETE", "/v1/engines")[0] == 405
    assert pack.call("POST", "/livez")[0] == 405


def test_a_huge_body_is_refused(pack: PackBench) -> None:
    assert pack.call("PUT", "/v1/engines", b" " * 65_537)[0] == 413


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT /v1/engines HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET /livez HTTP/1.1\r\n: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"\xff\xfe\x00 / HTTP/1.1\r\n\r\n", 404),
    ],
)
def test_bytes_that_are_no_request(pack: PackBench, request_: bytes, status: int) -> None:
    assert raw(pack, request_).startswith(f"HTTP/1.1 {status} ".encode())


def test_many_clients_do_not_lock_the_kubelet_out(pack: PackBench) -> None:
    began = time.monotonic()
    clients = [socket.create_connection(("127.0.0.1", pack.control_port)) for _ in range(40)]
    try:
        for client in clients:
            client.settimeout(PATIENCE_SECONDS)
        assert pack.call("GET", "/livez", token=None)[0] == 200
        # All but 16 are ended at once, the oldest first, and not because their time was up.
        assert [ended(client) for client in clients[:24]] == [True] * 24
        assert time.monotonic() - began < CLIENT_SECONDS
    finally:
        for client in clients:
            client.close()


def test_a_slow_client_is_cut(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1, running=[])
    bench.intervals["client_limit"] = 1.0
    bench.start()
    bench.until(lambda: bench.report()["daemon"]["state"] == "running", what="up")
    with socket.create_connection(("127.0.0.1", bench.control_port)) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.sendall(b"GET /livez HT")
        assert ended(client)
    assert bench.call("GET", "/livez", token=None)[0] == 200


def test_put_is_idempotent_and_touches_only_what_changes(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(running=[1])
    bench.start()
    bench.until_ready(1)
    assert bench.put(1) == 200
    assert bench.put(0, 1) == 202
    assert bench.put(1, 0) == 200
    bench.until_ready(0, 1)
    assert bench.put(0) == 202
    assert bench.put(0) == 200
    bench.until(lambda: bench.engine(1)["state"] == "stopped", what="stopped")
    assert bench.report()["running"] == [0]
    assert (len(bench.of(0, "start")), len(bench.of(1, "start")), len(bench.of(0, "SIGTERM"))) == (1, 1, 0)
    assert (bench.engine(1)["wanted"], bench.engine(1)["reason"], bench.engine(1)["deviceBytes"]) == (False, "", None)
    assert bench.put() == 202
    bench.until(lambda: bench.engine(0)["state"] == "stopped", what="all stopped")
    assert bench.call("GET", "/readyz", token=None)[0] == 503
    assert bench.supervisor.poll() is None


def raw(pack: PackBench, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", pack.control_port)) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.sendall(request)
        return client.recv(4096)


def ended(client: socket.socket) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            if not client.recv(4096):
                return True
        except ConnectionResetError:
            return True
    return False
