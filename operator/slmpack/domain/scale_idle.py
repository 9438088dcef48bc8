"""When the last replica ends, and when it stays although no request came: where its GPU stays on for others anyway."""

from __future__ import annotations

from datetime import datetime

from slmpack.domain.inventory import where
from slmpack.domain.load import PEAK, SHORT
from slmpack.domain.scale_turn import Turn
from slmpack.domain.snapshot import Demand, DeploymentView, Key, PodView, Snapshot
from slmpack.domain.stacks import Layout

__all__ = ["is_idle", "stays_on"]


def is_idle(turn: Turn) -> bool:
    """Known for sure, for long enough, and where somebody would tell of the next request.

    A request within PEAK, when status has seen none for longer than that, came while no operator was there to note it.
    """
    busy = turn.state.busy
    if turn.scaling.least > 0 or turn.current == 0 or not turn.sight.quiet or busy is None:
        return False
    quiet = turn.now - busy
    return quiet >= turn.scaling.idle and not (turn.sight.lately and quiet >= PEAK + 2 * SHORT)


def stays_on(layout: Layout, snapshot: Snapshot, key: Key) -> str:
    """In words, that its GPU stays on without our replica, while a GPU in use has a free share; empty: not so.

    Replicas of a deployment that is idle itself keep no GPU on for another one. Which GPU of a node a share is on is
    an assumption (stacks).
    """
    if not any(gpu.in_use and gpu.more + gpu.withheld for gpu in layout.gpus):
        return ""  # others may want this one
    shared = {gpu.node for gpu in layout.used if gpu.others}
    views = {view.key: view for view in snapshot.deployments}
    awake = {where(pod) for pod in snapshot.pods if _keeps(pod, key, views, snapshot.now)}
    nodes = sorted(shared & awake)
    return f"its GPU on {nodes[0]} stays on for others, and shares are free: nothing would be saved" if nodes else ""


def _keeps(pod: PodView, key: Key, views: dict[Key, DeploymentView], now: datetime) -> bool:
    """Whether the GPU of this pod stays on for it; a stranger's does, as nobody knows better."""
    if pod.finished or pod.deleting or pod.ended:
        return False
    if pod.record is None:
        return True
    owner = views.get(pod.record.deployment)
    return pod.record.deployment != key and owner is not None and not _sleepy(owner, now)


def _sleepy(view: DeploymentView, now: datetime) -> bool:
    """Whether it may go to zero, and status has seen no request of it for that long."""
    scaling = view.demand.scaling if isinstance(view.demand, Demand) else None
    busy = None if view.scale is None else view.scale.busy
    return scaling is not None and scaling.least == 0 and busy is not None and now - busy >= scaling.idle
