"""The key of packs: made once, by whoever is first, and never seen."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Any

import pytest

from slmpack.adapters.pack_key import PackKey
from slmpack.ports import Conflict, Invalid, NotFound, Unavailable

PATH = "/api/v1/namespaces/system/secrets/slmpack-pack-key"


class Api:
    """One Secret."""

    def __init__(self, secret: dict[str, Any] | None = None) -> None:
        self.secret = secret
        self.asked: list[str] = []
        self.rival: dict[str, Any] | None = None

    async def get(self, path: str) -> dict[str, Any]:
        assert path == PATH
        self.asked.append("get")
        await asyncio.sleep(0)
        if self.secret is None:
            raise NotFound("404")
        return self.secret

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == PATH.rpartition("/")[0]
        self.asked.append("create")
        if self.rival is not None:
            self.secret = self.rival
            raise Conflict("409")
        self.secret = body
        return body


def _secret(key: bytes) -> dict[str, Any]:
    return {"data": {"key": base64.b64encode(key).decode()}}


async def test_it_is_made_once_and_every_token_comes_from_it() -> None:
    api = Api()
    key = PackKey(api, namespace="system")
    hashes = await asyncio.gather(*(key.token_hash(owner_uid="o", pod=f"m-{number}") for number in range(5)))
    assert len(set(hashes)) == 5
    assert api.asked == ["get", "create"]
    assert api.secret is not None
    assert api.secret["metadata"] == {"name": "slmpack-pack-key", "namespace": "system"}
    made = base64.b64decode(api.secret["data"]["key"])
    assert len(made) == 32
    token = await key.token(owner_uid="o", pod="m-3")
    assert token == hmac.new(made, b"o/m-3", hashlib.sha256).hexdigest()
    assert hashlib.sha256(token.encode()).hexdigest() == hashes[3]
    assert api.asked == ["get", "create"], "it is read once"


async def test_another_operator_gets_the_same() -> None:
    api = Api(_secret(bytes(range(32))))
    one, other = (PackKey(api, namespace="system") for _ in range(2))
    assert await one.token(owner_uid="o", pod="m-0") == await other.token(owner_uid="o", pod="m-0")
    assert await one.token(owner_uid="o", pod="m-0") != await one.token(owner_uid="p", pod="m-0")
    assert api.asked == ["get", "get"]


async def test_who_loses_the_race_takes_the_winners() -> None:
    api = Api()
    api.rival = _secret(b"r" * 32)
    key = PackKey(api, namespace="system")
    await key.token_hash(owner_uid="o", pod="m-0")
    assert api.asked == ["get", "create", "get"]
    assert await key.token(owner_uid="o", pod="m-0") == hmac.new(b"r" * 32, b"o/m-0", hashlib.sha256).hexdigest()


async def test_asking_for_a_pod_that_exists_makes_no_key() -> None:
    api = Api()
    key = PackKey(api, namespace="system")
    with pytest.raises(NotFound):
        await key.token(owner_uid="o", pod="m-0")
    assert api.asked == ["get"]


@pytest.mark.parametrize("data", [None, {}, {"key": ""}, {"key": "***"}, {"key": "c2hvcnQ="}, {"other": "x"}])
async def test_a_key_that_is_none_is_said_without_what_it_holds(data: dict[str, str] | None) -> None:
    api = Api({"data": data})
    with pytest.raises(Invalid, match=r"data\.key is not 32 bytes") as caught:
        await PackKey(api, namespace="system").token_hash(owner_uid="o", pod="m-0")
    assert "c2hvcnQ" not in str(caught.value)


async def test_an_api_server_without_an_answer_is_asked_again() -> None:
    class Down(Api):
        async def get(self, path: str) -> dict[str, Any]:
            if not self.asked:
                self.asked.append("lost")
                raise Unavailable("down")
            return await super().get(path)

    key = PackKey(Down(_secret(b"k" * 32)), namespace="system")
    with pytest.raises(Unavailable):
        await key.token(owner_uid="o", pod="m-0")
    assert await key.token(owner_uid="o", pod="m-0")
