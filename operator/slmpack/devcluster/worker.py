"""One pod on a stand-in node, from admission to removal: what the kubelet, the container runtime and vLLM would do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from slmpack.devcluster.client import Api
from slmpack.devcluster.devices import AdmissionError, Gpu, NodeDevices
from slmpack.devcluster.engine import PREFIX, Container, EngineFailureError, Residency, start_engine
from slmpack.devcluster.podspec import (
    engine_container,
    extended_resources,
    kills_for_memory,
    mounts_shm,
    pre_stop_seconds,
    probe_problem,
    startup_budget_seconds,
)
from slmpack.devcluster.podstatus import PodStatus
from slmpack.devcluster.store import timestamp
from slmpack.ports import Conflict, Invalid, NotFound, PortError

__all__ = ["FAULTS", "NodeState", "PodWorker", "Timing"]

Json = dict[str, Any]
_LOG = logging.getLogger(__name__)
_LOST = (NotFound, Conflict)  # the pod is gone, or its name is another pod's by now
_MESSAGE_BYTES = 2048
_KILLED = 137
FAULTS = ("CrashAfter", "Evicted", "ImagePullBackOff", "NeverReady", "OOMKilled", "StuckTerminating")


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


class _ExitError(Exception):
    """The main container ended."""

    def __init__(self, code: int, reason: str, log: str) -> None:
        super().__init__(log)
        self.code, self.reason, self.log = code, reason, log


class PodWorker:
    """Plays one pod. `update` hands it what the watch says; `run` ends when the pod is removed."""

    def __init__(self, pod: Json, *, node: NodeState, ip: str) -> None:
        self.pod, self._node, self._timing = pod, node, node.timing
        meta = pod["metadata"]
        self.uid: str = meta["uid"]
        self.key = (meta["namespace"], meta["name"])
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._engine = engine_container(pod)
        self._main: Json = self._engine[0] if self._engine else pod["spec"]["containers"][0]
        self._status = PodStatus(pod, main=self._main["name"], ip=ip, now=lambda: timestamp(node.clock()))
        self._gpus: list[Gpu] = []
        self._is_up = False
        self._changed = asyncio.Event()
        self._fault: str | None = None
        self._last: Json | None = None

    @property
    def fault(self) -> str | None:
        """The fault asked for by the test or by the pod's annotation `devcluster.slmpack.dev/fault`."""
        annotated: str | None = (self.pod["metadata"].get("annotations") or {}).get(PREFIX + "fault")
        return self._fault if self._fault is not None else annotated

    def set_fault(self, fault: str) -> None:
        """Inject a fault now; an empty one heals a stuck pod."""
        self._fault = fault
        self._changed.set()

    def update(self, pod: Json) -> None:
        """The pod changed."""
        self.pod = pod
        self._changed.set()

    async def run(self) -> None:
        """Play the pod until it is removed (then the task is cancelled) or this kubelet has ended it."""
        try:
            if self.pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                await self._play()
            self._node.devices.release(self.uid)  # a pod that has ended holds no devices
            await self._until(lambda: "deletionTimestamp" in self.pod["metadata"] and self.fault != "StuckTerminating")
            await self._write(lambda: self._node.api.delete(self._path, uid=self.uid, grace_period_seconds=0))
        except _LOST:
            return
        finally:
            self._stop_now()
            self._node.devices.release(self.uid)

    async def _play(self) -> None:
        try:
            self._gpus = self._node.devices.allocate(self.uid, extended_resources(self.pod))
        except AdmissionError as error:
            await self._reject(f"Pod was rejected: {error}")
            return
        life = asyncio.ensure_future(self._live())
        end = asyncio.ensure_future(self._until(self._must_end, by_deadline=True))
        try:
            await asyncio.wait({life, end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            end.cancel()
            life.cancel()
            results = await asyncio.gather(life, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
        if end.done() and not end.cancelled():
            await self._stop()

    # ---- ends

    def _left(self) -> float | None:
        """Seconds until activeDeadlineSeconds runs out, counted from the pod's start."""
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is None:
            return None
        started = datetime.fromisoformat(self._status.started_at)
        return float(deadline * self._timing.scale - (self._node.clock() - started).total_seconds())

    def _must_end(self) -> bool:
        left = self._left()
        return (
            "deletionTimestamp" in self.pod["metadata"] or self.fault == "Evicted" or (left is not None and left <= 0)
        )

    async def _until(self, happens: Callable[[], bool], *, by_deadline: bool = False) -> None:
        while not happens():
            self._changed.clear()
            left = self._left() if by_deadline else None
            try:
                async with asyncio.timeout(None if left is None else max(left, 0.01)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _stop(self) -> None:
        meta = self.pod["metadata"]
        evicted, deleted = self.fault == "Evicted", "deletionTimestamp" in meta
        code = 0
        if self._is_up:
            await self._event("Normal", "Killing", f"Stopping container {self._main['name']}")
            grace = meta.get("deletionGracePeriodSeconds", self.pod["spec"].get("terminationGracePeriodSeconds", 30))
            grace = 0.0 if evicted else grace * self._timing.scale
            needed = (pre_stop_seconds(self._main) * self._timing.scale if deleted else 0.0) + self._timing.stop
            await asyncio.sleep(min(needed, grace))
            code = 0 if needed <= grace else _KILLED
        self._stop_now()
        if not deleted:
            reason = "Evicted" if evicted else "DeadlineExceeded"
            why = "Pod was active on the node longer than the specified deadline"
            await self._fail(reason, "The node was low on resource: memory." if evicted else why)
        else:
            ended = self._status.ended(code=code, reason="Completed" if code == 0 else "Error")
            await self._publish(self._status.terminated(ended))

    def _stop_now(self) -> None:
        for gpu in self._gpus:
            if self.uid in gpu.resident_bytes:
                gpu.end(self.uid)
        self._is_up = False

    async def _reject(self, message: str) -> None:
        refusal = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": message, "conditions": []}
        await self._publish(refusal)
        await self._event("Warning", "UnexpectedAdmissionError", message)

    async def _fail(self, reason: str, message: str) -> None:
        ended = self._status.ended(code=_KILLED, reason="Error")
        status = self._status.terminated(ended, phase="Failed") | {"reason": reason, "message": message}
        await self._publish(status)
        await self._event("Warning", reason, message)

    # ---- life

    async def _live(self) -> None:
        """Until the pod has ended by itself; cancelled when it must end."""
        await self._publish(self._status.waiting("ContainerCreating"))
        await asyncio.sleep(self._timing.pull)
        await self._pull()
        policy = self.pod["spec"].get("restartPolicy", "Always")
        while True:
            try:
                await self._run_container()
            except _ExitError as exit_:
                self._stop_now()
                self._node.logs[self.key] = exit_.log
                ended = self._status.ended(code=exit_.code, reason=exit_.reason, message=self._last_words(exit_))
                if policy == "Never" or (policy == "OnFailure" and exit_.code == 0):
                    phase = "Succeeded" if exit_.code == 0 else "Failed"
                    await self._publish(self._status.terminated(ended, phase=phase))
                    return
                await self._back_off(ended)

    async def _back_off(self, ended: Json) -> None:
        """The first restart comes at once, later ones after 10 s, 20 s, ... up to 5 minutes."""
        self._status.last_state = {"terminated": ended}
        if self._status.restarts > 0:
            seconds = min(self._timing.back_off * 2.0 ** (self._status.restarts - 1), 30 * self._timing.back_off)
            name, pod = self._main["name"], f"{self.key[1]}_{self.key[0]}({self.uid})"
            text = f"back-off {seconds:.0f}s restarting failed container={name} pod={pod}"
            await self._publish(self._status.waiting("CrashLoopBackOff", text))
            await self._event("Warning", "BackOff", f"Back-off restarting failed container {name} in pod {pod}")
            await asyncio.sleep(seconds)
        self._status.restarts += 1

    def _last_words(self, exit_: _ExitError) -> str | None:
        """The termination message: the end of the log, where the container asks for it and failed."""
        if exit_.code == 0 or self._main.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return None
        return exit_.log[-_MESSAGE_BYTES:]

    async def _pull(self) -> None:
        image, fault = self._main.get("image", ""), self.fault
        if fault == "ImagePullBackOff":
            text = f'failed to pull and unpack image "{image}": not found'
            await self._event("Warning", "Failed", f"Error: ErrImagePull: {text}")
            await self._publish(self._status.waiting("ErrImagePull", text))
            await asyncio.sleep(self._timing.create)
            await self._publish(self._status.waiting("ImagePullBackOff", f'Back-off pulling image "{image}": {text}'))
            await asyncio.Event().wait()
        if mounts_shm(self._main) and any(gpu.shared_by_mps for gpu in self._gpus):
            text = (
                "failed to generate spec: the device plugin mounts the MPS daemon's /dev/shm into this container and "
                "the pod mounts a volume of its own there: duplicate mount point /dev/shm"
            )
            await self._event("Warning", "Failed", f"Error: {text}")
            await self._publish(self._status.waiting("CreateContainerError", text))
            await asyncio.Event().wait()
        await self._event("Normal", "Pulled", f'Container image "{image}" already present on machine')
        await asyncio.sleep(self._timing.create)

    async def _run_container(self) -> None:
        self._is_up = True
        await self._publish(self._status.running(ready=False))
        await self._event("Normal", "Started", f"Container started: {self._main['name']}")
        port = await self._start() if self._engine else 0
        await self._probe(port)
        await self._publish(self._status.running(ready=True))
        word, _, value = (self.fault or "").partition("=")
        if word == "CrashAfter":
            await asyncio.sleep(float(value))
            raise _ExitError(1, "Error", "RuntimeError: Engine core died (injected)\n")
        if word == "OOMKilled":
            raise _ExitError(_KILLED, "OOMKilled", "")
        await asyncio.Event().wait()

    async def _start(self) -> int:
        """Bring the engine up on the pod's GPU; the port it listens on."""
        if self._engine is None:
            return 0
        container, seen = self._engine
        since = [gpu.begin_start() for gpu in self._gpus]
        residency = await self._claim(seen)
        budget = startup_budget_seconds(container)
        await asyncio.sleep(self._timing.start)
        if kills_for_memory(container):
            raise _ExitError(_KILLED, "OOMKilled", residency.log)
        if any(gpu.is_disturbed(mark) for gpu, mark in zip(self._gpus, since, strict=True)):
            # With --kv-cache-memory-bytes vLLM skips this check. The stand-in does not: free memory that others change
            # during a start is no ground to plan on.
            text = (
                "AssertionError: Error in memory profiling. Another process on this GPU took or released memory while "
                "vLLM was profiling during initialization."
            )
            raise _ExitError(1, "Error", f"{text}\nRuntimeError: Engine core initialization failed.\n")
        if budget is not None and budget * self._timing.scale < self._timing.start:
            raise _ExitError(_KILLED, "Error", "startup probe failed before the engine was up\n")
        self._node.logs[self.key] = residency.log
        return residency.port

    async def _claim(self, seen: Container) -> Residency:
        """Take the memory at once, so that whoever starts meanwhile finds it taken."""
        device = replace(self._gpus[0].view(), count=len(self._gpus)) if self._gpus else None
        try:
            residency = start_engine(seen, device)
        except EngineFailureError as error:
            for gpu in self._gpus:  # the context it had made
                gpu.resident_bytes[self.uid] = gpu.context_bytes
            await asyncio.sleep(self._timing.start / 4)
            raise _ExitError(error.code, "Error", f"{error}\n") from error
        for gpu in self._gpus:
            gpu.resident_bytes[self.uid] = residency.resident_bytes
        return residency

    async def _probe(self, port: int) -> None:
        problem = probe_problem(self._main, port=port) if self._engine else None
        if self.fault == "NeverReady":
            problem = "Readiness probe failed: HTTP probe failed with statuscode: 503"
        if problem is None:
            return
        await self._event("Warning", "Unhealthy", problem)
        budget = startup_budget_seconds(self._main)
        if budget is None:
            await asyncio.Event().wait()
        await asyncio.sleep((budget or 0) * self._timing.scale)
        await self._event(
            "Normal", "Killing", f"Container {self._main['name']} failed startup probe, will be restarted"
        )
        raise _ExitError(_KILLED, "Error", f"{problem}\n")

    # ---- writes

    async def _publish(self, status: Json) -> None:
        self._last = status
        cleared = {"reason": None, "message": None}

        async def write() -> None:
            merged = cleared | PodStatus.merged(status, self.pod.get("status", {}))
            body = {"metadata": {"uid": self.uid}, "status": merged}
            self.pod = await self._node.api.patch(f"{self._path}/status", body)

        await self._write(write)

    async def republish(self) -> None:
        """Write the last status again, after somebody else has written over it."""
        if self._last is not None:
            await self._publish(self._last)

    async def _write(self, request: Callable[[], Awaitable[object]]) -> None:
        """Until it is done: a silent node waits, a server in trouble is asked again."""
        while True:
            await self._node.connected.wait()
            try:
                await request()
            except (*_LOST, Invalid):
                raise
            except PortError as error:
                _LOG.warning("pod %s/%s: %s; trying again", *self.key, error)
                await asyncio.sleep(self._timing.retry)
            else:
                return

    async def _event(self, kind: str, reason: str, message: str) -> None:
        """Best effort, as events are."""
        namespace, name = self.key
        now = timestamp(self._node.clock())
        regarding = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": self.uid}
        event: Json = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{name}."}, "type": kind}
        event |= {"involvedObject": regarding, "reason": reason, "message": message, "count": 1}
        event |= {"firstTimestamp": now, "lastTimestamp": now}
        event["source"] = {"component": "kubelet", "host": self.pod["spec"].get("nodeName", "")}
        await self._node.connected.wait()
        try:
            await self._node.api.create(f"/api/v1/namespaces/{namespace}/events", event)
        except PortError as error:
            _LOG.debug("event of pod %s/%s lost: %s", namespace, name, error)
