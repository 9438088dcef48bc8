"""The Lease on the embedded store: one holder, take-over after silence, and no holding beyond the last renewal."""

from __future__ import annotations

from typing import Any

import pytest

from slmpack.adapters.lease import DURATION_SECONDS, LeaseLock
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
    clock.advance(DURATION_SECONDS - 2)
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
