"""A plan's writes, in its order: ends and deletes, engines of packs, then pods as D4b ranks them, then Services.

A refusal is an outcome, which status reports, and is not asked again before its back-off has passed. So is a bug that
one SLMDeployment meets: it must not keep the others from being served. No answer is an error: the rest is left, and the
loop tries again from a fresh look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from slmpack.domain.engine import EngineTable
from slmpack.domain.internal import internal_problem
from slmpack.domain.plan import Action, ClusterPlan, CreatePod, DeletePod, DeploymentPlan, EndPod, Outcome, SetEngines
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import MpsPack
from slmpack.domain.snapshot import Demand, Key
from slmpack.ports import (
    Clock,
    Cluster,
    Conflict,
    Forbidden,
    Invalid,
    Leadership,
    Manifest,
    NotFound,
    Packs,
    PortError,
    Telemetry,
    Unavailable,
)
from slmpack.render.claims import render_claim_template
from slmpack.render.pack_children import PackPod, pack_account, pack_children
from slmpack.render.pod import render_pod
from slmpack.render.record import engines_patch
from slmpack.render.service import render_service

__all__ = ["Execution", "Executor"]

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Writes under way at a time; they start in the plan's order."""
INTERNAL_ERROR = 500
FIRST_PAUSE_SECONDS = 10.0
PODS_OF = "*"
PARTS_OF = "/parts"
"""Behind the name of a pack's pod: its Role, RoleBinding and slices. No object's name holds a slash."""
LAST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What became of a plan."""

    done: tuple[Action, ...]
    outcomes: tuple[Outcome, ...]
    """What the API server refused."""
    broken: PortError | None
    """The first write without an answer; none was started after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    made_from: str
    """Hash of the spec (a Service: generation) that was refused: another one is tried at once."""
    outcome: Outcome
    pause: float
    retry_at: float


