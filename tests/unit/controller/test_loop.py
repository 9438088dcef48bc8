"""Turns of the loop on the embedded store: what is written, what is not, and what a turn survives."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from slmpack.adapters.resources import PODS, SERVICES, SLM_DEPLOYMENTS
from slmpack.controller.loop import Pace, Wake
from slmpack.ports import Conflict, Forbidden, Gone, Unavailable
from tests.support.builders import POLICY
from tests.support.controller_world import World


@pytest.fixture
def world() -> World:
    return World()


async def _settle(world: World) -> None:
    for _ in range(3):
        await world.loop.turn()
        world.make_ready()
    await world.loop.turn()
    await world.loop.turn()


async def test_an_slmdeployment_becomes_pods_and_a_service(world: World) -> None:
    world.apply(replicas=2)
    await world.loop.turn()
    assert set(world.pods()) == {"m-0", "m-1"}
    assert world.status()["ready"] == "0/2"
    world.make_ready()
    await world.loop.turn()
    status = world.status()
    assert (status["ready"], status["reason"], status["gpu"]) == ("2/2", "AllReady", "NVIDIA-A100-SXM4-80GB")
    assert world.get(SERVICES, "m")["metadata"]["ownerReferences"][0]["controller"] is True
    assert sorted(world.events()) == ["AllReady", "Created", "Created", "Starting"]


async def test_an_unchanged_world_is_not_written_to(world: World) -> None:
    world.apply(replicas=2)
    await _settle(world)
    before = len(world.api.writes())
    for _ in range(100):
        world.clock.advance(15)
        await world.loop.turn()
    assert world.api.writes()[before:] == []


async def test_a_turn_sees_what_the_one_before_has_written(world: World) -> None:
    await world.loop.turn()
    world.apply(replicas=2)
    await world.loop.turn()
    world.deaf = True
    await world.loop.turn()
    await world.loop.turn()
    assert [path for verb, path in world.api.writes() if verb == "create" and path.endswith("/pods")] == [
        "/api/v1/namespaces/default/pods"
    ] * 2


@pytest.mark.parametrize("change", [{"policy": replace(POLICY, render_version="2")}, {"bundled": False}])
async def test_a_restart_writes_to_no_pod(world: World, change: dict[str, object]) -> None:
    world.apply(replicas=2)
    await _settle(world)
    before, pods = len(world.api.writes()), world.pods()
    world.start(**change)  # type: ignore[arg-type]
    await world.loop.turn()
    await world.loop.turn()
    assert world.pods() == pods
    assert not [path for _, path in world.api.writes()[before:] if "/pods" in path]


async def test_a_missed_deletion_is_noticed_by_counting(world: World) -> None:
    world.apply(replicas=2)
    await _settle(world)
    world.deaf = True
    world.remove("m-1")
    for _ in range(2):
        world.clock.advance(16)
        await world.loop.turn()
    assert set(world.pods()) == {"m-0", "m-1"}


async def test_what_a_watch_starts_with_makes_us_count(world: World) -> None:
    world.apply(replicas=2)
    await _settle(world)
    world.deaf = True
    world.remove("m-1")
    assert world.observer.handle(PODS, None, world.get(PODS, "m-0"))
    await world.loop.turn()
    assert set(world.pods()) == {"m-0", "m-1"}


async def test_a_lost_answer_doubles_nothing(world: World) -> None:
    await world.loop.turn()
    world.apply(replicas=1)
    done = world.api.create

    async def lose(path: str, body: dict[str, object]) -> dict[str, object]:
        await done(path, body)
        world.api.create = done  # type: ignore[method-assign]
        raise Unavailable("the answer got lost")

    world.deaf = True
    world.observer.suspect(SLM_DEPLOYMENTS)
    world.api.create = lose  # type: ignore[method-assign]
    await world.loop.turn()
    await world.loop.turn()
    assert set(world.pods()) == {"m-0"}
    assert world.telemetry.turns[-2:] == ["failed", "ok"]


async def test_a_failed_turn_backs_off_and_says_so(world: World) -> None:
    world.observer.suspect()
    world.api.faults["list", "/nodes"] = [Unavailable("down")] * 8
    pauses = [await world.loop.turn() for _ in range(8)]
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert "8 turns failed: down" in world.loop.trouble
    await world.loop.turn()
    assert (world.loop.trouble, world.loop.stands_by) == ("", False)


async def test_no_plan_is_made_before_every_list_is_in(world: World) -> None:
    world.apply()
    world.api.faults["list", "/pods"] = [Gone("expired")]
    await world.loop.turn()
    assert world.api.writes() == []


async def test_every_plan_is_shown_with_what_it_was_made_of_and_a_standby_has_none(world: World) -> None:
    world.apply()
    world.leader.held = False
    await world.loop.turn()
    assert world.seen == []
    world.leader.held = True
    await world.loop.turn()
    ((plan, snapshot),) = world.seen
    assert [part.deployment.key.name for part in plan.deployments] == ["m"]
    assert [view.key.name for view in snapshot.deployments] == ["m"]


async def test_a_standby_reads_and_writes_nothing(world: World) -> None:
    world.apply()
    world.leader.held = False
    await world.loop.turn()
    assert world.api.writes() == []
    assert (world.loop.trouble, world.loop.stands_by) == ("standby: held by another", True)
    world.loop.put_off("no answer")
    assert (world.loop.trouble, world.loop.stands_by) == ("not started yet: no answer", False), "nobody knows yet"
    assert world.telemetry.turns == ["standby"]
    world.leader.held = True
    await world.loop.turn()
    assert set(world.pods()) == {"m-0"}


async def test_a_refused_pod_is_reported_and_not_asked_for_again_at_once(world: World) -> None:
    world.apply(replicas=1)
    world.api.faults["create", "/pods"] = [Forbidden("exceeded quota: small", status=403)]
    await world.loop.turn()
    assert world.status()["reason"] == "CreateRefused"
    assert "exceeded quota: small" in str(world.status()["conditions"])
    await world.loop.turn()
    assert world.pods() == {}
    assert world.status()["reason"] == "CreateRefused"
    world.clock.advance(11)
    await world.loop.turn()
    assert set(world.pods()) == {"m-0"}


async def test_what_the_scheduler_refuses_is_made_again_after_a_growing_pause(world: World) -> None:
    world.apply(replicas=1)
    await world.loop.turn()
    for pause in (10, 20, 40):
        (name,) = world.pods()
        why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
        world.patch(PODS, name, {"status": {"conditions": [why]}}, subresource="status")
        world.clock.advance(61)
        await world.loop.turn()
        await world.loop.turn()
        assert (world.pods(), world.status()["reason"]) == ({}, "Unschedulable")
        world.clock.advance(pause - 1)
        await world.loop.turn()
        assert world.pods() == {}
        world.clock.advance(1)
        await world.loop.turn()
        assert len(world.pods()) == 1


async def test_a_changed_spec_is_tried_at_once(world: World) -> None:
    world.apply(replicas=1)
    world.api.faults["create", "/pods"] = [Forbidden("a policy said no", status=403)]
    await world.loop.turn()
    world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"engine": {"maxModelLen": 2048}}})
    await world.loop.turn()
    assert set(world.pods()) == {"m-0"}


async def test_a_foreign_pod_of_the_same_name_is_passed_over(world: World) -> None:
    foreign = {"metadata": {"name": "m-0", "namespace": "default"}, "spec": {"containers": [{"name": "c"}]}}
    world.store.create(world.store.registry.parse(PODS.path(namespace="default")), foreign)
    world.apply(replicas=1)
    await world.loop.turn()
    assert set(world.pods()) == {"m-0", "m-1"}
    assert "ownerReferences" not in world.get(PODS, "m-0")["metadata"]


async def test_a_foreign_service_is_left_alone(world: World) -> None:
    spec = {"ports": [{"port": 1}]}
    foreign = {"metadata": {"name": "m", "namespace": "default"}, "spec": spec}
    world.store.create(world.store.registry.parse(SERVICES.path(namespace="default")), foreign)
    world.apply()
    await world.loop.turn()
    assert world.status()["reason"] == "NameConflict"
    assert world.get(SERVICES, "m")["spec"]["ports"][0]["port"] == 1


async def test_what_a_deleted_namesake_has_left_is_tried_again_soon_however_long_it_stays(world: World) -> None:
    foreign = {"metadata": {"name": "m", "namespace": "default"}, "spec": {"ports": [{"port": 1}]}}
    target = world.store.registry.parse(SERVICES.path(namespace="default"))
    world.store.create(target, foreign)
    world.apply()
    for _ in range(4):
        await world.loop.turn()
        assert world.status()["reason"] == "NameConflict"
        world.clock.advance(10)
    world.store.delete(world.store.registry.parse(SERVICES.path(namespace="default", name="m")))
    await world.loop.turn()
    assert world.get(SERVICES, "m")["spec"]["selector"]["slmpack.dev/name"] == "m"


async def test_a_service_that_somebody_changed_is_put_right(world: World) -> None:
    world.apply()
    await _settle(world)
    world.patch(SERVICES, "m", {"spec": {"selector": {"app": "other"}}})
    await world.loop.turn()
    assert world.get(SERVICES, "m")["spec"]["selector"]["slmpack.dev/name"] == "m"


async def test_a_status_that_could_not_be_written_is_written_later(world: World) -> None:
    world.apply()
    world.api.faults["apply", "/status"] = [Unavailable("down")]
    await world.loop.turn()
    assert world.status() == {}
    await world.loop.turn()
    assert world.status()["ready"] == "0/1"


async def test_a_deployment_that_is_deleted_meanwhile_is_no_failure(world: World) -> None:
    world.apply()
    world.api.faults["apply", "/status"] = [Conflict("uid", status=409)]
    await world.loop.turn()
    assert world.telemetry.turns == ["ok"]


async def test_a_restart_repeats_no_event(world: World) -> None:
    world.apply()
    await _settle(world)
    before = world.events()
    world.start()
    await world.loop.turn()
    assert world.events() == before


async def test_a_broken_spec_freezes_what_runs(world: World) -> None:
    world.apply(replicas=2)
    await _settle(world)
    pods = world.pods()
    world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"engine": {"args": {"tensor-parallel-size": "2"}}}})
    await world.loop.turn()
    assert world.pods() == pods
    assert world.status()["reason"] == "InvalidSpec"


async def test_fewer_replicas_end_the_surplus(world: World) -> None:
    world.apply(replicas=2)
    await _settle(world)
    world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"replicas": 1}})
    await world.loop.turn()
    living = [name for name in world.pods() if "deletionTimestamp" not in world.get(PODS, name)["metadata"]]
    assert living == ["m-0"]
    assert "ScaledDown" in world.events()


async def test_wakes_that_come_together_are_one() -> None:
    wake = Wake(Pace(idle=0.01, longest=0.05))
    loop = asyncio.get_running_loop()
    for step in range(4):
        loop.call_later(step * 0.004, wake.set)
    await wake.wait(5)
    started = loop.time()
    await wake.wait(0.02)
    assert loop.time() - started >= 0.015


async def test_a_steady_stream_of_wakes_does_not_hold_the_loop_up() -> None:
    wake = Wake(Pace(idle=0.02, longest=0.06))
    loop = asyncio.get_running_loop()
    for step in range(100):
        loop.call_later(step * 0.005, wake.set)
    started = loop.time()
    await wake.wait(5)
    assert loop.time() - started < 0.3


async def test_a_pod_that_is_late_is_ended_once(world: World) -> None:
    world.apply(replicas=1)
    await world.loop.turn()
    world.patch(PODS, "m-0", {"spec": {"nodeName": "a100"}})
    world.clock.advance(601)
    await world.loop.turn()
    assert world.get(PODS, "m-0")["spec"]["activeDeadlineSeconds"] == 1
    before = len(world.api.writes())
    await world.loop.turn()
    assert not [path for _, path in world.api.writes()[before:] if "/pods/" in path]


async def test_while_news_comes_in_pods_come_first_and_status_a_little_later(world: World) -> None:
    world.apply("a")
    world.wake.set()
    await world.loop.turn()
    assert set(world.pods()) == {"a-0"}
    assert (world.status("a"), world.events()) == ({}, [])
    world.apply("b")
    await world.wake.wait(0)
    await world.loop.turn()
    assert set(world.pods()) == {"a-0", "b-0"}
    assert (world.status("a")["ready"], world.status("b")["ready"]) == ("0/1", "0/1")
    assert world.events().count("Created") == 2


async def test_status_is_not_put_off_for_ever(world: World) -> None:
    world.apply()
    world.wake.set()
    await world.loop.turn()
    assert world.status() == {}
    world.clock.advance(2)
    world.wake.set()
    await world.loop.turn()
    assert world.status()["ready"] == "0/1"
    assert world.events().count("Created") == 1
