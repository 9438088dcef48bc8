"""One Lease decides which operator writes (D1). It fences itself: what was not renewed in time is not held.

Times of other holders are never compared with our clock: a foreign Lease has expired when we have watched it stay
the same for its whole duration.

The fence, in seconds after a renewal was asked for: at 6 the next one is; at 18 held ends, and no write is begun any
more; by 28 the last one that was begun has ended or was given up (`adapters.cluster` sees to that); at 30 another may
take the Lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from slmpack.adapters.resources import LEASES
from slmpack.ports import Clock, Conflict, Forbidden, NotFound, PortError

__all__ = ["DURATION_SECONDS", "SLACK_SECONDS", "WRITE_SECONDS", "LeaseClient", "LeaseLock"]

logger = logging.getLogger(__name__)

DURATION_SECONDS = 30
RENEW_SECONDS = 6.0
RETRY_SECONDS = 1.0
STEP_SECONDS = 5.0
"""A try that hangs must leave time for another one before held ends."""
SLACK_SECONDS = 12.0
"""Held ends this long before others may take over: a write in flight then ends before theirs begin."""
WRITE_SECONDS = 10.0
"""A write takes at most this long, its reads, retries and its wait for a connection included."""


class LeaseClient(Protocol):
    """What a Lease needs; `KubeClient` is one."""

    async def get(self, path: str) -> dict[str, Any]:
        """One object."""
        ...

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST."""
        ...

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """PUT with the body's resourceVersion."""
        ...


class LeaseLock:
    """Acquires, renews and releases one Lease."""

    def __init__(self, client: LeaseClient, *, namespace: str, name: str, identity: str, clock: Clock) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._holder = "nobody asked yet"

    @property
    def held(self) -> bool:
        """Whether the last renewal is recent enough."""
        if self._renewed is None:
            return False
        return self._clock.monotonic() - self._renewed < DURATION_SECONDS - SLACK_SECONDS

    @property
    def holder(self) -> str:
        """Who has it, or what keeps us from knowing."""
        return self._identity if self.held else self._holder

    async def run(self, on_change: Callable[[], object]) -> None:
        """Try to get it, and keep it, until cancelled; `on_change` is called whenever `held` changes."""
        while True:
            before, said = self.held, self._holder
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    await self.step()
            except TimeoutError:
                self._holder = f"no answer within {STEP_SECONDS:g} s"
            except PortError as error:
                self._holder = self._explain(error)
            if before != self.held:
                on_change()
            if not self.held and said != self._holder:
                logger.warning("standby: the Lease %s/%s is not ours: %s", self._namespace, self._name, self._holder)
            await asyncio.sleep(RENEW_SECONDS if self.held else RETRY_SECONDS)

    async def step(self) -> bool:
        """One try to acquire or renew; whether it is ours now. Raises PortError where there is no answer."""
        asked = self._clock.monotonic()
        try:
            lease = await self._client.get(self._path)
        except NotFound:
            written = await self._client.create(LEASES.path(namespace=self._namespace), self._body({}))
            return self._took(written, asked)
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if holder not in {"", self._identity} and not self._expired(spec, holder):
            self._renewed = None
            self._holder = f"held by {holder}"
            return False
        try:
            return self._took(await self._client.replace(self._path, self._body(lease)), asked)
        except Conflict:
            self._holder = "somebody else was faster"
            return False

    async def release(self) -> None:
        """Give it back, so that a successor need not wait. Never raises."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            lease = await self._client.get(self._path)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                body = self._body(lease)
                body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace(self._path, body)
        except PortError as error:
            logger.warning("the Lease was not released: %s", error)

    @property
    def _path(self) -> str:
        return LEASES.path(namespace=self._namespace, name=self._name)

    def _took(self, lease: Mapping[str, Any], asked: float) -> bool:
        if self._renewed is None:
            logger.info("the Lease %s/%s is ours", self._namespace, self._name)
        self._renewed = asked
        return (lease.get("spec") or {}).get("holderIdentity") == self._identity

    def _expired(self, spec: Mapping[str, Any], holder: str) -> bool:
        seen = (holder, str(spec.get("renewTime") or ""))
        now = self._clock.monotonic()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at >= int(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

    def _body(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        now = _micro_time(self._clock.now())
        spec = dict(lease.get("spec") or {})
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if lease else 0)
        spec |= {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now}
        meta = lease.get("metadata") or {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}

    def _explain(self, error: PortError) -> str:
        where = f"in namespace {self._namespace!r}; make it, or name another with --lease-namespace"
        if isinstance(error, NotFound):
            return f"it cannot be made {where}: {error}"
        if isinstance(error, Forbidden):
            return f"not permitted {where}: {error}"
        return f"no answer: {error}"


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
