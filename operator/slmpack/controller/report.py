"""What users see: status (written by nobody else, only when it changed), then events, then metrics (D10)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from slmpack.api.status import (
    PLACEMENTS_MAX,
    UNPLACED_MAX,
    ConditionStatus,
    FootprintStatus,
    PlacementStatus,
    SLMDeploymentStatus,
    UnplacedStatus,
)
from slmpack.controller.execute import Execution, action_key
from slmpack.domain.conditions import Verdict, judge
from slmpack.domain.plan import Action, ClusterPlan, CreatePod, DeploymentPlan
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import DeploymentView, Key
from slmpack.ports import Clock, Cluster, Conflict, Leadership, NotFound, PortError, Telemetry
from slmpack.render.names import API_VERSION, KIND, selector_string

__all__ = ["Reporter", "status_of"]

logger = logging.getLogger(__name__)

AT_ONCE = 16
NORMAL = frozenset(
    reason.value
    for reason in (
        Reason.ALL_READY,
        Reason.SCALED_TO_ZERO,
        Reason.STARTING,
        Reason.WAITING_FOR_START,
        Reason.ROLLING_OUT,
        Reason.ROLLOUT,
        Reason.SCALED_DOWN,
        Reason.REPLACED,
        Reason.DELETED,
        Reason.MODEL_PENDING,
    )
)
"""Reasons that are no cause for a warning."""


class Reporter:
    """Writes status and events."""

    def __init__(self, cluster: Cluster, *, leadership: Leadership, clock: Clock, telemetry: Telemetry) -> None:
        self._cluster = cluster
        self._leadership = leadership
        self._clock = clock
        self._telemetry = telemetry
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._events = 0

    async def report(self, plan: ClusterPlan, execution: Execution) -> PortError | None:
        """Say of every deployment what is, and of every deed why; the first error, if a status was not written."""
        now = self._clock.now()
        outcomes = {
            part.deployment.key: [o for o in execution.outcomes if o.deployment == part.deployment.key]
            for part in (plan.deployments if execution.outcomes else ())
        }
        verdicts = {
            part.deployment.key: judge(part, outcomes=outcomes.get(part.deployment.key, ()), now=now)
            for part in plan.deployments
        }
        products = _products(plan)
        written = [self._write(part, verdicts[part.deployment.key], products) for part in plan.deployments]
        errors = await asyncio.gather(*written)
        views = {part.deployment.key: part.deployment for part in plan.deployments}
        deeds = [(views[key], action) for action in execution.done if (key := action_key(action)) in views]
        await asyncio.gather(*(self._post(view, **_of_action(action)) for view, action in deeds))
        self._telemetry.judged(verdicts)
        return next((error for error in errors if error is not None), None)

    async def _write(self, part: DeploymentPlan, verdict: Verdict, products: Mapping[Key, str]) -> PortError | None:
        view = part.deployment
        status = status_of(part, verdict, product=products.get(view.key))
        if view.deleting:
            return None
        async with self._slots:
            if not self._leadership.held:
                return None
            try:
                changed = await self._cluster.apply_status(
                    namespace=view.key.namespace, name=view.key.name, uid=view.uid, status=status
                )
            except (NotFound, Conflict):
                return None  # deleted meanwhile
            except PortError as error:
                logger.warning("%s: status not written: %s", view.key, error)
                return error
        if changed:
            self._telemetry.wrote("status")
            await self._tell_turn(view, verdict)
        return None

    async def _tell_turn(self, view: DeploymentView, verdict: Verdict) -> None:
        """An event where Ready's reason is another one than the status had."""
        before = next((condition.reason for condition in view.conditions if condition.type == "Ready"), "")
        if before != verdict.reason.value:
            await self._post(view, reason=verdict.reason.value, note=verdict.message, action="Reconcile", pod=None)

    async def _post(self, view: DeploymentView, *, reason: str, note: str, action: str, pod: Key | None) -> None:
        if not self._leadership.held:
            return
        self._events += 1
        moment = self._clock.now()
        event: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": view.key.namespace, "name": _event_name(view.key, moment, self._events)},
            "eventTime": _micro_time(moment),
            "reportingController": "slmpack.dev/operator",
            "reportingInstance": "slmpack",
            "type": "Normal" if reason in NORMAL or action == "Create" else "Warning",
            "reason": reason,
            "action": action,
            "note": note[:1024],
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": view.key.namespace,
                "name": view.key.name,
                "uid": view.uid,
            },
        }
        if pod is not None:
            event["related"] = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name}
        try:
            await self._cluster.post_event(event)
        except PortError as error:
            logger.warning("%s: event %s not posted: %s", view.key, reason, error)
        else:
            self._telemetry.wrote("event")


