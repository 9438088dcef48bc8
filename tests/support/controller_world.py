"""The controller on the embedded store: real adapters, no HTTP, no watches but the store's own changes, no waiting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from slmpack.adapters.cluster import KubeCluster
from slmpack.adapters.hub import BundledFirst, HubModels, HubSettings
from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.resources import (
    ENDPOINT_SLICES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    SERVICES,
    SLM_DEPLOYMENTS,
    Resource,
)
from slmpack.api.crd import build_crd
from slmpack.api.status import NOTHING_SAID
from slmpack.controller.execute import Executor
from slmpack.controller.loop import Pace, Parts, PlannerLoop, Wake
from slmpack.controller.report import Reporter
from slmpack.devcluster.client import StoreApi
from slmpack.devcluster.nodes import a100_mig_node, whole_node
from slmpack.devcluster.store import Store
from slmpack.devcluster.watches import Change, Patch
from slmpack.domain.conditions import Verdict
from slmpack.domain.pack import EngineReport, EngineState, PackReport
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.snapshot import Key, Policy, Snapshot
from slmpack.ports import PortError, Supervisor, Unavailable
from tests.support.builders import POLICY
from tests.support.fake_clock import FakeClock

__all__ = ["Api", "Leader", "Telemetry", "World"]

SEEN = {
    resource.plural: resource
    for resource in (ENDPOINT_SLICES, NODES, PODS, PRIORITY_CLASSES, SERVICES, SLM_DEPLOYMENTS)
}
CRD = build_crd()
MUTATING = {"create", "patch", "apply", "delete"}


class Api(StoreApi):
    """The store with faults: a (verb, end of path) that raises an error as many times as there are errors."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.faults: dict[tuple[str, str], list[PortError]] = {}

    def _target(self, verb: str, path: str) -> Any:
        for (of, end), errors in self.faults.items():
            if of == verb and path.endswith(end) and errors:
                raise errors.pop(0)
        return super()._target(verb, path)

    async def list(self, path: str, params: Any = None) -> tuple[list[dict[str, Any]], str]:
        """Without the kind in each item of a built-in kind, as API servers do."""
        items, version = await super().list(path, params)
        if "/slmpack.dev/" not in path:
            items = [{key: value for key, value in item.items() if key not in {"apiVersion", "kind"}} for item in items]
        return items, version

    async def count(self, path: str) -> int:
        return len((await self.list(path))[0])

    def writes(self) -> Sequence[tuple[str, str]]:
        return [request for request in self.requests if request[0] in MUTATING]


@dataclass
class Leader:
    held: bool = True
    holder: str = "held by another"


@dataclass
class Telemetry:
    turns: list[str] = field(default_factory=list)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    plan: Any = None

    def turn(self, result: str, *, seconds: float) -> None:
        self.turns.append(result)

    def wrote(self, kind: str) -> None:
        pass

    def judged(self, verdicts: Any) -> None:
        self.verdicts = dict(verdicts)

    def planned(self, plan: Any) -> None:
        self.plan = plan


class Supervisors:
    """Those of all packs, behind both ports. A new one runs what its pod was made with; `away` ones do not answer."""

    def __init__(self) -> None:
        self.there: dict[str, Supervisor] = {}
        self.running: dict[str, tuple[int, ...]] = {}
        self.told: list[tuple[str, tuple[int, ...]]] = []
        self.away = False

    async def token_hash(self, *, owner_uid: str, pod: str) -> str:
        return hashlib.sha256(f"{owner_uid}/{pod}".encode()).hexdigest()

    async def set_engines(self, uid: str, running: tuple[int, ...]) -> None:
        self.told.append((uid, running))
        if self.away:
            raise Unavailable("no answer")
        self.running[uid] = running

    async def refresh(self, there: Iterable[Supervisor]) -> None:
        self.there = {it.uid: it for it in there}

    def report(self, uid: str) -> PackReport | None:
        return _report(self.running[uid]) if uid in self.there and uid in self.running else None