class Executor:
    """Runs plans; remembers nothing but refusals."""

    def __init__(  # noqa: PLR0913 - what a plan's writes go through
        self,
        cluster: Cluster,
        *,
        packs: Packs,
        leadership: Leadership,
        engines: EngineTable,
        supervisor_image: str | None,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._cluster = cluster
        self._packs = packs
        self._supervisor_image = supervisor_image
        self._leadership = leadership
        self._engines = engines
        self._clock = clock
        self._telemetry = telemetry
        self._refusals: dict[tuple[Key, str], _Refusal] = {}
        """By SLMDeployment, and by pod for what ends one. Its Service is "", its new pods, alike as they are, "*"."""
        self._crowded: set[str] = set()
        """Packs that found parts of an earlier pod of their name, which the cluster is about to remove."""

    async def execute(self, plan: ClusterPlan) -> Execution:
        """The pods' part of a plan, all that can be done; stops between two writes when the Lease is lost."""
        self._forget(plan)
        run = _Run(self._leadership)
        run.outcomes.extend(refusal.outcome for at, refusal in self._refusals.items() if at[1] == PODS_OF)
        await run.all(self._end(run, action) for action in plan.actions if isinstance(action, DeletePod | EndPod))
        await run.all(self._set_engines(run, action) for action in plan.actions if isinstance(action, SetEngines))
        await run.all(self._create(run, action) for action in plan.actions if isinstance(action, CreatePod))
        return Execution(done=tuple(run.done), outcomes=tuple(run.outcomes), broken=run.broken)

    async def serve(self, plan: ClusterPlan, execution: Execution, *, bare: Iterable[PackPod] = ()) -> Execution:
        """The Services' part, after the pods', and that of packs which lack parts: what became of all."""
        run = _Run(self._leadership)
        run.broken = execution.broken
        await run.all(self._serve(run, part) for part in plan.deployments if _is_served(part))
        packs = self._to_furnish(plan, bare)
        await run.all(self._furnish(run, pod) for pod in packs)
        return replace(execution, outcomes=(*execution.outcomes, *run.outcomes), broken=run.broken)

    @property
    def next_retry(self) -> float | None:
        """Seconds until a refused write may be tried again; None if there is none."""
        now = self._clock.monotonic()
        due = [refusal.retry_at - now for refusal in self._refusals.values() if refusal.retry_at > now]
        return min(due, default=None)

    @property
    def refused(self) -> dict[tuple[Key, str], Problem]:
        """By SLMDeployment and spec hash: why none of its pods is to be tried now."""
        now = self._clock.monotonic()
        return {
            (key, refusal.made_from): refusal.outcome.problem
            for (key, name), refusal in self._refusals.items()
            if name == PODS_OF and now < refusal.retry_at
        }

    def _end(self, run: _Run, action: DeletePod | EndPod) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            pod, why = action.pod, action.problem.reason.value
            if isinstance(action, EndPod):
                await self._cluster.end_pod(
                    namespace=pod.namespace, name=pod.name, uid=action.uid, reason=f"{why}: {action.problem.message}"
                )
            else:
                await self._cluster.delete(kind="Pod", namespace=pod.namespace, name=pod.name, uid=action.uid)
            verb = "delete" if isinstance(action, DeletePod) else "end"
            logger.info("%s: %s %s: %s: %s", action.deployment, verb, pod.name, why, action.problem.message)
            self._telemetry.wrote(verb)
            run.done.append(action)
            if isinstance(action, DeletePod) and action.problem.reason is Reason.UNSCHEDULABLE:
                outcome = Outcome(deployment=action.deployment, pod=pod.name, problem=action.problem)
                self._refuse(action.deployment, PODS_OF, made_from=action.spec_hash, outcome=outcome)

        return lambda: self._guarded(run, work, key=action_key(action), name=pod_of(action), made_from="end")

    def _set_engines(self, run: _Run, action: SetEngines) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            pod, running = action.pod, ", ".join(map(str, action.running)) or "none"
            if not action.recorded:
                if not await self._cluster.patch_pod(
                    namespace=pod.namespace, name=pod.name, patch=engines_patch(action)
                ):
                    return
                logger.info("%s: engines %s of %s: %s", action.deployment, running, pod.name, action.problem.message)
                self._telemetry.wrote("engines")
                run.done.append(action)
            try:
                await self._packs.set_engines(action.uid, action.running)
            except PortError as error:
                # It is recorded, so nothing is lost: the plan asks again while the supervisor means to run others.
                logger.debug("%s: %s was not told to run engines %s: %s", action.deployment, pod.name, running, error)

        made_from = f"engines {action.running}"
        return lambda: self._guarded(run, work, key=action.deployment, name=action.pod.name, made_from=made_from)

    def _create(self, run: _Run, action: CreatePod) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            for manifest in _needed_by(action):
                await self._make(manifest)
            if not await self._make(await self._pod(action)):
                return  # an answer of ours got lost: it was made and is there
            where = f"{action.record.share} on {action.placement.where}"
            logger.info("%s: create %s: %s", action.deployment.key, action.name, where)
            self._telemetry.wrote("create")
            run.done.append(action)

        key, made_from = action.deployment.key, action.demand.spec_hash
        return lambda: self._guarded(run, work, key=key, name=PODS_OF, made_from=made_from, pod=action.name)

    async def _make(self, manifest: Manifest) -> bool:
        """One of several writes in a row: none is begun without the right to. Raises PortError."""
        if not self._leadership.held:
            raise Unavailable("the Lease was lost between two writes")
        return await self._cluster.create(manifest)

    async def _pod(self, action: CreatePod) -> Manifest:
        token_hash = ""
        if isinstance(action.placement.share, MpsPack):
            token_hash = await self._packs.token_hash(owner_uid=action.deployment.uid, pod=action.name)
        return render_pod(action, engines=self._engines, supervisor_image=self._supervisor_image, token_hash=token_hash)

    def _to_furnish(self, plan: ClusterPlan, bare: Iterable[PackPod]) -> list[PackPod]:
        """Those of `bare` that are to be served; what was refused to others is forgotten."""
        served = {part.deployment.key for part in plan.deployments if not part.deployment.deleting}
        packs = [pod for pod in bare if _owner(pod) in served]
        kept = {(_owner(pod), f"{pod.key.name}{PARTS_OF}") for pod in packs}
        self._refusals = {
            at: refusal for at, refusal in self._refusals.items() if at in kept or not at[1].endswith(PARTS_OF)
        }
        self._crowded &= {pod.uid for pod in packs}
        return packs

    def _furnish(self, run: _Run, pod: PackPod) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            try:
                for manifest in pack_children(pod):
                    await self._make(manifest)
            except Conflict:
                if pod.uid in self._crowded:
                    raise
                self._crowded.add(pod.uid)
                return
            logger.info("%s: made what %s needs to publish its engines", _owner(pod), pod.key.name)
            self._telemetry.wrote("endpoints")

        name = f"{pod.key.name}{PARTS_OF}"
        return lambda: self._guarded(run, work, key=_owner(pod), name=name, made_from=pod.uid, pod=pod.key.name)

    def _serve(self, run: _Run, part: DeploymentPlan) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            if isinstance(part.deployment.demand, Demand):
                await self._cluster.apply(render_service(part.deployment, part.deployment.demand))

        made_from = str(part.deployment.generation)
        return lambda: self._guarded(run, work, key=part.deployment.key, name="", made_from=made_from)

    async def _guarded(  # noqa: PLR0913 - what is tried, and how a refusal of it is told
        self,
        run: _Run,
        work: Callable[[], Awaitable[None]],
        *,
        key: Key,
        name: str,
        made_from: str,
        pod: str = "",
    ) -> None:
        known = self._refusals.get((key, name))
        if known is not None and known.made_from == made_from and self._clock.monotonic() < known.retry_at:
            if known.outcome not in run.outcomes:
                run.outcomes.append(known.outcome)
            return
        pod = pod or name
        try:
            await work()
        except PortError as error:
            if not _is_refusal(error):
                logger.warning("%s: no answer to a write: %s", key, error)
                run.broken = run.broken or error
                return
            problem = _problem(error)
            logger.warning("%s: %s: %s", key, problem.reason.value, problem.message)
        except Exception as error:  # one SLMDeployment's bug must not stop the others
            problem = internal_problem(error, during=f"writing the pod {pod}" if pod else "writing the Service")
            if known is None or known.outcome.problem != problem:
                logger.exception("%s: %s", key, problem.message)
        else:
            if known is not None and known.outcome.problem.reason is not Reason.UNSCHEDULABLE:
                del self._refusals[key, name]  # whether the scheduler takes it this time shows later
            return
        outcome = Outcome(deployment=key, pod=pod, problem=problem)
        run.outcomes.append(outcome)
        self._refuse(key, name, made_from=made_from, outcome=outcome)

    def _refuse(self, key: Key, name: str, *, made_from: str, outcome: Outcome) -> None:
        known, now = self._refusals.get((key, name)), self._clock.monotonic()
        if known is None or known.made_from != made_from:
            pause = FIRST_PAUSE_SECONDS
        elif now < known.retry_at:
            return  # one of several alike; the first counts
        else:
            gone_soon = outcome.problem.reason is Reason.NAME_CONFLICT  # mostly what a deleted namesake has left
            pause = FIRST_PAUSE_SECONDS if gone_soon else min(known.pause * 2, LAST_PAUSE_SECONDS)
        self._refusals[key, name] = _Refusal(made_from=made_from, outcome=outcome, pause=pause, retry_at=now + pause)

    def _forget(self, plan: ClusterPlan) -> None:
        """A write that the plan no longer asks for is no longer refused; new pods are while the spec is the same."""
        asked = {(action_key(action), pod_of(action)) for action in plan.actions if not isinstance(action, CreatePod)}
        asked |= {(part.deployment.key, "") for part in plan.deployments if _is_served(part)}
        specs = {part.deployment.key: part.deployment.demand for part in plan.deployments}

        def is_asked(at: tuple[Key, str], refusal: _Refusal) -> bool:
            demand = specs.get(at[0])
            if at[1].endswith(PARTS_OF):
                return True
            if at[1] == PODS_OF:
                return isinstance(demand, Demand) and demand.spec_hash == refusal.made_from and demand.replicas > 0
            return at in asked

        self._refusals = {at: refusal for at, refusal in self._refusals.items() if is_asked(at, refusal)}


class _Run:
    """One execution under way."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.done: list[Action] = []
        self.outcomes: list[Outcome] = []
        self.broken: PortError | None = None

    async def all(self, works: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """Start each in its turn, a few at a time; none without the right to write, or after one got no answer."""
        async with asyncio.TaskGroup() as group:
            for work in works:
                await self._slots.acquire()
                if self.broken is not None or not self._leadership.held:
                    self._slots.release()
                    return
                group.create_task(self._one(work))

    async def _one(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._slots.release()


def action_key(action: Action) -> Key:
    """The SLMDeployment that an action is for."""
    return action.deployment.key if isinstance(action, CreatePod) else action.deployment


def pod_of(action: Action) -> str:
    """The name of the pod that an action is about."""
    return action.name if isinstance(action, CreatePod) else action.pod.name


def _needed_by(action: CreatePod) -> list[Manifest]:
    """What has to be there before the pod."""
    found: list[Manifest | None] = [render_claim_template(action)]
    if isinstance(action.placement.share, MpsPack):
        found.append(pack_account(action.deployment, action.demand))
    return [manifest for manifest in found if manifest is not None]


def _owner(pod: PackPod) -> Key:
    return Key(pod.key.namespace, pod.deployment)


def _is_served(part: DeploymentPlan) -> bool:
    """A Service is kept for what is accepted; that of a frozen deployment is left as it is."""
    return not part.deployment.deleting and isinstance(part.deployment.demand, Demand)


def _is_refusal(error: PortError) -> bool:
    """Whether the API server judged this write. A 500 is mostly an admission webhook that is broken."""
    return isinstance(error, (Conflict, Forbidden, Invalid, NotFound)) or error.status == INTERNAL_ERROR


def _problem(error: PortError) -> Problem:
    if isinstance(error, Conflict):
        message = f"an object of that name exists and is not controlled by this SLMDeployment: {error}"
        return Problem(reason=Reason.NAME_CONFLICT, message=message)
    return Problem(reason=Reason.CREATE_REFUSED, message=str(error))
