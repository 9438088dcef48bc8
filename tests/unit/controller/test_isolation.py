"""What goes wrong with one SLMDeployment stays with that one: the others are served, and the loop does not fail."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from slmpack.adapters import cluster
from slmpack.adapters.cluster import KubeCluster
from slmpack.adapters.resources import PODS, SERVICES, SLM_DEPLOYMENTS
from slmpack.controller import execute, report, status
from slmpack.domain.plan import CreatePod
from slmpack.ports import Conflict, Forbidden, Invalid, Unavailable
from tests.support.controller_world import World


@pytest.fixture
def world() -> World:
    return World()


def _statuses(world: World) -> int:
    return sum(verb == "apply" and path.endswith("/status") for verb, path in world.api.writes())


async def test_a_message_longer_than_the_schema_allows_is_clipped(world: World) -> None:
    world.apply("good")
    world.apply("bad", engine={"args": {"x" * 40_000: "1"}})
    await world.loop.turn()
    assert world.telemetry.turns == ["ok"]
    assert world.status("good")["ready"] == "0/1"
    messages = [condition["message"] for condition in world.status("bad")["conditions"]]
    assert max(map(len, messages)) == status.MESSAGE
    notes = [event["note"] for event in world.store.items(world.store.registry.parse("/apis/events.k8s.io/v1/events"))]
    assert max(len(note.encode()) for note in notes) <= report.NOTE_BYTES


@pytest.mark.parametrize("text", ["é" * 2000, "😀" * 1000, "a" + "😀" * 1000])
async def test_an_events_note_is_counted_in_bytes(world: World, text: str) -> None:
    posted: list[Mapping[str, Any]] = []

    async def post(_: KubeCluster, event: Mapping[str, Any]) -> None:
        posted.append(event)

    world.apply(engine={"args": {text: "1"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KubeCluster, "post_event", post)
        await world.loop.turn()
    assert world.status()["reason"] == "InvalidSpec"
    (size,) = {len(event["note"].encode()) for event in posted}
    assert report.NOTE_BYTES - 3 <= size <= report.NOTE_BYTES


@pytest.mark.parametrize("what", ["render_pod", "render_service"])
async def test_a_bug_in_rendering_one_is_that_ones_reason(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sound = getattr(execute, what)

    def buggy(of: Any, *rest: Any, **more: Any) -> Any:
        key = of.deployment.key if isinstance(of, CreatePod) else of.key
        if key.name == "bad":
            raise KeyError("bug")
        return sound(of, *rest, **more)

    monkeypatch.setattr(execute, what, buggy)
    world.apply("bad")
    world.apply("good")
    for _ in range(4):
        await world.loop.turn()
        world.clock.advance(11)
        world.make_ready()
    await world.loop.turn()
    assert set(world.telemetry.turns) == {"ok"}
    assert world.status("good")["reason"] == "AllReady"
    assert world.get(SERVICES, "good")
    assert world.status("bad")["reason"] == "InternalError"
    assert "KeyError: 'bug'" in str(world.status("bad")["conditions"])
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("what", ["judge", "status_of"])
async def test_a_bug_in_reporting_one_leaves_the_others_reported(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sound = getattr(report, what)

    def buggy(part: Any, *rest: Any, **more: Any) -> Any:
        if part.deployment.key.name == "bad":
            raise ValueError("bug")
        return sound(part, *rest, **more)

    monkeypatch.setattr(report, what, buggy)
    world.apply("bad")
    world.apply("good")
    for _ in range(3):
        await world.loop.turn()
        world.clock.advance(11)
    assert set(world.telemetry.turns) == {"ok"}
    assert world.status("good")["ready"] == "0/1"
    assert world.status("bad") == {}
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("error", [Forbidden("a policy said no", status=403), Invalid("too long", status=422)])
async def test_a_refused_status_is_put_off_and_fails_no_turn(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.apply("bad")
    world.apply("good")
    world.api.faults["apply", "/bad/status"] = [error] * 2  # type: ignore[list-item]
    for _ in range(3):
        await world.loop.turn()
    assert set(world.telemetry.turns) == {"ok"}
    assert world.status("good")["ready"] == "0/1"
    assert len(world.api.faults["apply", "/bad/status"]) == 1
    world.clock.advance(11)
    await world.loop.turn()
    assert (world.api.faults["apply", "/bad/status"], world.status("bad")) == ([], {})
    world.clock.advance(21)
    await world.loop.turn()
    assert world.status("bad")["ready"] == "0/1"
    assert len([record for record in caplog.records if "status not written" in record.message]) == 1


async def test_the_refusal_of_a_service_ends_with_the_need_for_it(world: World) -> None:
    world.apply()
    world.api.faults["apply", "/services/m"] = [Forbidden("exceeded quota", status=403)]
    await world.loop.turn()
    assert world.status()["reason"] == "CreateRefused"
    world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"engine": {"args": {"tensor-parallel-size": "2"}}}})
    world.clock.advance(60)
    await world.loop.turn()
    assert await world.loop.turn() > 1


@pytest.mark.parametrize("kept", [{"perGPU": None}, {"stranger": "was here"}])
async def test_a_status_that_the_api_server_keeps_otherwise_is_sent_once(
    world: World, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done = world.api.apply

    async def apply(path: str, body: dict[str, Any], **rest: Any) -> dict[str, Any]:
        if not path.endswith("/status"):
            return await done(path, body, **rest)
        status = {key: value for key, value in {**body["status"], **kept}.items() if value is not None}
        return await done(path, {**body, "status": status}, **rest)

    monkeypatch.setattr(world.api, "apply", apply)
    world.apply()
    for _ in range(2):
        await world.loop.turn()
    before = _statuses(world)
    for _ in range(3):
        world.clock.advance(16)
        await world.loop.turn()
    assert _statuses(world) == before
    world.make_ready()
    await world.loop.turn()
    assert (_statuses(world), world.status()["ready"]) == (before + 1, "1/1")
    assert len([record for record in caplog.records if "keeps another status" in record.message]) == ("perGPU" in kept)


async def test_a_status_that_somebody_changed_is_put_right(world: World) -> None:
    world.apply()
    await world.loop.turn()
    world.patch(SLM_DEPLOYMENTS, "m", {"status": {"ready": "7/7"}}, "status")
    await world.loop.turn()
    assert world.status()["ready"] == "0/1"


async def test_a_pod_that_was_there_already_is_not_told_as_created(world: World) -> None:
    world.apply()
    done = world.api.create

    async def create(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if not path.endswith("/pods"):
            return await done(path, body)
        world.deaf = True
        await done(path, body)
        world.deaf = False
        raise Conflict("it exists", status=409)

    world.api.create = create  # type: ignore[method-assign]
    await world.loop.turn()
    await world.loop.turn()
    assert world.get(PODS, "m-0")
    assert "Created" not in world.events()
    assert set(world.telemetry.turns) == {"ok"}


async def test_a_write_that_hangs_is_given_up_within_the_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WRITE_SECONDS", 0.05)
    world.apply()

    async def hang(path: str) -> dict[str, Any]:
        raise AssertionError(await asyncio.sleep(60, path))

    monkeypatch.setattr(world.api, "get", hang)
    await asyncio.wait_for(world.loop.turn(), 10)
    assert world.telemetry.turns == ["failed"]
    assert "no answer within" in world.loop.trouble


async def test_a_status_without_an_answer_fails_the_turn(world: World) -> None:
    world.apply()
    world.api.faults["apply", "/status"] = [Unavailable("down")]
    await world.loop.turn()
    assert world.telemetry.turns == ["failed"]


async def test_half_a_surrogate_pair_is_one_users_problem(world: World) -> None:
    world.apply("bad", engine={"args": {"\ud800": "1"}})
    world.apply("good")
    await world.loop.turn()
    assert world.telemetry.turns == ["ok"]
    assert world.status("bad")["reason"] == "InternalError"
    assert world.status("good")["ready"] == "0/1"


async def test_a_service_that_admission_bends_is_applied_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done, applied = world.api.apply, 0

    async def apply(path: str, body: dict[str, Any], **rest: Any) -> dict[str, Any]:
        nonlocal applied
        if path.endswith("/services/m"):
            applied += 1
            body = {**body, "spec": {**body["spec"], "selector": {"bent": "by-admission"}}}
        return await done(path, body, **rest)

    monkeypatch.setattr(world.api, "apply", apply)
    world.apply()
    for _ in range(4):
        await world.loop.turn()
    assert applied == 1
    assert len([record for record in caplog.records if "kept otherwise" in record.message]) == 1
    world.patch(SERVICES, "m", {"spec": {"selector": {"bent": "by-a-stranger"}}})
    await world.loop.turn()
    assert applied == 2
