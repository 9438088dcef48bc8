"""The client against a scripted server: what is tried again, what is not, and how errors are named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from slmpack.adapters import kube
from slmpack.adapters.kube import KubeClient, error_of
from slmpack.ports import Conflict, Forbidden, Gone, Invalid, NotFound, PortError, Unavailable

PODS = "/api/v1/namespaces/ns/pods"


class Server:
    """Gives its answers in turn; an answer is a status and a body, or a body for 200."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.seen.append((request.method, request.path_qs, json.loads(text) if text else None))
        status, body = self.answers.pop(0)
        headers = self.headers if status >= 400 else {}
        if isinstance(body, bytes):
            return web.Response(status=status, body=body, headers=headers)
        return web.json_response(body, status=status, headers=headers)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield found, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def client(
    server: tuple[Server, str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubeClient]:
    monkeypatch.setattr(kube, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(kube, "LONGEST_PAUSE_SECONDS", 0.002)
    path = tmp_path / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server[1]}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(config))
    async with await KubeClient.connect(str(path)) as made:
        yield made


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_statuses_have_one_meaning(status: int, kind: type[PortError]) -> None:
    error = error_of(status, b'{"message": "the words of the server"}')
    assert type(error) is kind
    assert (str(error), error.status) == ("the words of the server", status)


def test_an_error_page_is_quoted() -> None:
    assert str(error_of(502, b"<html>bad gateway")) == "<html>bad gateway"
    assert str(error_of(404, b"404 page not found\n")) == "404 page not found"


async def test_lists_are_read_page_by_page(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [
        (200, {"items": [{"a": 1}], "metadata": {"continue": "x", "resourceVersion": "7"}}),
        (200, {"items": [{"a": 2}], "metadata": {"resourceVersion": "7"}}),
    ]
    assert await client.list(PODS, {"labelSelector": "a=b"}) == ([{"a": 1}, {"a": 2}], "7")
    assert "limit=500" in server[0].seen[0][1]
    assert "continue=x" in server[0].seen[1][1]


async def test_an_expired_page_starts_the_list_anew(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [
        (200, {"items": [{"a": 1}], "metadata": {"continue": "x"}}),
        (410, {"message": "expired"}),
        (200, {"items": [{"a": 3}], "metadata": {"resourceVersion": "9"}}),
    ]
    assert await client.list(PODS) == ([{"a": 3}], "9")


async def test_reads_are_tried_again(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(500, {}), (503, {}), (200, {"kind": "Pod"})]
    assert await client.get(f"{PODS}/a") == {"kind": "Pod"}


async def test_a_write_that_failed_is_not_repeated(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(500, {"message": "no"})]
    with pytest.raises(Unavailable, match="no"):
        await client.create(PODS, {"kind": "Pod"})
    assert len(server[0].seen) == 1


async def test_a_write_that_was_not_begun_is_repeated(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(429, {}), (200, {"kind": "Pod"})]
    server[0].headers = {"Retry-After": "1"}
    assert await client.create(PODS, {"kind": "Pod"}) == {"kind": "Pod"}


async def test_a_rejected_token_is_read_anew_once(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(401, {}), (200, {"kind": "Pod"})]
    assert await client.get(f"{PODS}/a") == {"kind": "Pod"}
    server[0].answers = [(401, {"message": "Unauthorized"}), (401, {"message": "Unauthorized"})]
    with pytest.raises(Forbidden, match="Unauthorized"):
        await client.get(f"{PODS}/a")


async def test_deleting_names_the_very_object(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(200, {})]
    await client.delete(f"{PODS}/a", uid="u", grace_period_seconds=3)
    method, _, body = server[0].seen[0]
    assert method == "DELETE"
    assert body["preconditions"] == {"uid": "u"}
    assert body["gracePeriodSeconds"] == 3


async def test_counting_costs_one_object(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(200, {"items": [{}], "metadata": {"remainingItemCount": 41, "continue": "x"}})]
    assert await client.count(PODS) == 42


async def test_a_watch_tells_changes_and_ends(client: KubeClient, server: tuple[Server, str]) -> None:
    long = "x" * 300_000
    events = [{"type": "ADDED", "object": {"metadata": {"name": long}}}, {"type": "DELETED", "object": {}}]
    server[0].answers = [(200, b"".join(json.dumps(event).encode() + b"\n" for event in events))]
    seen = [kind async for kind, _ in client.watch(PODS, resource_version="5")]
    assert seen == ["ADDED", "DELETED"]
    assert "resourceVersion=5" in server[0].seen[0][1]


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_watch_that_is_too_old_says_so(client: KubeClient, server: tuple[Server, str], as_event: bool) -> None:
    status = {"code": 410, "message": "too old resource version"}
    server[0].answers = [(200, {"type": "ERROR", "object": status}) if as_event else (410, status)]
    if as_event:
        server[0].answers = [(200, json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")]
    with pytest.raises(Gone, match="too old"):
        async for _ in client.watch(PODS, resource_version="5"):
            pass


async def test_no_server_is_unavailable(client: KubeClient, server: tuple[Server, str]) -> None:
    async with await KubeClient.connect(server="http://127.0.0.1:1") as nowhere:
        with pytest.raises(Unavailable, match="GET"):
            await nowhere.get(PODS)


async def test_an_answer_that_is_no_object_is_unavailable(client: KubeClient, server: tuple[Server, str]) -> None:
    server[0].answers = [(200, b"<html>")] * 3
    with pytest.raises(Unavailable, match="not JSON"):
        await client.get(PODS)


async def test_a_missing_kubeconfig_is_named() -> None:
    with pytest.raises(Unavailable, match="/nowhere/kubeconfig"):
        await KubeClient.connect("/nowhere/kubeconfig")
