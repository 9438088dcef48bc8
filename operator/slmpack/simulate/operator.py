"""The operator in the simulator: its own planner and scaler, unchanged, on snapshots of the simulated cluster.

The loop turns as the real one does: with each round of measuring, shortly after pods change, and when the plan says
that time alone will change it. What status would remember comes back with the next snapshot; nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from slmpack.domain.pack import EngineReport, EngineState, PackReport
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, EndPod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.scale_decision import ScaleState
from slmpack.domain.sharing import replicas_in
from slmpack.domain.snapshot import Demand, DeploymentView, Key, PodPhase, PodView, Snapshot
from slmpack.simulate.fleet import Fleet, Running, Spot
from slmpack.simulate.ground import Engines
from slmpack.simulate.signals import EPOCH, Signals

__all__ = ["EVENT_S", "SimulatedOperator"]

MEASURED_S = 5.0
"""`--metrics-period` with a Prometheus: a round that knows of a new scrape wakes the loop."""
TICK_S = 15.0
"""controller.loop's Pace: the latest turn after the one before."""
EVENT_S = 0.1
"""controller.loop's Pace: the pause after the last of a batch of events."""


@dataclass(slots=True, kw_only=True)
class _Pod:
    """A pod that there is."""

    view: PodView
    create: CreatePod
    tenant: int
    spot: Spot
    gpu: int
    engines: dict[int, Running] = field(default_factory=dict)
    """By index; a pod that is no pack has only 0."""
    said: tuple[EngineState, ...] = ()
    """What its supervisor said last."""
    held: bool = True
    """Whether it holds its unit of the GPU: a failed pod does no more."""


