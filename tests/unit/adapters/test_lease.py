"""The Lease on the embedded store: one holder, take-over after silence, and no holding beyond the last renewal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slmpack.adapters import lease as module
from slmpack.adapters.lease import (
    DURATION_SECONDS,
    RENEW_SECONDS,
    SLACK_SECONDS,
    STEP_SECONDS,
    WRITE_SECONDS,
    LeaseLock,
)
from slmpack.devcluster.client import StoreApi
from slmpack.devcluster.store import Store
from slmpack.ports import Unavailable
from tests.support.fake_clock import FakeClock


class Api(StoreApi):
    """With PUT, and an API server that can be down."""

    down = False

    async def get(self, path: str) -> dict[str, Any]:
        if self.down:
            raise Unavailable("down")
        return await super().get(path)

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._copy(self._store.replace(self._target("replace", path), body))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def api(clock: FakeClock) -> Api:
    return Api(Store(clock=clock.now))


def _lock(api: Api, clock: FakeClock, identity: str) -> LeaseLock:
    return LeaseLock(api, namespace="default", name="slmpack", identity=identity, clock=clock)


async def test_the_first_gets_it_and_the_second_waits(api: Api, clock: FakeClock) -> None:
    one, two = _lock(api, clock, "one"), _lock(api, clock, "two")
    assert await one.step()
    assert not await two.step()
    assert (one.held, two.held) == (True, False)
    assert two.holder == "held by one"


async def test_a_silent_holder_is_replaced_only_after_its_whole_duration(api: Api, clock: FakeClock) -> None:
    one, two = _lock(api, clock, "one"), _lock(api, clock, "two")
    await one.step()
    await two.step()
    clock.advance(DURATION_SECONDS - 0.1)
    assert not await two.step()
    clock.advance(0.2)
    assert await two.step()
    assert not one.held
    assert not await one.step()


async def test_a_renewal_starts_the_wait_anew(api: Api, clock: FakeClock) -> None:
    one, two = _lock(api, clock, "one"), _lock(api, clock, "two")
    await one.step()
    await two.step()
    clock.advance(DURATION_SECONDS - 5)
    await one.step()
    clock.advance(10)
    assert not await two.step()


async def test_what_is_not_renewed_is_not_held_before_others_may_take_it(api: Api, clock: FakeClock) -> None:
    one = _lock(api, clock, "one")
    await one.step()
    api.down = True
    clock.advance(DURATION_SECONDS - WRITE_SECONDS)
    with pytest.raises(Unavailable):
        await one.step()
    assert not one.held


async def test_a_released_lease_is_free_at_once(api: Api, clock: FakeClock) -> None:
    one, two = _lock(api, clock, "one"), _lock(api, clock, "two")
    await one.step()
    await one.release()
    assert not one.held
    assert await two.step()
    lease = await api.get("/apis/coordination.k8s.io/v1/namespaces/default/leases/slmpack")
    assert lease["spec"]["holderIdentity"] == "two"


async def test_releasing_without_an_answer_raises_nothing(api: Api, clock: FakeClock) -> None:
    one = _lock(api, clock, "one")
    await one.step()
    api.down = True
    await one.release()
    assert not one.held


def test_the_last_write_has_ended_before_another_may_take_the_lease() -> None:
    assert WRITE_SECONDS < SLACK_SECONDS
    two_tries = 2 * (RENEW_SECONDS + STEP_SECONDS) - RENEW_SECONDS
    assert two_tries < DURATION_SECONDS - SLACK_SECONDS


async def test_a_restarted_holder_takes_its_lease_at_once(api: Api, clock: FakeClock) -> None:
    await _lock(api, clock, "the-pod").step()
    again = _lock(api, clock, "the-pod")
    assert await again.step()
    assert again.held


async def test_a_renewal_that_hangs_is_given_up(api: Api, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    asked, twice = 0, asyncio.Event()

    async def hang(_: str) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 2:
            twice.set()
        await asyncio.sleep(60)
        return {}

    monkeypatch.setattr(api, "get", hang)
    lock = _lock(api, clock, "one")
    running = asyncio.create_task(lock.run(lambda: None))
    await asyncio.wait_for(twice.wait(), 10)
    running.cancel()
    assert lock.holder == "no answer within 0.01 s"
