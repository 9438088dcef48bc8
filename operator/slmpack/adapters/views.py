"""Raw pods into the planner's views: only the fields that are read are validated, and nothing raises.

What cannot be read is no view: None, with a line in the log. A broken object of somebody else must not stop the cycle.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from slmpack.adapters.partial import GPU_PREFIX, UNITS_MAX, Condition, Meta, Partial, amount
from slmpack.adapters.resources import SLM_DEPLOYMENTS
from slmpack.domain.dra import is_claimed
from slmpack.domain.snapshot import Key, PodPhase, PodView, ReplicaRecord
from slmpack.render.names import ENDED, NAME_LABEL
from slmpack.render.record import parse_record

__all__ = ["Bystander", "bystander", "controller_uid", "pod_view"]

logger = logging.getLogger(__name__)

READY_FLIP = timedelta(seconds=5)
"""A Ready condition that changed this long after the pod's start has been True before (kubelets set False at start)."""
NOT_YET = frozenset({"ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bystander:
    """A pod that neither uses a GPU nor is ours, reduced to what it takes: millicores and bytes."""

    node: str
    cpu: int
    memory: int


class _Resources(Partial):
    requests: dict[str, Any] | None = None


class _Container(Partial):
    resources: _Resources | None = None
    restart_policy: str | None = None


class _PodSpec(Partial):
    node_name: str | None = None
    containers: list[_Container] = Field(default_factory=list)
    init_containers: list[_Container] | None = None
    overhead: dict[str, Any] | None = None


class _Ended(Partial):
    reason: str | None = None
    message: str | None = None
    exit_code: int | None = None
    finished_at: datetime | None = None


class _Waiting(Partial):
    reason: str | None = None
    message: str | None = None


class _State(Partial):
    waiting: _Waiting | None = None
    terminated: _Ended | None = None


class _ContainerStatus(Partial):
    restart_count: int = 0
    started: bool | None = None
    state: _State | None = None
    last_state: _State | None = None


class _PodStatus(Partial):
    phase: str = "Pending"
    reason: str | None = None
    message: str | None = None
    start_time: datetime | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[_ContainerStatus] | None = None
    init_container_statuses: list[_ContainerStatus] | None = None


class _Pod(Partial):
    metadata: Meta
    spec: _PodSpec
    status: _PodStatus | None = None


def pod_view(raw: Mapping[str, Any]) -> PodView | None:
    """The view of a pod that requests a GPU or carries our label; None for all others."""
    if not _concerns_us(raw):
        return None
    try:
        pod = _Pod.read(raw)
        requests = _pod_requests(pod.spec)
    except ValueError:
        logger.exception("unreadable pod %s", (raw.get("metadata") or {}).get("name"))
        return None
    status = pod.status or _PodStatus()
    conditions = {condition.type: condition for condition in status.conditions or ()}
    ready = conditions.get("Ready")
    is_ready = ready is not None and ready.status == "True"
    record = _record(pod.metadata)
    if record is not None and is_claimed(record.resource):
        requests[record.resource] = 1
    reason, message, exit_code = _cause(status)
    scheduled = conditions.get("PodScheduled")
    unbound = scheduled is not None and scheduled.status == "False" and scheduled.reason == "Unschedulable"
    bound = scheduled is not None and scheduled.status == "True"
    return PodView(
        key=Key(pod.metadata.namespace, pod.metadata.name),
        uid=pod.metadata.uid,
        node=pod.spec.node_name or None,
        requests=requests,
        phase=_phase(status.phase),
        created=pod.metadata.creation_timestamp,
        bound_at=scheduled.last_transition_time if bound and scheduled is not None else None,
        deleting=pod.metadata.deletion_timestamp is not None,
        ready=is_ready,
        ready_since=ready.last_transition_time if ready is not None and is_ready else None,
        was_ready=is_ready or _was_ready(status, ready),
        reason=reason,
        message=message,
        exit_code=exit_code,
        ended=(pod.metadata.annotations or {}).get(ENDED, ""),
        restarts=sum(container.restart_count for container in status.container_statuses or ()),
        finished_at=_finished_at(pod.metadata, status) if status.phase == "Failed" else None,
        unschedulable=(scheduled.message or scheduled.reason or "") if unbound and scheduled is not None else "",
        record=record,
    )


def bystander(raw: Mapping[str, Any]) -> Bystander | None:
    """What a pod without a view takes of the node that it is bound to; None where it takes nothing."""
    node = (raw.get("spec") or {}).get("nodeName")
    if not node or (raw.get("status") or {}).get("phase") in {"Succeeded", "Failed"} or _concerns_us(raw):
        return None
    try:
        requests = _pod_requests(_PodSpec.read(raw["spec"]))
    except ValueError:
        logger.exception("unreadable pod %s", (raw.get("metadata") or {}).get("name"))
        return None
    return Bystander(node=node, cpu=requests.get("cpu", 0), memory=requests.get("memory", 0))


def controller_uid(raw: Mapping[str, Any], *, of_ours: bool = False) -> str:
    """The uid of the controller owner, or empty; with `of_ours`, only if that is an SLMDeployment."""
    for owner in (raw.get("metadata") or {}).get("ownerReferences") or ():
        group = str(owner.get("apiVersion") or "").partition("/")[0]
        ours = group == SLM_DEPLOYMENTS.group and owner.get("kind") == SLM_DEPLOYMENTS.kind
        if owner.get("controller") and (ours or not of_ours):
            return str(owner.get("uid") or "")
    return ""


def _concerns_us(raw: Mapping[str, Any]) -> bool:
    """Looks before anything is validated: most pods of a cluster have nothing to do with GPUs."""
    if NAME_LABEL in ((raw.get("metadata") or {}).get("labels") or ()):
        return True
    spec = raw.get("spec") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    requests = ((container.get("resources") or {}).get("requests") or () for container in containers)
    return any(name.startswith(GPU_PREFIX) for names in requests for name in names)


def _record(meta: Meta) -> ReplicaRecord | None:
    group, kind = SLM_DEPLOYMENTS.group, SLM_DEPLOYMENTS.kind
    for owner in meta.owner_references or ():
        if owner.controller and owner.kind == kind and owner.api_version.partition("/")[0] == group:
            return parse_record(
                namespace=meta.namespace,
                labels=meta.labels or {},
                annotations=meta.annotations or {},
                owner_uid=owner.uid,
            )
    return None


def _phase(text: str) -> PodPhase:
    try:
        return PodPhase(text)
    except ValueError:
        return PodPhase.UNKNOWN


def _pod_requests(spec: _PodSpec) -> dict[str, int]:
    """What the scheduler charges a node: containers and sidecars together, or the largest init step if that is more."""
    running = _total(_requests(container) for container in spec.containers)
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.init_containers or ():
        own = _requests(container)
        if container.restart_policy == "Always":
            sidecars = _total((sidecars, own))
            peak = _largest(peak, sidecars)
        else:
            peak = _largest(peak, _total((sidecars, own)))
    overhead = {name: amount(name, value) for name, value in (spec.overhead or {}).items() if _counts(name)}
    charged = _total((_largest(_total((running, sidecars)), peak), overhead))
    # more than a node can have is all of it: no pod's number may cost the plan more
    return {name: min(it, UNITS_MAX) if name.startswith(GPU_PREFIX) else it for name, it in charged.items()}


def _requests(container: _Container) -> dict[str, int]:
    requests = (container.resources.requests or {}) if container.resources else {}
    return {name: amount(name, value) for name, value in requests.items() if _counts(name)}


def _counts(name: str) -> bool:
    return name in {"cpu", "memory"} or name.startswith(GPU_PREFIX)


def _total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, units in part.items():
            total[name] = total.get(name, 0) + units
    return total


def _largest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _was_ready(status: _PodStatus, ready: Condition | None) -> bool:
    """Conservative: what may have been Ready counts as having been."""
    if any(container.started for container in status.container_statuses or ()):
        return True
    if ready is None or ready.last_transition_time is None or status.start_time is None:
        return False
    return ready.last_transition_time > status.start_time + READY_FLIP


def _cause(status: _PodStatus) -> tuple[str, str, int | None]:
    """Reason, message and exit code of what keeps a pod from running; empty where nothing does."""
    containers = [*(status.init_container_statuses or ()), *(status.container_statuses or ())]
    ends = [end for container in containers if (end := _last_end(container)) is not None]
    failed = next((end for end in ends if end.exit_code != 0), None)
    exit_code = failed.exit_code if failed else None
    if status.reason:
        return status.reason, status.message or "", exit_code
    if failed is not None and failed.reason == "OOMKilled":
        return "OOMKilled", failed.message or "", exit_code
    for container in containers:
        waiting = container.state.waiting if container.state else None
        if waiting is not None and waiting.reason and waiting.reason not in NOT_YET:
            last = (failed.message or failed.reason) if failed else None
            return waiting.reason, last or waiting.message or "", exit_code
    if failed is not None:
        return failed.reason or "Error", failed.message or "", exit_code
    return "", "", None


def _last_end(container: _ContainerStatus) -> _Ended | None:
    for state in (container.state, container.last_state):
        if state is not None and state.terminated is not None:
            return state.terminated
    return None


def _finished_at(meta: Meta, status: _PodStatus) -> datetime:
    containers = [*(status.init_container_statuses or ()), *(status.container_statuses or ())]
    ends = [
        container.state.terminated.finished_at
        for container in containers
        if container.state and container.state.terminated and container.state.terminated.finished_at
    ]
    changes = [it.last_transition_time for it in status.conditions or () if it.last_transition_time]
    return max(ends or changes, default=meta.creation_timestamp)
