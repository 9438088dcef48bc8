"""How the operator proves to a pack's supervisor who it is: one key in a Secret, and from it a token for each pod.

The token is the same after every restart, so nothing has to be remembered; the pod's spec holds only its hash.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Protocol

from slmpack.adapters.resources import SECRETS
from slmpack.permissions import PACK_KEY
from slmpack.ports import Conflict, Invalid, NotFound

__all__ = ["KEY_BYTES", "KeyClient", "PackKey", "token_of"]

logger = logging.getLogger(__name__)

KEY_BYTES = 32
FIELD = "key"


class KeyClient(Protocol):
    """What the key needs; `KubeClient` is one."""

    async def get(self, path: str) -> dict[str, Any]:
        """One object."""
        ...

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST."""
        ...


class PackKey:
    """The key, read once and kept; whoever comes first makes it."""

    def __init__(self, client: KeyClient, *, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._key: bytes | None = None
        self._reading = asyncio.Lock()

    async def token(self, *, owner_uid: str, pod: str) -> str:
        """The token of a pod. Raises NotFound where there is no key (so no pack was made with it), and PortError."""
        async with self._reading:
            if self._key is None:
                self._key = self._read(await self._client.get(self._path))
            return token_of(self._key, owner_uid=owner_uid, pod=pod)

    async def token_hash(self, *, owner_uid: str, pod: str) -> str:
        """SHA-256 of the token, in hex, for a pod that is to be made. Makes the key at need. Raises PortError."""
        async with self._reading:
            if self._key is None:
                self._key = self._read(await self._get_or_create())
            token = token_of(self._key, owner_uid=owner_uid, pod=pod)
        return hashlib.sha256(token.encode()).hexdigest()

    @property
    def _path(self) -> str:
        return SECRETS.path(namespace=self._namespace, name=PACK_KEY)

    async def _get_or_create(self) -> dict[str, Any]:
        try:
            return await self._client.get(self._path)
        except NotFound:
            pass
        fresh = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        body = {
            "apiVersion": SECRETS.api_version,
            "kind": SECRETS.kind,
            "metadata": {"name": PACK_KEY, "namespace": self._namespace},
            "type": "Opaque",
            "data": {FIELD: fresh},
        }
        try:
            made = await self._client.create(SECRETS.path(namespace=self._namespace), body)
        except Conflict:  # another operator was faster
            return await self._client.get(self._path)
        logger.info("made the Secret %s/%s, the key to the supervisors of packs", self._namespace, PACK_KEY)
        return made

    def _read(self, raw: Mapping[str, Any]) -> bytes:
        try:
            key = base64.b64decode(str((raw.get("data") or {}).get(FIELD) or ""), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise Invalid(
                f"Secret {self._namespace}/{PACK_KEY}: data.{FIELD} is not {KEY_BYTES} bytes in base64; delete it: a"
                " new one is made (packs that run go on serving, but can be told nothing until they are made anew)"
            )
        return key


def token_of(key: bytes, *, owner_uid: str, pod: str) -> str:
    """HMAC-SHA256 of the pod's name and its owner's uid, in hex."""
    return hmac.new(key, f"{owner_uid}/{pod}".encode(), hashlib.sha256).hexdigest()
