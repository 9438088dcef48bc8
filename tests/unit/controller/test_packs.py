"""Packs in the loop on the embedded store: what is made for one, what its supervisor is told, and what a turn survives."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from slmpack.adapters.resources import ENDPOINT_SLICES, PODS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS, SLM_DEPLOYMENTS
from slmpack.domain.plan import CreatePod, DeletePod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Problem, Reason
from slmpack.ports import Forbidden, Unavailable
from tests.support.builders import POLICY
from tests.support.controller_world import Api, World
from tests.unit.controller.test_crash import Killed, MortalApi

WITH_PACKS = replace(POLICY, supervisor_image="registry.example/slmpack:1")
PACK = {"mode": "MPSPack", "maxPerGPU": 3}


@pytest.fixture
def world() -> World:
    found = World()
    found.start(policy=WITH_PACKS)
    return found


def _play(world: World, *, ready: bool = True) -> None:
    """Kubelets: every pod runs and has an address, and its supervisor answers."""
    now = world.clock.now().isoformat()
    for name, uid in world.pods().items():
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": now}]
        status = {"phase": "Running", "startTime": now, "podIP": "10.0.0.7", "conditions": conditions}
        world.patch(PODS, name, {"status": status}, "status")
        env = world.get(PODS, name)["spec"]["containers"][0]["env"]
        settings = json.loads(next(variable["value"] for variable in env if variable["name"] == "SLMPACK_PACK"))
        world.packs.running.setdefault(uid, tuple(settings["running"]))


async def _settle(world: World) -> None:
    for _ in range(3):
        await world.loop.turn()
        _play(world)
    for _ in range(2):
        world.clock.advance(16)
        await world.loop.turn()


def _made(world: World, since: int = 0) -> list[str]:
    """What was POSTed beside events, in order, by its plural."""
    paths = [path.rpartition("/")[2] for verb, path in world.api.writes()[since:] if verb == "create"]
    return [plural for plural in paths if plural != "events"]


def _slices(world: World) -> list[str]:
    items = world.store.items(world.store.registry.parse(ENDPOINT_SLICES.path()))
    return [item["metadata"]["name"] for item in items]


def _delete(world: World, resource: Any, name: str) -> None:
    world.store.delete(world.store.registry.parse(resource.path(namespace="default", name=name)))


def _running(world: World, name: str = "m-0") -> str:
    found: str = world.get(PODS, name)["metadata"]["annotations"]["slmpack.dev/running"]
    return found


def _scale(world: World, replicas: int) -> None:
    world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"replicas": replicas}})


async def test_a_pack_has_its_account_before_and_its_slices_after_it_has_an_address(world: World) -> None:
    world.apply(replicas=3, sharing=PACK)
    await world.loop.turn()
    assert _made(world) == ["serviceaccounts", "pods"]
    pod = world.get(PODS, "m-0")
    account = world.get(SERVICE_ACCOUNTS, pod["spec"]["serviceAccountName"])
    assert account["metadata"]["ownerReferences"] == pod["metadata"]["ownerReferences"]
    (env,) = [it["value"] for it in pod["spec"]["containers"][0]["env"] if it["name"] == "SLMPACK_PACK"]
    hashed = await world.packs.token_hash(owner_uid=pod["metadata"]["ownerReferences"][0]["uid"], pod="m-0")
    assert json.loads(env)["tokenSHA256"] == hashed
    await world.loop.turn()
    assert len(_made(world)) == 2
    _play(world, ready=False)
    await world.loop.turn()
    assert _made(world)[2:] == ["roles", "rolebindings", *["endpointslices"] * 3]
    assert _slices(world) == ["m-0-e0", "m-0-e1", "m-0-e2"]
    owner = world.get(ENDPOINT_SLICES, "m-0-e1")["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Pod", pod["metadata"]["uid"])
    assert world.get(ROLE_BINDINGS, "m-0-pack")["subjects"][0]["name"] == account["metadata"]["name"]


async def test_an_unchanged_pack_is_not_written_to_and_neither_after_a_restart(world: World) -> None:
    world.apply(replicas=3, sharing=PACK)
    await _settle(world)
    assert world.status()["ready"] == "3/3"
    before = len(world.api.writes())
    for _ in range(5):
        world.clock.advance(16)
        await world.loop.turn()
    world.start(policy=WITH_PACKS)
    for _ in range(3):
        world.clock.advance(16)
        await world.loop.turn()
    assert world.api.writes()[before:] == []
    assert world.packs.told == []


async def test_what_a_supervisor_writes_wakes_nobody_and_a_deleted_slice_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(replicas=2, sharing=PACK)
    await _settle(world)
    before = len(world.api.writes())
    woken: list[bool] = []
    sound = world.observer.handle
    monkeypatch.setattr(world.observer, "handle", lambda *given: woken.append(sound(*given)))
    world.patch(ENDPOINT_SLICES, "m-0-e1", {"endpoints": [{"addresses": ["10.0.0.7"]}]})
    await world.loop.turn()
    assert (woken, world.api.writes()[before:]) == ([False], [])
    _delete(world, ENDPOINT_SLICES, "m-0-e1")
    assert woken == [False, True]
    _delete(world, ROLES, "m-0-pack")
    await world.loop.turn()
    assert {"m-0-e0", "m-0-e1"} <= set(_slices(world))
    assert world.get(ROLES, "m-0-pack")


async def test_the_control_planes_own_slices_are_not_taken_for_ours(world: World) -> None:
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    labels = {"slmpack.dev/name": "m", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    meta = {"name": "m-0-e0", "namespace": "default", "labels": labels}
    world.store.create(world.store.registry.parse(ENDPOINT_SLICES.path(namespace="default")), {"metadata": meta})
    _play(world)
    assert len(world.observer.bare_packs()) == 1
    await world.loop.turn()
    _delete(world, ENDPOINT_SLICES, "m-0-e0")
    world.clock.advance(16)
    await world.loop.turn()
    assert world.get(ENDPOINT_SLICES, "m-0-e0")["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == (
        "slmpack.dev"
    )


async def test_fewer_and_more_engines_are_recorded_then_told_and_said(world: World) -> None:
    world.apply(replicas=3, sharing=PACK)
    await _settle(world)
    uid = world.pods()["m-0"]
    before = len(world.api.writes())
    _scale(world, 1)
    await world.loop.turn()
    (kept,) = world.packs.running[uid]
    assert _running(world) == str(kept)
    assert world.packs.told == [(uid, (kept,))]
    assert [path for verb, path in world.api.writes()[before:] if path.endswith("/pods/m-0")] == [
        "/api/v1/namespaces/default/pods/m-0"
    ]
    _scale(world, 2)
    for _ in range(3):
        world.clock.advance(16)
        await world.loop.turn()
    assert len(world.packs.running[uid]) == 2
    assert kept in world.packs.running[uid]
    assert (world.status()["ready"], list(world.pods())) == ("2/2", ["m-0"])
    assert world.events().count("ScaledDown") == 1
    assert world.events().count("ScaledUp") == 1
    events = world.store.items(world.store.registry.parse("/apis/events.k8s.io/v1/events"))
    (told,) = [event for event in events if event["reason"] == "ScaledUp"]
    assert (told["type"], told["action"], told["related"]["name"]) == ("Normal", "SetEngines", "m-0")
    assert told["note"].startswith(f"m-0 is to run engines {', '.join(map(str, world.packs.running[uid]))}: ")
    assert set(world.telemetry.turns) == {"ok"}


async def test_a_supervisor_that_does_not_answer_is_told_again_and_fails_no_turn(world: World) -> None:
    world.apply(replicas=2, sharing=PACK)
    await _settle(world)
    uid = world.pods()["m-0"]
    world.packs.away = True
    _scale(world, 1)
    for _ in range(3):
        await world.loop.turn()
    recorded = _running(world)
    patches = [path for verb, path in world.api.writes() if verb == "patch" and path.endswith("/pods/m-0")]
    assert (len(patches), len(world.packs.told)) == (1, 3)
    assert world.events().count("ScaledDown") == 1
    world.packs.away = False
    await world.loop.turn()
    assert world.packs.running[uid] == (int(recorded),)
    await world.loop.turn()
    assert len(world.packs.told) == 4
    assert set(world.telemetry.turns) == {"ok"}


async def test_a_record_that_is_refused_is_said_and_nobody_is_told(world: World) -> None:
    world.apply(replicas=2, sharing=PACK)
    await _settle(world)
    world.api.faults["patch", "/pods/m-0"] = [Forbidden("a policy said no", status=403)] * 2
    _scale(world, 1)
    for _ in range(3):
        await world.loop.turn()
    assert world.packs.told == []
    assert len(world.api.faults["patch", "/pods/m-0"]) == 1, "it is not asked again before its back-off has passed"
    assert world.status()["reason"] == "CreateRefused"
    world.clock.advance(60)
    await world.loop.turn()
    world.clock.advance(60)
    await world.loop.turn()
    assert len(world.packs.told) == 1


async def test_a_pod_of_the_same_name_is_not_told_what_another_was_to_run(world: World) -> None:
    world.apply(replicas=2, sharing=PACK)
    await _settle(world)
    world.deaf = True
    world.remove("m-0")
    _scale(world, 1)
    world.deaf = False
    world.observer.handle(SLM_DEPLOYMENTS, "MODIFIED", world.get(SLM_DEPLOYMENTS, "m"))
    await world.loop.turn()
    assert world.packs.told == []
    await world.loop.turn()
    assert set(world.telemetry.turns) == {"ok"}
    assert {"CreateRefused", "NameConflict"}.isdisjoint(world.events())


async def test_a_users_own_account_is_used_and_none_is_made(world: World) -> None:
    world.apply(replicas=1, sharing=PACK, pod={"serviceAccountName": "mine"})
    await _settle(world)
    assert "serviceaccounts" not in _made(world)
    assert world.get(ROLE_BINDINGS, "m-0-pack")["subjects"][0]["name"] == "mine"


async def test_an_account_of_somebody_else_is_a_name_conflict_and_no_pod_is_made(world: World) -> None:
    meta = {"name": "m-pack", "namespace": "default"}
    world.store.create(world.store.registry.parse(SERVICE_ACCOUNTS.path(namespace="default")), {"metadata": meta})
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    assert world.pods() == {}
    assert world.status()["reason"] == "NameConflict"
    assert "m-pack" in str(world.status()["conditions"])


async def test_a_key_that_may_not_be_read_is_said_and_no_pod_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*, owner_uid: str, pod: str) -> str:
        raise Forbidden("secrets is forbidden", status=403)

    monkeypatch.setattr(world.packs, "token_hash", refuse)
    world.apply("one", replicas=1, sharing=PACK)
    world.apply("other", replicas=1)
    await world.loop.turn()
    assert list(world.pods()) == ["other-0"]
    assert world.status("one")["reason"] == "CreateRefused"
    assert "secrets is forbidden" in str(world.status("one")["conditions"])


async def test_what_an_earlier_pod_has_left_is_waited_for_once_and_then_told(world: World) -> None:
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    _play(world)
    left = [{"apiVersion": "v1", "kind": "Pod", "name": "m-0", "uid": "earlier", "controller": True}]
    meta = {"name": "m-0-pack", "namespace": "default", "ownerReferences": left}
    await world.api.create(ROLES.path(namespace="default"), {"metadata": meta, "rules": []})
    await world.loop.turn()
    assert world.status()["reason"] != "NameConflict"
    assert _slices(world) == []
    await world.loop.turn()
    assert world.status()["reason"] == "NameConflict"
    _delete(world, ROLES, "m-0-pack")
    world.clock.advance(16)
    await world.loop.turn()
    assert len(_slices(world)) == 3
    await world.loop.turn()
    assert world.status()["reason"] == "AllReady"


@pytest.mark.parametrize("at", ["/roles", "/rolebindings", "/endpointslices"])
async def test_a_refused_part_is_said_and_tried_again_later(world: World, at: str) -> None:
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    _play(world)
    world.api.faults["create", at] = [Forbidden("a policy said no", status=403)] * 2
    await world.loop.turn()
    assert (world.status()["reason"], _slices(world)) == ("CreateRefused", [])
    await world.loop.turn()
    assert len(world.api.faults["create", at]) == 1
    for _ in range(3):
        world.clock.advance(60)
        await world.loop.turn()
    assert (world.status()["reason"], len(_slices(world))) == ("AllReady", 3)


async def test_the_refusal_of_a_part_ends_with_the_need_for_it(world: World) -> None:
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    _play(world)
    world.api.faults["create", "/roles"] = [Forbidden("a policy said no", status=403)]
    await world.loop.turn()
    world.remove("m-0")
    _scale(world, 0)
    await world.loop.turn()
    assert world.loop._parts.executor.next_retry is None


async def test_a_part_without_an_answer_fails_the_turn_and_is_made_in_the_next(world: World) -> None:
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    _play(world)
    world.api.faults["create", "/endpointslices"] = [Unavailable("down")]
    await world.loop.turn()
    assert world.telemetry.turns[-1] == "failed"
    await world.loop.turn()
    assert (world.telemetry.turns[-1], len(_slices(world))) == ("ok", 3)


async def test_no_write_of_several_is_begun_after_the_lease_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = world.api.create

    async def lose(path: str, body: dict[str, Any]) -> dict[str, Any]:
        world.leader.held = False
        return await sound(path, body)

    world.apply(replicas=1, sharing=PACK)
    with monkeypatch.context() as patch:
        patch.setattr(world.api, "create", lose)
        await world.loop.turn()
    assert (_made(world), world.pods()) == (["serviceaccounts"], {})
    world.leader.held = True
    await world.loop.turn()
    _play(world)
    with monkeypatch.context() as patch:
        patch.setattr(world.api, "create", lose)
        await world.loop.turn()
    assert _made(world)[-1] == "roles"
    world.leader.held = True
    await world.loop.turn()
    assert len(_slices(world)) == 3


async def test_nothing_is_made_for_a_pack_that_is_going_away(world: World) -> None:
    world.apply(replicas=1, sharing=PACK)
    await world.loop.turn()
    _play(world)
    _delete(world, PODS, "m-0")
    before = len(world.api.writes())
    await world.loop.turn()
    assert not {"roles", "endpointslices"} & set(_made(world, before))


async def test_without_a_supervisor_image_packs_run_on_and_get_nothing_new(world: World) -> None:
    world.apply(replicas=2, sharing=PACK)
    await _settle(world)
    _delete(world, ROLES, "m-0-pack")
    pods, before = world.pods(), len(world.api.writes())
    world.start()
    for _ in range(3):
        world.clock.advance(16)
        await world.loop.turn()
    assert world.pods() == pods
    assert _made(world, before) == []
    assert not [path for verb, path in world.api.requests[-20:] if "endpointslices" in path]
    assert world.status()["ready"] == "2/2"


async def _lives_through(world: World) -> bool:
    """A pack is made, furnished and scaled down; whether the operator survived."""
    alive = True
    try:
        for replicas in (3, 1, 1):
            await world.loop.turn()
            _play(world)
            _scale(world, replicas)
    except* Killed:
        alive = False
    return alive


@pytest.mark.parametrize("done", [False, True])
async def test_death_at_any_write_leaves_no_pack_without_its_parts(done: bool) -> None:
    at, survived = 0, False
    while not survived:
        at += 1
        world = World()
        world.api = MortalApi(world, at=at, done=done)
        world.start(policy=WITH_PACKS)
        world.apply(replicas=3, sharing=PACK)
        survived = await _lives_through(world)
        world.api = Api(world.store)
        world.start(policy=WITH_PACKS)
        _scale(world, 1)
        for _ in range(5):
            await world.loop.turn()
            _play(world)
            world.clock.advance(16)
        uid = world.pods()["m-0"]
        assert list(world.pods()) == ["m-0"], f"death at write {at}"
        assert (len(_slices(world)), len(world.packs.running[uid])) == (3, 1), f"death at write {at}"
        assert world.get(ROLES, "m-0-pack")
        assert world.get(ROLE_BINDINGS, "m-0-pack")
        assert world.status()["reason"] == "AllReady"
    assert at > 8


async def test_a_plan_is_written_in_its_order_however_it_is_given(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(replicas=2, sharing=PACK)
    await _settle(world)
    world.apply("n", replicas=1, sharing={"mode": "MIG"})
    await world.observer.refresh()
    plan = plan_cluster(world.observer.snapshot(), WITH_PACKS)
    (create,) = [action for action in plan.actions if isinstance(action, CreatePod)]
    (pod,) = [pod for pod in world.observer.snapshot().pods if pod.record is not None]
    assert pod.record is not None
    problem = Problem(reason=Reason.SCALED_DOWN, message="fewer are wanted")
    about: dict[str, Any] = {"pod": pod.key, "uid": pod.uid, "deployment": pod.record.deployment, "problem": problem}
    tell = SetEngines(running=(0,), recorded=False, **about)
    delete = DeletePod(spec_hash="", **about)
    done: list[str] = []

    def note(verb: str) -> None:
        sound = getattr(world.api, verb)

        async def call(path: str, *rest: Any, **more: Any) -> Any:
            await asyncio.sleep(0)
            done.append(verb)
            return await sound(path, *rest, **more)

        monkeypatch.setattr(world.api, verb, call)

    for verb in ("create", "patch", "delete"):
        note(verb)
    await world.loop._parts.executor.execute(replace(plan, actions=(create, tell, delete)))
    assert done == ["delete", "patch", "create"]
