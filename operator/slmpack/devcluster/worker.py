"""One pod on a stand-in node, from admission to removal: what the kubelet, the container runtime and vLLM would do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from slmpack.devcluster.devices import AdmissionError, Gpu
from slmpack.devcluster.engine import PREFIX, Container, EngineFailureError, Residency, start_engine
from slmpack.devcluster.mps import DAEMON_LOST
from slmpack.devcluster.podreport import LOST, NodeState, PodReport, Timing
from slmpack.devcluster.podspec import (
    engine_container,
    extended_resources,
    kills_for_memory,
    mounts_shm,
    pre_stop_seconds,
    probe_problem,
    startup_budget_seconds,
    user_of,
)
from slmpack.devcluster.podstatus import PodStatus
from slmpack.devcluster.store import timestamp

__all__ = ["FAULTS", "NodeState", "PodWorker", "Timing"]

Json = dict[str, Any]
_MESSAGE_BYTES = 2048
_KILLED = 137
FAULTS = ("CrashAfter", "Evicted", "ImagePullBackOff", "NeverReady", "OOMKilled", "StuckTerminating")


class _ExitError(Exception):
    """The main container ended."""

    def __init__(self, code: int, reason: str, log: str) -> None:
        super().__init__(log)
        self.code, self.reason, self.log = code, reason, log


class PodWorker:
    """Plays one pod. `update` hands it what the watch says; `run` ends when the pod is removed."""

    def __init__(self, pod: Json, *, node: NodeState, ip: str) -> None:
        self._report, self._node, self._timing = PodReport(pod, node=node), node, node.timing
        meta = pod["metadata"]
        self.uid: str = meta["uid"]
        self.key = (meta["namespace"], meta["name"])
        self._engine = engine_container(pod)
        self._main: Json = self._engine[0] if self._engine else pod["spec"]["containers"][0]
        self._status = PodStatus(pod, main=self._main["name"], ip=ip, now=lambda: timestamp(node.clock()))
        self._program = node.programs(pod, ip)
        self._gpus: list[Gpu] = []
        self._is_up = False
        self._changed = asyncio.Event()
        self._process: asyncio.Timeout | None = None  # of the running container; `_kill` lets its time run out
        self._killed_by = _ExitError(_KILLED, "Error", "")
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """The fault asked for by the test or by the pod's annotation `devcluster.slmpack.dev/fault`."""
        annotated: str | None = (self.pod["metadata"].get("annotations") or {}).get(PREFIX + "fault")
        return self._fault if self._fault is not None else annotated

    def set_fault(self, fault: str) -> None:
        """Inject a fault now; an empty one heals a stuck pod."""
        self._fault = fault
        self._changed.set()

    @property
    def pod(self) -> Json:
        """The pod, as the API server had it last."""
        return self._report.pod

    def update(self, pod: Json) -> None:
        """The pod changed."""
        self._report.pod = pod
        self._changed.set()

    async def republish(self) -> None:
        """Write the last status again, after somebody else has written over it."""
        await self._report.republish()

    def lose_mps(self) -> None:
        """The node's MPS daemon is gone: the process dies if it is a client."""
        if any(gpu.mps is not None for gpu in self._gpus):
            self._kill(_ExitError(1, "Error", DAEMON_LOST))

    def lose_power(self) -> None:
        """The machine restarts: the container's process is gone."""
        self._kill(_ExitError(255, "Unknown", ""))

    def _kill(self, exit_: _ExitError) -> None:
        if self._process is not None:
            self._killed_by = exit_
            self._process.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Play the pod until it is removed (then the task is cancelled) or this kubelet has ended it."""
        try:
            if self.pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                await self._play()
            self._node.devices.release(self.uid)  # a pod that has ended holds no devices
            await self._until(lambda: "deletionTimestamp" in self.pod["metadata"] and self.fault != "StuckTerminating")
            await self._report.write(
                lambda: self._node.api.delete(self._report.path, uid=self.uid, grace_period_seconds=0)
            )
        except LOST:
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
            await self._report.event("Normal", "Killing", f"Stopping container {self._main['name']}")
            grace = meta.get("deletionGracePeriodSeconds", self.pod["spec"].get("terminationGracePeriodSeconds", 30))
            code = await self._end(grace=0.0 if evicted else grace * self._timing.scale, deleted=deleted)
        self._stop_now()
        if not deleted:
            reason = "Evicted" if evicted else "DeadlineExceeded"
            why = "Pod was active on the node longer than the specified deadline"
            await self._fail(reason, "The node was low on resource: memory." if evicted else why)
        else:
            ended = self._status.ended(code=code, reason="Completed" if code == 0 else "Error")
            await self._report.publish(self._status.terminated(ended))

    async def _end(self, *, grace: float, deleted: bool) -> int:
        """preStop, SIGTERM and, after the grace period, SIGKILL; the exit code."""
        if self._program is not None:
            return await self._program.stop(grace)
        needed = (pre_stop_seconds(self._main) * self._timing.scale if deleted else 0.0) + self._timing.stop
        await asyncio.sleep(min(needed, grace))
        return 0 if needed <= grace else _KILLED

    def _stop_now(self) -> None:
        if self._program is not None:
            self._program.kill()
        for gpu in self._gpus:
            if self.uid in gpu.resident_bytes:
                gpu.end(self.uid)
        self._is_up = False

    async def _reject(self, message: str) -> None:
        refusal = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": message, "conditions": []}
        await self._report.publish(refusal)
        await self._report.event("Warning", "UnexpectedAdmissionError", message)

    async def _fail(self, reason: str, message: str) -> None:
        ended = self._status.ended(code=_KILLED, reason="Error")
        status = self._status.terminated(ended, phase="Failed") | {"reason": reason, "message": message}
        await self._report.publish(status)
        await self._report.event("Warning", reason, message)

    # ---- life

    async def _live(self) -> None:
        """Until the pod has ended by itself; cancelled when it must end."""
        await self._report.publish(self._status.waiting("ContainerCreating"))
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
                    await self._report.publish(self._status.terminated(ended, phase=phase))
                    return
                await self._back_off(ended)

    async def _back_off(self, ended: Json) -> None:
        """The first restart comes at once, later ones after 10 s, 20 s, ... up to 5 minutes."""
        self._status.last_state = {"terminated": ended}
        if self._status.restarts > 0:
            seconds = min(self._timing.back_off * 2.0 ** (self._status.restarts - 1), 30 * self._timing.back_off)
            name, pod = self._main["name"], f"{self.key[1]}_{self.key[0]}({self.uid})"
            text = f"back-off {seconds:.0f}s restarting failed container={name} pod={pod}"
            await self._report.publish(self._status.waiting("CrashLoopBackOff", text))
            await self._report.event("Warning", "BackOff", f"Back-off restarting failed container {name} in pod {pod}")
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
            await self._report.event("Warning", "Failed", f"Error: ErrImagePull: {text}")
            await self._report.publish(self._status.waiting("ErrImagePull", text))
            await asyncio.sleep(self._timing.create)
            await self._report.publish(
                self._status.waiting("ImagePullBackOff", f'Back-off pulling image "{image}": {text}')
            )
            await asyncio.Event().wait()
        if mounts_shm(self._main) and any(gpu.mps is not None for gpu in self._gpus):
            text = (
                "failed to generate spec: the device plugin mounts the MPS daemon's /dev/shm into this container and "
                "the pod mounts a volume of its own there: duplicate mount point /dev/shm"
            )
            await self._report.event("Warning", "Failed", f"Error: {text}")
            await self._report.publish(self._status.waiting("CreateContainerError", text))
            await asyncio.Event().wait()
        await self._report.event("Normal", "Pulled", f'Container image "{image}" already present on machine')
        await asyncio.sleep(self._timing.create)

    async def _run_container(self) -> None:
        """Until the process ends, which is an _ExitError."""
        try:
            async with asyncio.timeout(None) as self._process:
                await self._run_process()
        except TimeoutError:
            raise self._killed_by from None
        finally:
            self._process = None

    async def _run_process(self) -> None:
        self._is_up = True
        await self._report.publish(self._status.running(ready=False))
        await self._report.event("Normal", "Started", f"Container started: {self._main['name']}")
        if self._program is not None:
            code, log = await self._program.run(self._publish_ready)
            raise _ExitError(code, "Error" if code else "Completed", log)
        port = await self._start() if self._engine else 0
        await self._probe(port)
        await self._report.publish(self._status.running(ready=True))
        word, _, value = (self.fault or "").partition("=")
        if word == "CrashAfter":
            await asyncio.sleep(float(value))
            raise _ExitError(1, "Error", "RuntimeError: Engine core died (injected)\n")
        if word == "OOMKilled":
            raise _ExitError(_KILLED, "OOMKilled", "")
        await asyncio.Event().wait()

    async def _publish_ready(self, ready: bool) -> None:
        await self._report.publish(self._status.running(ready=ready))

    async def _start(self) -> int:
        """Bring the engine up on the pod's GPU; the port it listens on."""
        if self._engine is None:
            return 0
        container, seen = self._engine
        budget = startup_budget_seconds(container)
        await self._connect(budget)
        since = [gpu.begin_start() for gpu in self._gpus]
        residency = await self._claim(seen)
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

    async def _connect(self, budget: float | None) -> None:
        """Become a client of the MPS daemon, which hangs while it serves another user."""
        try:
            async with asyncio.timeout(None if budget is None else budget * self._timing.scale):
                for daemon in [gpu.mps for gpu in self._gpus[:1] if gpu.mps is not None]:  # a pod has one share
                    await daemon.connect(self.uid, user=user_of(self.pod, self._main))
        except TimeoutError:
            raise _ExitError(_KILLED, "Error", "startup probe failed before the engine had a CUDA context\n") from None

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
        await self._report.event("Warning", "Unhealthy", problem)
        budget = startup_budget_seconds(self._main)
        if budget is None:
            await asyncio.Event().wait()
        await asyncio.sleep((budget or 0) * self._timing.scale)
        await self._report.event(
            "Normal", "Killing", f"Container {self._main['name']} failed startup probe, will be restarted"
        )
        raise _ExitError(_KILLED, "Error", f"{problem}\n")
