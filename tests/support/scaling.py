"""A deployment that scales, in a small cluster: replicas that run, what is measured of them, and one decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from slmpack.domain.inventory import read_nodes
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.packing import candidates_for
from slmpack.domain.reasons import Problem
from slmpack.domain.scale_decision import ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.scaling import decide_scale
from slmpack.domain.sharing import Mode
from slmpack.domain.sizing import Need, size_replica
from slmpack.domain.snapshot import Demand, DeploymentView, Key, NodeView, PodView, Policy, Snapshot
from slmpack.domain.workload import Workload
from tests.support.builders import NOW, POLICY, a_demand, a_deployment, a_pod, a_snapshot, creates, mps_node, plan

__all__ = ["Scaled", "a_load", "scaled"]


def a_load(rate: float, *, at: datetime = NOW, reporting: int = 1, **changes: float | None) -> LoadSample:
    """So many requests a second, steadily; whatever is changed is as given."""
    known: dict[str, float | None] = {
        "running": rate,
        "waiting": 0.0,
        "arrivals_s": rate,
        "arrivals_peak_s": rate,
        "arrivals_high_s": rate,
        "arrivals_mean_s": rate,
        "completions_s": rate,
        "input_tokens": 512.0 if rate else None,
        "output_tokens": 256.0 if rate else None,
        "gateway_waiting": 0.0,
        **changes,
    }
    return LoadSample(at=at, reporting=reporting, **known)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """What a decision looks at; `replace` changes it."""

    view: DeploymentView
    nodes: tuple[NodeView, ...]
    pods: tuple[PodView, ...] = ()
    others: tuple[DeploymentView, ...] = ()
    strangers: tuple[PodView, ...] = ()
    load: LoadSample | None = None
    other_loads: Mapping[Key, LoadSample] = field(default_factory=dict)
    gpus: tuple[GpuReading, ...] = ()
    blind: Problem | None = None
    now: datetime = NOW
    policy: Policy = field(default=POLICY)

    @property
    def demand(self) -> Demand:
        assert isinstance(self.view.demand, Demand)
        return self.view.demand

    @property
    def snapshot(self) -> Snapshot:
        everything = a_snapshot(
            deployments=(self.view, *self.others), nodes=self.nodes, pods=(*self.pods, *self.strangers)
        )
        loads = dict(self.other_loads) if self.load is None else {**self.other_loads, self.view.key: self.load}
        return replace(everything, now=self.now, loads=loads, gpus=self.gpus, blind=self.blind)

    def with_state(self, desired: int, **changes: object) -> Scaled:
        state = replace(self.view.scale or ScaleState(desired=desired), desired=desired, **changes)  # type: ignore[arg-type]
        return replace(self, view=replace(self.view, scale=state))

    def running(self, count: int, *, ready: int | None = None, started: datetime = NOW - timedelta(hours=1)) -> Scaled:
        """So many replicas where the planner puts them, `ready` of them Ready (all of them); the last number is that."""
        held = replace(self.view, scale=ScaleState(desired=count))
        pods: tuple[PodView, ...] = ()
        for _ in range(count + 1):
            snapshot = a_snapshot(deployments=(held,), nodes=self.nodes, pods=(*pods, *self.strangers), now=self.now)
            made = creates(plan(snapshot, self.policy))
            if not made:
                break
            pods += tuple(a_pod(create, ready=True, created=started) for create in made)
        up = count if ready is None else ready
        pods = tuple(pod if n < up else replace(pod, ready=False, ready_since=None) for n, pod in enumerate(pods))
        return replace(self, pods=pods).with_state(count, busy=self.now)

    def under(self, rate: float, **changes: float | None) -> Scaled:
        """Under so many requests a second, reported by all that are Ready."""
        reporting = int(changes.pop("reporting", None) or sum(pod.ready_replicas for pod in self.pods))
        return replace(self, load=a_load(rate, at=self.now, reporting=reporting, **changes))

    def after(self, seconds: float, decision: ScaleDecision | None = None) -> Scaled:
        """Later, with what a decision left in status."""
        state = self.view.scale if decision is None else decision.state
        now = self.now + timedelta(seconds=seconds)
        load = None if self.load is None else replace(self.load, at=now)
        return replace(self, now=now, load=load, view=replace(self.view, scale=state))

    def decide(self) -> ScaleDecision:
        nodes = read_nodes(self.nodes, self.policy.gpus)
        records = (pod.record for pod in self.pods if pod.record is not None)
        need = size_replica(self.demand, self.policy, records)
        known = need if isinstance(need, Need) else None
        room = None if known is None else candidates_for(self.demand, known, nodes, self.policy)
        assert self.demand.scaling is not None
        return decide_scale(
            self.view,
            self.demand,
            self.demand.scaling,
            need=known,
            room=room,
            pods=self.pods,
            nodes=nodes,
            snapshot=self.snapshot,
            policy=self.policy,
        )


def scaled(
    *nodes: NodeView,
    least: int = 1,
    most: int = 16,
    name: str = "qwen",
    mode: Mode = Mode.MPS,
    spec: ScalingSpec | None = None,
    policy: Policy = POLICY,
    **demand: object,
) -> Scaled:
    """A deployment with spec.scaling on these nodes (four with an H100 in four MPS shares each)."""
    scaling = spec or ScalingSpec(least=least, most=most)
    wanted = replace(a_demand(replicas=scaling.most, mode=mode, **demand), scaling=scaling)  # type: ignore[arg-type]
    if wanted.workload == Workload():
        wanted = replace(wanted, workload=Workload(input_tokens=512, output_tokens=256))
    there = nodes or tuple(mps_node(f"n{index}") for index in range(4))
    return Scaled(view=a_deployment(name, wanted), nodes=there, policy=policy)
