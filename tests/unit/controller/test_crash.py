"""The operator dies before or after any of its requests, and a new one carries on: nothing is lost, nothing is doubled."""

from __future__ import annotations

from typing import Any

import pytest

from slmpack.adapters.resources import PODS, SLM_DEPLOYMENTS
from tests.support.controller_world import MUTATING, Api, World


class Killed(BaseException):
    """kill -9: no handler of ours may see it."""


class MortalApi(Api):
    """Dies at its n-th write, before it or after it."""

    def __init__(self, world: World, *, at: int, done: bool) -> None:
        super().__init__(world.store)
        self.left, self.done = at, done

    def _due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def _target(self, verb: str, path: str) -> Any:
        if verb in MUTATING and not self.done and self._due():
            raise Killed
        return super()._target(verb, path)

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await super().create(path, body)
        self._after()
        return answer

    async def apply(self, path: str, body: dict[str, Any], **rest: Any) -> dict[str, Any]:
        answer = await super().apply(path, body, **rest)
        self._after()
        return answer

    async def delete(self, path: str, **rest: Any) -> None:
        await super().delete(path, **rest)
        self._after()

    def _after(self) -> None:
        if self.done and self._due():
            raise Killed


async def _turn(world: World) -> bool:
    """False if the operator died in it."""
    alive = True
    try:
        await world.loop.turn()
    except* Killed:
        alive = False
    return alive


async def _live_through(world: World) -> bool:
    """Three deployments come, one shrinks, one goes away, one changes; whether the operator survived."""
    alive = await _turn(world)
    for name in "abc":
        world.apply(name, replicas=2)
    alive = alive and await _turn(world)
    world.make_ready()
    world.patch(SLM_DEPLOYMENTS, "a", {"spec": {"replicas": 1}})
    world.patch(SLM_DEPLOYMENTS, "b", {"spec": {"engine": {"maxModelLen": 2048}}})
    for _ in range(4):
        alive = alive and await _turn(world)
        world.make_ready()
    return alive


async def _finish(world: World) -> None:
    """A new operator, and kubelets that end what is to end."""
    world.api = Api(world.store)
    world.start()
    for _ in range(10):
        await world.loop.turn()
        for name in world.pods():
            if "deletionTimestamp" in world.get(PODS, name)["metadata"]:
                world.remove(name)
        world.make_ready()
        world.clock.advance(16)
    await world.loop.turn()


@pytest.mark.parametrize("done", [False, True])
async def test_death_at_any_write_loses_and_doubles_nothing(done: bool) -> None:
    at, survived = 0, False
    while not survived:
        at += 1
        world = World()
        world.api = MortalApi(world, at=at, done=done)
        world.start()
        survived = await _live_through(world)
        await _finish(world)
        counts = {name: sum(pod.startswith(f"{name}-") for pod in world.pods()) for name in "abc"}
        assert counts == {"a": 1, "b": 2, "c": 2}, f"death at write {at}"
        assert {name: world.status(name)["reason"] for name in "abc"} == dict.fromkeys("abc", "AllReady")
    assert at > 20
