"""What a stand-in kubelet writes about one pod: its status and its events; and what the pods of a node share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from slmpack.devcluster.client import Api
from slmpack.devcluster.devices import NodeDevices
from slmpack.devcluster.podstatus import PodStatus
from slmpack.devcluster.program import Programs
from slmpack.devcluster.store import timestamp
from slmpack.ports import Conflict, Invalid, NotFound, PortError

__all__ = ["LOST", "NodeState", "PodReport", "Timing"]

Json = dict[str, Any]
_LOG = logging.getLogger(__name__)
LOST = (NotFound, Conflict)  # the pod is gone, or its name is another pod's by now


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds that things take. `scale` multiplies what a pod's spec asks for: grace, preStop, probes, deadline."""

    pull: float = 0.3
    create: float = 0.1
    start: float = 1.5
    stop: float = 0.3
    back_off: float = 10.0
    heartbeat: float = 10.0
    retry: float = 0.2
    scale: float = 1.0


@dataclass(slots=True, kw_only=True)
class NodeState:
    """What the pods of one node share."""

    api: Api
    devices: NodeDevices
    timing: Timing
    clock: Callable[[], datetime]
    connected: asyncio.Event
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    programs: Programs = field(default=lambda _pod, _ip: None)


class PodReport:
    """One pod, as the API server had it last."""

    def __init__(self, pod: Json, *, node: NodeState) -> None:
        self.pod, self._node = pod, node
        meta = pod["metadata"]
        self._key = (meta["namespace"], meta["name"])
        self.path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._last: Json | None = None

    async def publish(self, status: Json) -> None:
        """Write the pod's status."""
        self._last = status
        cleared = {"reason": None, "message": None}

        async def patch() -> None:
            merged = cleared | PodStatus.merged(status, self.pod.get("status", {}))
            body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": merged}
            self.pod = await self._node.api.patch(f"{self.path}/status", body)

        await self.write(patch)

    async def republish(self) -> None:
        """Write the last status again, after somebody else has written over it."""
        if self._last is not None:
            await self.publish(self._last)

    async def write(self, request: Callable[[], Awaitable[object]]) -> None:
        """Until it is done: a silent node waits, a server in trouble is asked again."""
        while True:
            await self._node.connected.wait()
            try:
                await request()
            except (*LOST, Invalid):
                raise
            except PortError as error:
                _LOG.warning("pod %s/%s: %s; trying again", *self._key, error)
                await asyncio.sleep(self._node.timing.retry)
            else:
                return

    async def event(self, kind: str, reason: str, message: str) -> None:
        """Best effort, as events are."""
        namespace, name = self._key
        now = timestamp(self._node.clock())
        regarding = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": namespace,
            "name": name,
            "uid": self.pod["metadata"]["uid"],
        }
        event: Json = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{name}."}, "type": kind}
        event |= {"involvedObject": regarding, "reason": reason, "message": message, "count": 1}
        event |= {"firstTimestamp": now, "lastTimestamp": now}
        event["source"] = {"component": "kubelet", "host": self.pod["spec"].get("nodeName", "")}
        await self._node.connected.wait()
        try:
            await self._node.api.create(f"/api/v1/namespaces/{namespace}/events", event)
        except PortError as error:
            _LOG.debug("event of pod %s/%s lost: %s", namespace, name, error)