class SimulatedOperator:
    """Turns on the simulated cluster."""

    def __init__(self, engines: Engines, *, fleet: Fleet, signals: Signals, initial: int) -> None:
        ground = engines.ground
        self._ground, self._engines, self._fleet, self._signals = ground, engines, fleet, signals
        self._views = {view.key: view for view in ground.views}
        self._tenants = {view.key: tenant for tenant, view in enumerate(ground.views)}
        self._scales = {view.key: _first_scale(view, initial) for view in ground.views}
        self._pods: dict[Key, _Pod] = {}
        self.last: ClusterPlan | None = None
        """What was decided last."""
        self.turns = 0
        self._scraped: float | None = None
        """The newest scrape that was decided on."""
        self._due = 0.0
        """When a turn comes without a newer one."""

    def begin(self) -> None:
        """Make what is wanted before the trace begins; replicas are ready at once, so starts need no turns."""
        for _ in range(1000):
            plan = self._plan()
            if not plan.actions:
                return
            self._carry_out(plan)
            self._refresh()
        raise AssertionError("the planner never comes to rest")

    def wake(self) -> None:
        """Pods became ready, or are gone."""
        self._due = 0.0

    def turn(self) -> float:
        """Measure, and turn if there is news; seconds until the next round or turn."""
        now = self._fleet.cluster.now
        scraped = self._signals.newest(now)
        self._refresh()
        if scraped != self._scraped or now >= self._due:
            self._scraped = scraped
            plan = self._plan()
            self._carry_out(plan)
            wakes = TICK_S if plan.next_wake_seconds is None else min(TICK_S, plan.next_wake_seconds)
            self._due = now + (EVENT_S if plan.actions else wakes)
        return max(EVENT_S, min(MEASURED_S, self._due - now))

    @property
    def scales(self) -> dict[Key, ScaleState | None]:
        """What status remembers."""
        return dict(self._scales)

    def _plan(self) -> ClusterPlan:
        now = self._fleet.cluster.now
        measured = self._fleet.playing
        snapshot = Snapshot(
            now=EPOCH + timedelta(seconds=now),
            deployments=tuple(
                view if self._scales[key] is None else replace(view, scale=self._scales[key])
                for key, view in self._views.items()
            ),
            nodes=self._ground.nodes,
            pods=tuple(pod.view for pod in self._pods.values()),
            loads=self._signals.loads(now) if measured else {},
            gpus=self._signals.gpus(now, pods=self._pods_of_gpus()) if measured else (),
        )
        plan = plan_cluster(snapshot, self._ground.policy)
        for each in plan.deployments:
            if each.scale is not None and measured:
                self._scales[each.deployment.key] = each.scale.state
        self.last = plan
        self.turns += 1
        return plan

    def _pods_of_gpus(self) -> dict[int, tuple[str, ...]]:
        found: dict[int, list[str]] = {}
        for key, pod in self._pods.items():
            found.setdefault(pod.gpu, []).append(str(key))
        return {gpu: tuple(names) for gpu, names in found.items()}

    def _carry_out(self, plan: ClusterPlan) -> None:
        for action in plan.actions:
            match action:
                case CreatePod():
                    self._create(action)
                case DeletePod():
                    self._delete(action.pod)
                case EndPod():
                    self._end(action)
                case SetEngines():
                    self._set(self._pods[action.pod], action.running)

    def _create(self, create: CreatePod) -> None:
        node, share = create.placement.node, create.placement.share
        spot = self._fleet.spots[node, share.resource]
        gpu = self._fleet.choose(spot)
        assert gpu is not None, f"the planner places {create.name} on {node}, where {share.resource} is taken"  # noqa: S101
        key, now = Key(create.deployment.key.namespace, create.name), self._now
        engines = replicas_in(share)
        view = PodView(
            key=key,
            uid=f"{key}@{self._fleet.cluster.now:.3f}",
            node=node,
            requests={
                share.resource: 1,
                "cpu": create.demand.cpu_millicores * engines,
                "memory": create.demand.memory_bytes * engines,
            },
            phase=PodPhase.RUNNING,
            created=now,
            deleting=False,
            ready=False,
            ready_since=None,
            was_ready=False,
            record=create.record,
        )
        self._fleet.take(spot, gpu, cpu=view.requests["cpu"], memory=view.requests["memory"])
        pod = _Pod(view=view, create=create, tenant=self._tenants[create.deployment.key], spot=spot, gpu=gpu)
        self._pods[key] = pod
        running = (0,) if create.record.pack is None else create.record.pack.running
        self._start(pod, running)

    def _start(self, pod: _Pod, running: Sequence[int]) -> None:
        """A supervisor starts its engines one after another."""
        for index in running:
            if index not in pod.engines:
                ready = max((one.ready_at for one in pod.engines.values()), default=0.0)
                placement = pod.create.placement
                engine = self._engines.of(pod.tenant, placement.node, placement.share, pod.create.settings)
                pod.engines[index] = self._fleet.start(
                    tenant=pod.tenant, spot=pod.spot, gpu=pod.gpu, engine=engine, not_before=ready
                )

    def _delete(self, key: Key) -> None:
        pod = self._pods[key]
        for one in pod.engines.values():
            self._fleet.stop(one.replica)
        pod.view = replace(pod.view, deleting=True, ready=False, ready_since=None)

    def _end(self, action: EndPod) -> None:
        pod = self._pods[action.pod]
        for one in pod.engines.values():
            self._fleet.stop(one.replica)
        words = action.problem.message
        pod.view = replace(pod.view, ended=words, phase=PodPhase.FAILED, finished_at=self._now, ready=False)
        self._release(pod)  # it never was Ready: nothing runs in it

    def _set(self, pod: _Pod, running: tuple[int, ...]) -> None:
        record = pod.view.record
        assert record is not None and record.pack is not None  # noqa: S101, PT018 - only packs are told
        pod.view = replace(pod.view, record=replace(record, pack=replace(record.pack, running=running)))
        for index, one in pod.engines.items():
            if index not in running:
                self._fleet.stop(one.replica)
        self._start(pod, running)

    @property
    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._fleet.cluster.now)

    def _refresh(self) -> None:
        """What the kubelets and supervisors say now."""
        now = self._fleet.cluster.now
        for key, pod in list(self._pods.items()):
            pod.engines = {index: one for index, one in pod.engines.items() if one.replica in self._fleet.running}
            if not pod.engines and (pod.view.deleting or pod.view.finished):
                self._release(pod)
                if pod.view.deleting:
                    del self._pods[key]
                continue
            self._report(pod)
            ready_at = min((one.ready_at for one in pod.engines.values() if not one.ending), default=None)
            ready = ready_at is not None and ready_at <= now
            if ready_at is not None and ready and not pod.view.ready:
                since = EPOCH + timedelta(seconds=ready_at)
                pod.view = replace(pod.view, ready=True, ready_since=since, was_ready=True)

    def _release(self, pod: _Pod) -> None:
        if pod.held:
            requests = pod.view.requests
            self._fleet.give(pod.spot, pod.gpu, cpu=requests["cpu"], memory=requests["memory"])
            pod.held = False

    def _report(self, pod: _Pod) -> None:
        record = pod.view.record
        if record is None or record.pack is None:
            return
        states = tuple(self._state(pod.engines.get(index)) for index in range(record.pack.engines))
        if states == pod.said and pod.view.pack is not None and pod.view.pack.running == record.pack.running:
            return
        pod.said = states
        reports = tuple(
            EngineReport(index=index, state=state, attached=True if state is EngineState.READY else None)
            for index, state in enumerate(states)
        )
        pack = PackReport(running=record.pack.running, ending=pod.view.deleting, engines=reports)
        pod.view = replace(pod.view, pack=pack)

    def _state(self, one: Running | None) -> EngineState:
        if one is None:
            return EngineState.STOPPED
        if one.ending:
            return EngineState.STOPPING
        return EngineState.READY if one.ready_at <= self._fleet.cluster.now else EngineState.STARTING


def _first_scale(view: DeploymentView, initial: int) -> ScaleState | None:
    if not isinstance(view.demand, Demand) or view.demand.scaling is None:
        return None
    scaling = view.demand.scaling
    return ScaleState(desired=min(max(initial, scaling.least), scaling.most))
