"""SLMDeployments as people's GitOps tools find them, each with the status that the operator's own loop wrote.

The loop runs on the embedded store; a scene does to the cluster what a user, a kubelet or time would do. No status here
is written by hand.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from slmpack.adapters.resources import NODES, PODS, SERVICES, SLM_DEPLOYMENTS
from slmpack.devcluster.nodes import L4, mps_node
from tests.support.builders import POLICY
from tests.support.controller_world import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["SCENES", "Scene", "play"]

NAME = "m"
OF_THE_SERVER = ("uid", "resourceVersion", "managedFields")
"""Fields of metadata that differ from run to run and that nobody judges by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """How a status comes about, and what each tool has to say of it."""

    title: str
    """In the table of docs/gitops.md."""
    play: Callable[[World], Awaitable[None]]
    reason: str | None
    """The reason of Ready; None where no operator has said any."""
    argo: str
    """Argo CD's health by our script."""
    kstatus: str
    """By kstatus alone: Flux without health check expressions, and Helm 4's --wait."""
    flux: str
    """By Flux with our health check expressions; it asks about deletion before it evaluates them."""


async def play(scene: Scene) -> dict[str, Any]:
    """The SLMDeployment at the end of a scene, as the API server has it."""
    world = World()
    await scene.play(world)
    found = world.get(SLM_DEPLOYMENTS, NAME)
    metadata = {key: value for key, value in found["metadata"].items() if key not in OF_THE_SERVER}
    return {**found, "metadata": metadata}


async def _settle(world: World) -> None:
    for _ in range(3):
        await world.loop.turn()
        world.make_ready()
    await world.loop.turn()


async def _ready(world: World, **spec: Any) -> None:
    world.apply(NAME, **{"replicas": 2, **spec})
    await _settle(world)


def _container(world: World, pod: str, **status: Any) -> None:
    """What a kubelet says of a pod's engine; it is not Ready."""
    now = world.clock.now().isoformat()
    containers = [{"name": "engine", "ready": False, "restartCount": 1, "image": "", "imageID": "", **status}]
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": now}]
    world.patch(PODS, pod, {"status": {"containerStatuses": containers, "conditions": conditions}}, "status")


def _bind(world: World, pod: str) -> None:
    world.patch(PODS, pod, {"spec": {"nodeName": "a100"}})


def _spec(world: World, **spec: Any) -> None:
    world.patch(SLM_DEPLOYMENTS, NAME, {"spec": spec})


async def _new(world: World) -> None:
    world.apply(NAME)


async def _starting(world: World) -> None:
    world.apply(NAME, replicas=2)
    await world.loop.turn()


async def _all_ready(world: World) -> None:
    await _ready(world)


async def _crash_loop(world: World) -> None:
    await _ready(world)
    ended = {"exitCode": 1, "reason": "Error", "message": "RuntimeError: CUDA error: out of memory"}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    _container(world, "m-1", state=waiting, lastState={"terminated": ended})
    await world.loop.turn()