def status_of(part: DeploymentPlan, verdict: Verdict, *, product: str | None) -> dict[str, Any]:
    """The status as JSON; what is unknown is left out."""
    wanted = verdict.desired
    status = SLMDeploymentStatus(
        observed_generation=part.deployment.generation,
        ready=f"{verdict.ready}/{wanted}" if wanted is not None else f"{verdict.ready}/?",
        replicas=verdict.replicas,
        ready_replicas=verdict.ready,
        desired_replicas=wanted,
        updated_replicas=verdict.updated,
        outdated_replicas=verdict.outdated,
        selector=selector_string(part.deployment.key.name),
        per_gpu=part.per_gpu or None,
        share=verdict.share or None,
        gpu=product,
        reason=verdict.reason.value,
        max_model_len=part.max_model_len,
        footprint=_footprint(part),
        placements=_placements(part),
        unplaced=tuple(
            UnplacedStatus(count=entry.count, reason=entry.problem.reason.value, message=entry.problem.message)
            for entry in part.unplaced[:UNPLACED_MAX]
        ),
        conditions=tuple(
            ConditionStatus(
                type=condition.type,
                status=_ternary(condition.status),
                observed_generation=condition.observed_generation,
                last_transition_time=condition.last_transition.replace(microsecond=0),
                reason=condition.reason,
                message=condition.message,
            )
            for condition in verdict.conditions
        ),
    )
    found: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in found.items() if value not in ([], {})}


def _products(plan: ClusterPlan) -> dict[Key, str]:
    """The GPU products that each deployment's replicas are on."""
    found: dict[Key, set[str]] = {}
    for bar in plan.bars:
        for block in bar.blocks:
            if block.deployment is not None and block.state not in {"planned", "waiting"}:
                found.setdefault(block.deployment, set()).add(bar.product)
    return {key: ", ".join(sorted(products))[:253] for key, products in found.items()}


def _ternary(text: str) -> Any:  # noqa: ANN401 - validated by the model
    return text


def _footprint(part: DeploymentPlan) -> FootprintStatus | None:
    of = part.footprint
    if of is None:
        return None
    return FootprintStatus(
        weights_bytes=of.weights_bytes,
        kv_bytes_per_token=of.kv_bytes_per_token,
        kv_bytes=of.kv_bytes(part.kv_tokens),
        activation_bytes=of.activation_bytes,
        non_torch_bytes=of.non_torch_bytes,
        cuda_graph_bytes=of.cuda_graph_bytes,
        context_bytes=of.context_bytes,
        margin_bytes=of.margin_bytes,
        total_bytes=of.total_bytes(part.kv_tokens),
        basis=of.basis,
    )


def _placements(part: DeploymentPlan) -> tuple[PlacementStatus, ...]:
    counted = sorted((state for state in part.states if state.counts), key=lambda state: state.pod)
    return tuple(
        PlacementStatus(
            pod=state.pod.name,
            node=state.node,
            resource=state.resource,
            share=state.share,
            ready=state.ready,
            reason=state.problem.reason.value if state.problem else "",
        )
        for state in counted[:PLACEMENTS_MAX]
    )


def _of_action(action: Action) -> Mapping[str, Any]:
    if isinstance(action, CreatePod):
        note = f"created {action.name}: {action.record.share} on {action.placement.node}"
        pod = Key(action.deployment.key.namespace, action.name)
        return {"reason": Reason.CREATED.value, "note": note, "action": "Create", "pod": pod}
    note = f"{action.pod.name}: {action.problem.message}"
    return {"reason": action.problem.reason.value, "note": note, "action": "End", "pod": action.pod}


def _event_name(key: Key, moment: datetime, number: int) -> str:
    return f"{key.name}.{int(moment.timestamp() * 1e6):x}.{number:x}"


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
