"""The strict stand-in kubelets: they register nodes, keep them alive and play the pods bound to them.

They speak to any API server through `Api`: the embedded one and the real one alike. What they are strict about is in
`engine` and `worker`; this module is registration, heartbeats, the pod watch and lost nodes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from slmpack.devcluster.client import Api
from slmpack.devcluster.devices import NodeDevices
from slmpack.devcluster.program import Programs
from slmpack.devcluster.store import timestamp
from slmpack.devcluster.worker import FAULTS, NodeState, PodWorker, Timing
from slmpack.ports import Conflict, PortError

__all__ = ["Kubelets"]

Json = dict[str, Any]
_LOG = logging.getLogger(__name__)
_PODS = "/api/v1/pods"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_LEASE_SECONDS = 40
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")
_UNREACHABLE = "node.kubernetes.io/unreachable"


class Kubelets:
    """An async context manager that plays `nodes` (Node objects with labels and allocatable; see `nodes`).

    `seed` decides ties between GPUs. Pods that have a program are played by it. Logs of the pods are in `log`.
    """

    def __init__(  # noqa: PLR0913 - a cluster's worth of them
        self,
        api: Api,
        *,
        nodes: Iterable[Json],
        clock: Callable[[], datetime],
        timing: Timing | None = None,
        seed: int = 0,
        programs: Programs = lambda _pod, _ip: None,
    ) -> None:
        self._api, self._clock, self._timing = api, clock, timing or Timing()
        self._manifests = {node["metadata"]["name"]: node for node in nodes}
        self._seed, self._programs = seed, programs
        self._nodes: dict[str, NodeState] = {}
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._logs: dict[tuple[str, str], str] = {}

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        for name in self._manifests:
            await self._register(name)
        self._loops = [asyncio.create_task(self._heartbeats()), asyncio.create_task(self._follow())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._loops, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def log(self, namespace: str, pod: str) -> str | None:
        """What `kubectl logs` prints; None while the container has not started."""
        return self._logs.get((namespace, pod))

    # ---- faults

    def fault(self, namespace: str, pod: str, fault: str) -> None:
        """Do to a pod what the annotation `devcluster.slmpack.dev/fault` would do; an empty fault heals a stuck one.

        Evicted and StuckTerminating work at any time; ImagePullBackOff, NeverReady, CrashAfter=SECONDS and OOMKilled
        are looked at while the container starts. ValueError for any other; KeyError if no such pod runs here.
        """
        if fault and fault.split("=", maxsplit=1)[0] not in FAULTS:
            raise ValueError(f"fault={fault!r}: must be one of {', '.join(FAULTS)}")
        workers = {worker.key: worker for worker in self._workers.values()}
        workers[namespace, pod].set_fault(fault)

    async def lose_node(self, name: str) -> None:
        """The node goes silent. Its Ready condition, taints and pods are marked as the node controller would."""
        self._nodes[name].connected.clear()
        silent = {"status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}
        await self._patch_node(name, silent)
        taints = [{"key": _UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
        await self._taint(name, taints)
        for worker in self._on(name):
            await self._mark_not_ready(worker)

    async def recover_node(self, name: str) -> None:
        """The node is back, with the same containers running."""
        self._nodes[name].connected.set()
        await self._patch_node(name, _ready())  # first: the real node controller taints by this condition
        await self._taint(name, [])
        for worker in self._on(name):
            await worker.republish()

    async def reboot_node(self, name: str) -> None:
        """The machine restarts: it goes silent, every process on it is gone, and it comes back."""
        await self.lose_node(name)
        for worker in self._on(name):
            worker.lose_power()
        await asyncio.sleep(self._timing.start)
        await self.recover_node(name)

    async def restart_device_plugin(self, name: str, *, node: Json | None = None) -> None:
        """The device plugin and its MPS daemon restart, as the label `nvidia.com/device-plugin.config` makes them.

        Every MPS client of the node dies, and nothing is allocatable meanwhile. `node` is what the node is afterwards,
        where its configuration changed; only a node without pods on whole GPUs or slices can change it here.
        """
        state, status = self._nodes[name], f"/api/v1/nodes/{name}/status"
        before = self._manifests[name]["status"]["allocatable"]
        state.devices.is_advertised = False
        await self._api.patch(status, {"status": {"allocatable": {key: "0" for key in before if _is_gpu(key)}}})
        for worker in self._on(name):
            worker.lose_mps()
        await asyncio.sleep(self._timing.start)
        after = node or self._manifests[name]
        if node is not None:
            self._manifests[name] = node
            state.devices = NodeDevices(node, chooser=self._chooser(name))
            await self._api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": node["metadata"]["labels"]}})
        state.devices.is_advertised = True
        await self._api.patch(status, {"status": {"allocatable": after["status"]["allocatable"]}})

    def _on(self, node: str) -> list[PodWorker]:
        return [worker for worker in self._workers.values() if worker.pod["spec"].get("nodeName") == node]

    def _chooser(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/{name}")  # noqa: S311 - a reproducible choice, no secret

    async def _mark_not_ready(self, worker: PodWorker) -> None:
        namespace, name = worker.key
        conditions = [
            condition | {"status": "False", "lastTransitionTime": timestamp(self._clock())}
            if condition["type"] in {"Ready", "ContainersReady"} and condition["status"] == "True"
            else condition
            for condition in worker.pod.get("status", {}).get("conditions", [])
        ]
        body = {"metadata": {"uid": worker.uid}, "status": {"conditions": conditions}}
        await self._api.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", body)

    # ---- nodes

    async def _register(self, name: str) -> None:
        manifest = self._manifests[name]
        node = manifest | {"status": manifest["status"] | {"conditions": self._conditions(_ready())}}
        try:
            await self._api.create("/api/v1/nodes", node)
        except Conflict:
            await self._api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": manifest["metadata"]["labels"]}})
        await self._api.patch(f"/api/v1/nodes/{name}/status", {"status": node["status"]})
        lease = {"metadata": {"name": name}, "spec": self._lease(name)}
        try:
            await self._api.create(_LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"} | lease)
        except Conflict:
            await self._api.patch(f"{_LEASES}/{name}", {"spec": self._lease(name)})
        connected = asyncio.Event()
        connected.set()
        self._nodes[name] = NodeState(
            api=self._api,
            devices=NodeDevices(manifest, chooser=self._chooser(name)),
            timing=self._timing,
            clock=self._clock,
            connected=connected,
            logs=self._logs,
            programs=self._programs,
        )

    def _lease(self, name: str) -> Json:
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now}

    def _conditions(self, ready: Json) -> list[Json]:
        now = timestamp(self._clock())
        times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
        pressures = [
            {"type": kind, "status": "False", "reason": f"KubeletHasNo{kind}", "message": f"kubelet has no {kind}"}
            for kind in _PRESSURES
        ]
        return [condition | times for condition in (*pressures, {"type": "Ready"} | ready)]

    async def _patch_node(self, name: str, ready: Json) -> None:
        """Write the node's conditions; a condition whose status stays keeps its transition time."""
        old = (await self._api.get(f"/api/v1/nodes/{name}")).get("status", {}).get("conditions", [])
        since = {(item["type"], item["status"]): item.get("lastTransitionTime") for item in old}
        new = self._conditions(ready)
        for condition in new:
            kept = since.get((condition["type"], condition["status"]))
            condition["lastTransitionTime"] = kept or condition["lastTransitionTime"]
        ours = {condition["type"] for condition in new}
        foreign = [item for item in old if item["type"] not in ours]
        await self._api.patch(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [*new, *foreign]}})

    async def _taint(self, name: str, taints: list[Json]) -> None:
        present = (await self._api.get(f"/api/v1/nodes/{name}"))["spec"].get("taints") or []
        kept = [taint for taint in present if taint["key"] != _UNREACHABLE]
        await self._api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": [*kept, *taints]}})

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._timing.heartbeat)
            for name, node in self._nodes.items():
                if not node.connected.is_set():
                    continue
                try:
                    await self._api.patch(f"{_LEASES}/{name}", {"spec": self._lease(name)})
                    await self._patch_node(name, _ready())
                except PortError as error:
                    _LOG.warning("heartbeat of node %s: %s", name, error)

    # ---- pods

    async def _follow(self) -> None:
        """List, then watch; after a cut or a 410 list again."""
        while True:
            try:
                pods, version = await self._api.list(_PODS)
                self._replace(pods)
                async for kind, pod in self._api.watch(_PODS, resource_version=version):
                    self._take(kind, pod)
            except PortError as error:
                _LOG.warning("watching pods: %s; listing again", error)
            await asyncio.sleep(self._timing.retry)

    def _replace(self, pods: Iterable[Json]) -> None:
        listed = {pod["metadata"]["uid"]: pod for pod in pods}
        for uid in [uid for uid in self._workers if uid not in listed]:
            self._forget(uid)
        for pod in listed.values():
            self._take("MODIFIED", pod)

    def _take(self, kind: str, pod: Json) -> None:
        uid = pod.get("metadata", {}).get("uid")
        if kind == "DELETED":
            self._forget(uid)
        elif kind in {"ADDED", "MODIFIED"}:
            node = self._nodes.get(pod["spec"].get("nodeName", ""))
            if uid in self._workers:
                self._workers[uid].update(pod)
            elif node is not None:
                self._start(pod, node)

    def _start(self, pod: Json, node: NodeState) -> None:
        uid = pod["metadata"]["uid"]
        number = len(self._tasks) + 2
        worker = PodWorker(pod, node=node, ip=f"10.244.{number // 254}.{number % 254 + 1}")
        self._workers[uid] = worker
        self._tasks[uid] = asyncio.create_task(worker.run())
        self._tasks[uid].add_done_callback(_report)

    def _forget(self, uid: str) -> None:
        self._workers.pop(uid, None)
        task = self._tasks.get(uid)
        if task is not None:
            task.cancel()


def _is_gpu(resource: str) -> bool:
    return resource.startswith("nvidia.com/")


def _ready() -> Json:
    return {"status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}


def _report(task: asyncio.Task[None]) -> None:
    """A worker that broke is a bug of the stand-in: say so loudly instead of leaving its pod as it is."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("the stand-in kubelet lost a pod", exc_info=error)
