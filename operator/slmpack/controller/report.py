"""What users see: status (written by nobody else, only when it changed), then events, then metrics (D10)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slmpack.controller.execute import Execution, action_key
from slmpack.controller.status import products_of, status_of
from slmpack.domain.conditions import Verdict, judge
from slmpack.domain.plan import Action, ClusterPlan, CreatePod, DeploymentPlan, Outcome, SetEngines
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_news import headlines
from slmpack.domain.snapshot import DeploymentView, Key
from slmpack.ports import Clock, Cluster, Conflict, Leadership, NotFound, PortError, Telemetry, Unavailable
from slmpack.render.names import API_VERSION, KIND

__all__ = ["Reporter"]

logger = logging.getLogger(__name__)

AT_ONCE = 16
FIRST_PAUSE_SECONDS = 10.0
LAST_PAUSE_SECONDS = 300.0
NOTE_BYTES = 1024
"""As events.k8s.io/v1 allows."""
NAME_START = 200
"""Characters of an SLMDeployment's name that begin an event's, which has 253."""
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
        Reason.SCALED_UP,
        Reason.REPLACED,
        Reason.MODEL_PENDING,
        Reason.LOAD_ROSE,
        Reason.LOAD_FELL,
        Reason.STEADY,
        Reason.HELD,
        Reason.AT_MIN,
        Reason.IDLE,
        Reason.WOKEN,
    )
)
"""Reasons that are no cause for a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """A status that could not be made, or that the API server refused."""

    generation: int
    """A changed spec is tried at once."""
    said: str
    pause: float
    retry_at: float


class Reporter:
    """Writes status and events. What goes wrong with one SLMDeployment's is put off and keeps no other from its own."""

    def __init__(self, cluster: Cluster, *, leadership: Leadership, clock: Clock, telemetry: Telemetry) -> None:
        self._cluster = cluster
        self._leadership = leadership
        self._clock = clock
        self._telemetry = telemetry
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._events = 0
        self._refused: dict[str, _Refused] = {}

    async def report(self, plan: ClusterPlan, execution: Execution) -> PortError | None:
        """Say of every deployment what is, and of every deed why; the first error, if the API server gave no answer."""
        now = self._clock.now()
        outcomes = {
            part.deployment.key: [o for o in execution.outcomes if o.deployment == part.deployment.key]
            for part in (plan.deployments if execution.outcomes else ())
        }
        alive = {part.deployment.uid for part in plan.deployments}
        self._refused = {uid: refused for uid, refused in self._refused.items() if uid in alive}
        judged = [(part, self._judge(part, outcomes.get(part.deployment.key, ()), now)) for part in plan.deployments]
        verdicts = {part.deployment.key: verdict for part, verdict in judged if verdict is not None}
        products = products_of(plan)
        written = [self._write(part, verdict, products) for part, verdict in judged if verdict is not None]
        errors = await asyncio.gather(*written)
        views = {part.deployment.key: part.deployment for part in plan.deployments}
        deeds = [(views[key], action) for action in execution.done if (key := action_key(action)) in views]
        await asyncio.gather(*(self._post(view, **_of_action(action)) for view, action in deeds))
        self._telemetry.judged(verdicts)
        self._telemetry.planned(plan)
        return next((error for error in errors if error is not None), None)

    def _judge(self, part: DeploymentPlan, outcomes: Sequence[Outcome], now: datetime) -> Verdict | None:
        try:
            return judge(part, outcomes=outcomes, now=now)
        except Exception as error:  # noqa: BLE001 - one SLMDeployment's bug must not silence the others
            self._put_off(part.deployment, error)
            return None

    async def _write(self, part: DeploymentPlan, verdict: Verdict, products: Mapping[Key, str]) -> PortError | None:
        view = part.deployment
        async with self._slots:
            if view.deleting or not self._leadership.held or self._must_wait(view):
                return None
            try:
                status = status_of(part, verdict, product=products.get(view.key))
                changed = await self._cluster.apply_status(
                    namespace=view.key.namespace, name=view.key.name, uid=view.uid, status=status
                )
            except (NotFound, Conflict):
                return None  # deleted meanwhile
            except Unavailable as error:
                logger.warning("%s: status not written: %s", view.key, error)
                return error
            except Exception as error:  # noqa: BLE001 - a refusal or a bug: this one's waits, the others' are written
                self._put_off(view, error)
                return None
        self._refused.pop(view.uid, None)
        if changed:
            self._telemetry.wrote("status")
            await self._tell_turn(view, verdict)
            await self._tell_scaling(view, verdict)
        return None

    def _must_wait(self, view: DeploymentView) -> bool:
        known = self._refused.get(view.uid)
        return known is not None and known.generation == view.generation and self._clock.monotonic() < known.retry_at

    def _put_off(self, view: DeploymentView, error: Exception) -> None:
        """Log it once, and try again later and later."""
        known = self._refused.get(view.uid)
        said = f"{type(error).__name__}: {error}"
        if known is None or known.said != said:
            trace = None if isinstance(error, PortError) else error
            logger.error("%s: status not written: %s", view.key, said, exc_info=trace)
        pause = min(known.pause * 2, LAST_PAUSE_SECONDS) if known else FIRST_PAUSE_SECONDS
        retry_at = self._clock.monotonic() + pause
        self._refused[view.uid] = _Refused(generation=view.generation, said=said, pause=pause, retry_at=retry_at)

    async def _tell_turn(self, view: DeploymentView, verdict: Verdict) -> None:
        """An event where Ready's reason is another one than the status had."""
        before = next((condition.reason for condition in view.conditions if condition.type == "Ready"), "")
        if before != verdict.reason.value:
            await self._post(view, reason=verdict.reason.value, note=verdict.message, action="Reconcile", pod=None)

    async def _tell_scaling(self, view: DeploymentView, verdict: Verdict) -> None:
        """Events where another number of replicas is wanted, or where something new keeps it."""
        if verdict.scaling is None or verdict.decision is None:
            return
        for reason, note in headlines(view, verdict.scaling, verdict.decision):
            # while a first replica starts, there is nothing to be measured
            action = "Start" if reason is Reason.METRICS_UNKNOWN and not verdict.ready else "Scale"
            await self._post(view, reason=reason.value, note=note, action=action, pod=None)

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
            "type": "Normal" if reason in NORMAL or action in {"Create", "Start"} else "Warning",
            "reason": reason,
            "action": action,
            "note": _note(note),
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


def _of_action(action: Action) -> Mapping[str, Any]:
    if isinstance(action, CreatePod):
        note = f"created {action.name}: {action.record.share} on {action.placement.where}"
        pod = Key(action.deployment.key.namespace, action.name)
        return {"reason": Reason.CREATED.value, "note": note, "action": "Create", "pod": pod}
    if isinstance(action, SetEngines):
        running = ", ".join(map(str, action.running)) or "none"
        note = f"{action.pod.name} is to run engines {running}: {action.problem.message}"
        return {"reason": action.problem.reason.value, "note": note, "action": "SetEngines", "pod": action.pod}
    note = f"{action.pod.name}: {action.problem.message}"
    return {"reason": action.problem.reason.value, "note": note, "action": "End", "pod": action.pod}


def _event_name(key: Key, moment: datetime, number: int) -> str:
    return f"{key.name[:NAME_START].rstrip('-.')}.{int(moment.timestamp() * 1e6):x}.{number:x}"


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _note(text: str) -> str:
    """At most so many bytes; the ellipsis has three."""
    content = text.encode(errors="replace")
    return content.decode() if len(content) <= NOTE_BYTES else f"{content[: NOTE_BYTES - 3].decode(errors='ignore')}…"
