"""When the last replica ends, and when it stays although no request came: where its GPU stays on for others anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
    """In words, that its GPU stays on without our replica, and that nobody needs its share; empty: not so.

    Only of nodes with one GPU: of others nobody publishes which GPU a share is on. Replicas of a deployment that may go
    to zero, and is idle itself, keep no GPU on.
    """
    views = {view.key: view for view in snapshot.deployments}
    live = [pod for pod in snapshot.pods if not (pod.finished or pod.deleting or pod.ended)]
    if not any(gpu.in_use and gpu.more + gpu.withheld for gpu in layout.gpus) or _somebody_lacks(views, live):
        return ""
    nodes = [gpu.node for gpu in layout.gpus]
    awake = {where(pod) for pod in live if _keeps(pod, key, views, snapshot.now)}
    kept = sorted(gpu.node for gpu in layout.used if gpu.node in awake and nodes.count(gpu.node) == 1)
    return f"its GPU on {kept[0]} stays on for others, and shares are free: nothing would be saved" if kept else ""


def _keeps(pod: PodView, key: Key, views: dict[Key, DeploymentView], now: datetime) -> bool:
    """Whether the GPU of this pod stays on for it; a stranger's does, as nobody knows better."""
    if pod.record is None:
        return True
    owner = views.get(pod.record.deployment)
    return pod.record.deployment != key and owner is not None and not _sleepy(owner, now)


def _sleepy(view: DeploymentView, now: datetime) -> bool:
    """Whether it goes, or may go to zero and had no request that status knows of for that long."""
    scaling = view.demand.scaling if isinstance(view.demand, Demand) else None
    busy = None if view.scale is None else view.scale.busy
    idle = scaling is not None and scaling.least == 0 and busy is not None and now - busy >= scaling.idle
    return view.deleting or idle


def _somebody_lacks(views: dict[Key, DeploymentView], live: Sequence[PodView]) -> bool:
    """Whether a deployment has fewer replicas than it wants, so that a share may be wanted that is ours."""
    running: Counter[Key] = Counter()
    for pod in live:
        if pod.record is not None:
            running[pod.record.deployment] += pod.record.replicas
    return any(running[key] < _wanted(view) for key, view in views.items())


def _wanted(view: DeploymentView) -> int:
    if not isinstance(view.demand, Demand) or view.deleting:
        return 0
    if view.demand.scaling is None:
        return view.demand.replicas
    return 0 if view.scale is None else view.scale.desired
