"""A snapshot as it would be with what a file says is measured: `--loads`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slmpack.cli.loads_file import Measured
from slmpack.domain.plan import CreatePod, SetEngines
from slmpack.domain.planner import plan_cluster
from slmpack.domain.scale_decision import ScaleState
from slmpack.domain.sharing import replicas_in
from slmpack.domain.snapshot import Demand, Key, PodPhase, PodView, Policy, Snapshot

__all__ = ["Preview", "preview"]

SETTLED = timedelta(hours=1)
"""Replicas that are made up have run for so long: their start is over, and no last change holds the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What to plan on."""

    snapshot: Snapshot
    notes: tuple[str, ...]
    """What was made up, in sentences."""


def preview(snapshot: Snapshot, measured: Measured, policy: Policy) -> Preview:
    """The snapshot with these loads. Replicas that a load is measured of and that are not there are made up."""
    there = {view.key: view for view in snapshot.deployments}
    notes = _unknown("SLMDeployment", measured.loads, there)
    notes += _unknown("node", (gpu.node for gpu in measured.gpus), (node.name for node in snapshot.nodes))
    running = {pod.record.deployment for pod in snapshot.pods if pod.record is not None}
    made_up = {
        key: sample.reporting
        for key, sample in measured.loads.items()
        if key in there and key not in running and sample.reporting and _is_scaled(there[key].demand)
    }
    known = _with_replicas(snapshot, made_up, policy) if made_up else snapshot
    for key, count in made_up.items():
        found = sum(pod.ready_replicas for pod in known.pods if pod.record is not None and pod.record.deployment == key)
        notes.append(f"{key}: {found} of the {count} replicas that --loads measures are taken to run; no pod is given")
    return Preview(snapshot=replace(known, loads=measured.loads, gpus=measured.gpus), notes=tuple(notes))


def _unknown(what: str, named: Iterable[object], there: Iterable[object]) -> list[str]:
    known = sorted(map(str, there))
    names = ", ".join(known) or "none"
    return [f"--loads: there is no {what} {name}; there is {names}" for name in map(str, named) if name not in known]


def _is_scaled(demand: object) -> bool:
    return isinstance(demand, Demand) and demand.scaling is not None


def _with_replicas(snapshot: Snapshot, wanted: Mapping[Key, int], policy: Policy) -> Snapshot:
    """So many replicas of these placed by the planner, made and Ready; others are left as they are."""
    since = snapshot.now - SETTLED
    views = tuple(
        replace(view, scale=view.scale or ScaleState(desired=wanted[view.key])) if view.key in wanted else view
        for view in snapshot.deployments
    )
    now = replace(snapshot, deployments=tuple(view for view in views if view.key in wanted))
    for _ in range(2 * sum(wanted.values())):  # replicas that share a GPU start one at a time
        plan = plan_cluster(now, policy)
        creates = [action for action in plan.actions if isinstance(action, CreatePod) and action.placement.node]
        sets = {action.pod: action.running for action in plan.actions if isinstance(action, SetEngines)}
        if not creates and not sets:
            break
        pods = [_told(pod, sets.get(pod.key)) for pod in now.pods]
        now = replace(now, pods=(*pods, *(_running(create, since) for create in creates)))
    return replace(now, deployments=views)


def _told(pod: PodView, running: tuple[int, ...] | None) -> PodView:
    record = pod.record
    if running is None or record is None or record.pack is None:
        return pod
    return replace(pod, record=replace(record, pack=replace(record.pack, running=running)))


def _running(create: CreatePod, since: datetime) -> PodView:
    engines = replicas_in(create.placement.share)
    return PodView(
        key=Key(create.deployment.key.namespace, create.name),
        uid=f"made-up:{create.deployment.key.namespace}/{create.name}",
        node=create.placement.node,
        requests={
            create.placement.share.resource: 1,
            "cpu": create.demand.cpu_millicores * engines,
            "memory": create.demand.memory_bytes * engines,
        },
        phase=PodPhase.RUNNING,
        created=since,
        deleting=False,
        ready=True,
        ready_since=since,
        was_ready=True,
        record=create.record,
    )