def _report(running: tuple[int, ...]) -> PackReport:
    engines = tuple(
        EngineReport(index=index, state=EngineState.READY if index in running else EngineState.STOPPED, attached=True)
        for index in range(max(running, default=0) + 1)
    )
    return PackReport(running=running, ending=False, engines=engines)


class World:
    """A cluster with two L4 and seven MIG slices, and an operator on it that turns when told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Store(clock=self.clock.now, crds=[CRD])
        self.api = Api(self.store)
        self.deaf = False
        self.leader = Leader()
        self.packs = Supervisors()
        self.start()
        self.store.on_change.append(self._changed)
        for node in (whole_node("l4", gpus=2), a100_mig_node("a100", profiles={"1g.10gb": 7})):
            self.store.create(self.store.registry.parse(NODES.path()), node)

    def start(self, *, policy: Policy = POLICY, bundled: bool = True) -> None:
        """A new operator process, which knows nothing."""
        self.telemetry = Telemetry()
        self.seen: list[tuple[ClusterPlan, Snapshot]] = []
        hub = HubModels(HubSettings(offline=True), wake=lambda: None, clock=self.clock)
        models = BundledFirst(hub) if bundled else hub
        self.observer = Observer(
            self.api,
            scope=Scope(packs=policy.supervisor_image is not None),
            models=models,
            engines=policy.engines,
            clock=self.clock,
            packs=self.packs,
        )
        cluster = KubeCluster(self.api, self.observer)
        shared: dict[str, Any] = {"leadership": self.leader, "clock": self.clock, "telemetry": self.telemetry}
        parts = Parts(
            world=self.observer,
            executor=Executor(
                cluster,
                packs=self.packs,
                engines=policy.engines,
                supervisor_image=policy.supervisor_image,
                **shared,
            ),
            reporter=Reporter(cluster, **shared),
            policy=policy,
            jitter=lambda: 1.0,
            see=lambda plan, snapshot: self.seen.append((plan, snapshot)),
            **shared,
        )
        self.wake = Wake(Pace())
        self.loop = PlannerLoop(parts, wake=self.wake, pace=Pace())

    def _changed(self, change: Change) -> None:
        if change.resource.plural in SEEN and not self.deaf:
            self.observer.handle(SEEN[change.resource.plural], change.kind, change.obj)

    def apply(self, name: str = "m", **spec: Any) -> None:
        body = {
            "apiVersion": "slmpack.dev/v1alpha1",
            "kind": "SLMDeployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"}, **spec},
        }
        self.store.create(self.store.registry.parse(SLM_DEPLOYMENTS.path(namespace="default")), body)

    def patch(self, resource: Resource, name: str, body: dict[str, Any], subresource: str | None = None) -> None:
        path = resource.path(namespace="default", name=name, subresource=subresource)
        self.store.patch(self.store.registry.parse(path), Patch(body=body))

    def get(self, resource: Resource, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.store.get(self.store.registry.parse(resource.path(namespace="default", name=name)))
        return found

    def remove(self, name: str) -> None:
        """A pod vanishes at once."""
        self.store.delete(self.store.registry.parse(PODS.path(namespace="default", name=name)), grace=0)

    def pods(self) -> dict[str, str]:
        items = self.store.items(self.store.registry.parse(PODS.path()))
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def make_ready(self) -> None:
        """Every pod runs and is Ready."""
        now = self.clock.now().isoformat()
        for name in self.pods():
            conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": now}]
            status = {"phase": "Running", "startTime": now, "conditions": conditions}
            self.patch(PODS, name, {"status": status}, "status")

    def status(self, name: str = "m") -> dict[str, Any]:
        """What the operator wrote; empty before."""
        status: dict[str, Any] = self.get(SLM_DEPLOYMENTS, name)["status"]
        return {} if status == NOTHING_SAID else status

    def events(self) -> list[str]:
        items = self.store.items(self.store.registry.parse("/apis/events.k8s.io/v1/events"))
        return [item["reason"] for item in items]