async def _oom_killed(world: World) -> None:
    await _ready(world)
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    _container(world, "m-0", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": ended})
    await world.loop.turn()


async def _image_pull(world: World) -> None:
    await _starting(world)
    message = "Back-off pulling image"
    for pod in world.pods():
        _container(world, pod, state={"waiting": {"reason": "ImagePullBackOff", "message": message}})
    await world.loop.turn()


async def _node_lost(world: World) -> None:
    await _ready(world, replicas=1)
    _bind(world, "m-0")
    world.patch(PODS, "m-0", {"status": {"phase": "Unknown", "conditions": []}}, "status")
    await world.loop.turn()


async def _pod_failed(world: World) -> None:
    await _ready(world)
    _bind(world, "m-1")
    world.patch(PODS, "m-1", {"status": {"phase": "Failed", "conditions": []}}, "status")
    await world.loop.turn()


async def _back_off(world: World) -> None:
    """Where engines share a GPU a pod is not restarted: the operator makes another, later each time."""
    world.store.create(world.store.registry.parse(NODES.path()), mps_node("mps", replicas=2, product=L4))
    await _ready(world, sharing={"mode": "MPS"})
    world.patch(PODS, "m-1", {"spec": {"nodeName": "mps"}})
    ended = {"exitCode": 1, "reason": "Error", "message": "RuntimeError: CUDA error: out of memory"}
    _container(world, "m-1", state={"terminated": ended})
    world.patch(PODS, "m-1", {"status": {"phase": "Failed"}}, "status")
    await world.loop.turn()
    await world.loop.turn()


async def _never_fits(world: World) -> None:
    world.apply(NAME, sharing={"gpuProducts": ["NVIDIA-H200"]})
    await world.loop.turn()


async def _no_room_now(world: World) -> None:
    world.apply("other", replicas=2, sharing={"mode": "Exclusive"})
    for _ in range(3):
        await world.loop.turn()
        world.make_ready()
    world.apply(NAME, sharing={"mode": "Exclusive"})
    await world.loop.turn()


async def _waits_for_a_node(world: World) -> None:
    world.apply("other", replicas=2, sharing={"mode": "Exclusive"})
    await world.loop.turn()
    world.apply(NAME, sharing={"mode": "Exclusive", "whenFull": "Pending"})
    await world.loop.turn()
    await world.loop.turn()


async def _too_many(world: World) -> None:
    world.apply(NAME, replicas=20)
    await _settle(world)


async def _rejected(world: World) -> None:
    world.apply(NAME, engine={"args": {"no-such-flag": "1"}})
    await world.loop.turn()


async def _rejected_while_running(world: World) -> None:
    await _ready(world)
    _spec(world, engine={"args": {"no-such-flag": "1"}})
    await world.loop.turn()


async def _model_unavailable(world: World) -> None:
    world.start(bundled=False)
    world.apply(NAME)
    for _ in range(2):
        await world.loop.turn()
        await asyncio.sleep(0)  # the answer of a Hub that is offline


async def _rolling_out(world: World) -> None:
    await _ready(world)
    _spec(world, engine={"maxModelLen": 2048})
    await world.loop.turn()
    await world.loop.turn()


async def _rollout_stopped(world: World) -> None:
    await _rolling_out(world)
    (late,) = world.pods().keys() - {"m-0", "m-1"}
    _bind(world, late)
    world.clock.advance(601)
    await world.loop.turn()
    world.patch(PODS, late, {"status": {"phase": "Failed", "reason": "DeadlineExceeded"}}, "status")
    await world.loop.turn()


async def _to_zero(world: World) -> None:
    await _ready(world)
    _spec(world, replicas=0)
    for _ in range(2):
        await world.loop.turn()
        for pod in world.pods():
            world.remove(pod)
    await world.loop.turn()


async def _metrics_unknown(world: World) -> None:
    world.apply(NAME, scaling={"min": 1, "max": 4})
    await _settle(world)
    world.clock.advance(120)
    await world.loop.turn()


async def _stale(world: World) -> None:
    await _ready(world)
    _spec(world, replicas=3)


async def _deleting(world: World) -> None:
    await _ready(world)
    finalizers = {"metadata": {"finalizers": ["foregroundDeletion"]}}
    world.patch(SLM_DEPLOYMENTS, NAME, finalizers)
    path = SLM_DEPLOYMENTS.path(namespace="default", name=NAME)
    world.store.delete(world.store.registry.parse(path))


async def _outdated(world: World) -> None:
    await _ready(world)
    world.start(policy=replace(POLICY, render_version="2"))
    await world.loop.turn()
    await world.loop.turn()


async def _name_conflict(world: World) -> None:
    foreign = {"metadata": {"name": NAME, "namespace": "default"}, "spec": {"ports": [{"port": 1}]}}
    world.store.create(world.store.registry.parse(SERVICES.path(namespace="default")), foreign)
    world.apply(NAME)
    await world.loop.turn()


def _scene(
    title: str, play: Callable[[World], Awaitable[None]], reason: str | None, argo: str, kstatus: str, flux: str
) -> Scene:
    return Scene(title=title, play=play, reason=reason, argo=argo, kstatus=kstatus, flux=flux)


SCENES = {
    # title, how it comes about, Ready's reason, Argo CD, kstatus, Flux with our expressions
    "no-status": _scene("new, not seen by the operator yet", _new, None, "Progressing", "InProgress", "InProgress"),
    "stale": _scene("the spec has changed since", _stale, "AllReady", "Progressing", "InProgress", "InProgress"),
    "deleting": _scene(
        "being deleted in the foreground", _deleting, "AllReady", "Progressing", "Terminating", "Current"
    ),
    "starting": _scene("replicas start", _starting, "Starting", "Progressing", "InProgress", "InProgress"),
    "rolling-out": _scene(
        "a new spec rolls out", _rolling_out, "RollingOut", "Progressing", "InProgress", "InProgress"
    ),
    "model-unavailable": _scene(
        "the model's config.json cannot be fetched now",
        _model_unavailable,
        "ModelUnavailable",
        "Progressing",
        "InProgress",
        "InProgress",
    ),
    "no-room-now": _scene(
        "no room now: others have the GPUs", _no_room_now, "InsufficientGpus", "Progressing", "InProgress", "InProgress"
    ),
    "waits-for-a-node": _scene(
        "no room now, `whenFull: Pending`: waits for a node",
        _waits_for_a_node,
        "Unschedulable",
        "Progressing",
        "InProgress",
        "InProgress",
    ),
    "never-fits": _scene("no node has such a GPU", _never_fits, "NoMatchingGpu", "Degraded", "Failed", "Failed"),
    "more-than-the-cluster-holds": _scene(
        "more replicas than the cluster could hold", _too_many, "InsufficientGpus", "Degraded", "Failed", "Failed"
    ),
    "rejected": _scene("the spec is rejected", _rejected, "InvalidSpec", "Degraded", "Failed", "Failed"),
    "rejected-while-running": _scene(
        "the spec is rejected, replicas of the one before serve on",
        _rejected_while_running,
        "InvalidSpec",
        "Degraded",
        "Failed",
        "Failed",
    ),
    "rollout-stopped": _scene(
        "the new spec's replica failed, the others serve on",
        _rollout_stopped,
        "RolloutStopped",
        "Degraded",
        "InProgress",
        "Failed",
    ),
    "crash-loop": _scene(
        "one of two engines crashes again and again", _crash_loop, "CrashLoop", "Degraded", "InProgress", "InProgress"
    ),
    "oom-killed": _scene(
        "one of two ran out of host memory", _oom_killed, "OOMKilled", "Degraded", "InProgress", "InProgress"
    ),
    "pod-failed": _scene("one of two pods failed", _pod_failed, "PodFailed", "Degraded", "InProgress", "InProgress"),
    "back-off": _scene(
        "one of two engines on a shared GPU failed, another try waits",
        _back_off,
        "PodFailed",
        "Degraded",
        "InProgress",
        "InProgress",
    ),
    "image-pull": _scene(
        "the image cannot be pulled", _image_pull, "ImagePullBackOff", "Degraded", "InProgress", "InProgress"
    ),
    "node-lost": _scene("the node does not answer", _node_lost, "NodeLost", "Degraded", "InProgress", "InProgress"),
    "name-conflict": _scene(
        "a Service of that name is somebody else's",
        _name_conflict,
        "NameConflict",
        "Degraded",
        "InProgress",
        "InProgress",
    ),
    "ready": _scene("all replicas are Ready", _all_ready, "AllReady", "Healthy", "Current", "Current"),
    "scaled-to-zero": _scene("scaled to zero", _to_zero, "ScaledToZero", "Healthy", "Current", "Current"),
    "metrics-unknown": _scene(
        "Ready, and the load cannot be measured", _metrics_unknown, "AllReady", "Healthy", "Current", "Current"
    ),
    "outdated": _scene(
        "Ready, replicas made by an older operator", _outdated, "AllReady", "Healthy", "Current", "Current"
    ),
}
