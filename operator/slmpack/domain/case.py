"""One SLMDeployment on its way down the line: its pods sorted, its need sized, the offers that suit it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmpack.domain.board import Room
from slmpack.domain.inventory import GpuNode, read_nodes
from slmpack.domain.packing import candidates_for
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.rollout import Book, keep_book
from slmpack.domain.scale_decision import ScaleDecision
from slmpack.domain.scaling import decide_scale
from slmpack.domain.sharing import Mode
from slmpack.domain.sizing import Need, size_replica
from slmpack.domain.snapshot import Demand, DeploymentView, PodView, Policy, Rejected, Snapshot
from slmpack.domain.victims import Crowds, crowds_of

__all__ = ["Case", "World", "open_cases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The snapshot with its GPU nodes read, and the policy."""

    snapshot: Snapshot
    nodes: tuple[GpuNode, ...]
    policy: Policy
    crowds: Crowds
    """Who is on the nodes whose GPUs are shared."""

    @classmethod
    def read(cls, snapshot: Snapshot, policy: Policy) -> World:
        """Read the nodes once."""
        nodes = read_nodes(snapshot.nodes, policy.gpus)
        return cls(snapshot=snapshot, nodes=nodes, policy=policy, crowds=crowds_of(nodes, snapshot.pods))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of one SLMDeployment before anything is placed. What is not is None, and `problems` says why."""

    view: DeploymentView
    pods: tuple[PodView, ...]
    demand: Demand | None = None
    book: Book | None = None
    """None freezes its pods: the spec is rejected, or the object is being deleted."""
    need: Need | None = None
    room: Room | None = None
    scale: ScaleDecision | None = None
    """Why `demand.replicas` is what it is; None where the user said it."""
    problems: tuple[Problem, ...] = ()


def open_cases(world: World) -> tuple[Case, ...]:
    """Every SLMDeployment, sorted by namespace and name."""
    by_owner: dict[str, list[PodView]] = {}
    for pod in sorted(world.snapshot.pods, key=lambda p: p.key):
        if pod.record is not None:
            by_owner.setdefault(pod.record.owner_uid, []).append(pod)
    views = sorted(world.snapshot.deployments, key=lambda view: view.key)
    return tuple(_open(view, tuple(by_owner.get(view.uid, ())), world) for view in views)


def _open(view: DeploymentView, pods: tuple[PodView, ...], world: World) -> Case:
    demand = view.demand
    if isinstance(demand, Rejected):
        return Case(view=view, pods=pods, problems=demand.problems)
    if view.deleting:
        return Case(view=view, pods=pods, demand=demand)
    need = size_replica(demand, world.policy, (pod.record for pod in pods if pod.record is not None))
    room = None if isinstance(need, Problem) else _room(demand, need, world)
    scale = _scale(view, demand, pods, need, room, world)
    if scale is not None:
        demand = replace(demand, replicas=scale.desired)
        view = replace(view, demand=demand)
    refused = world.snapshot.refused.get((view.key, demand.spec_hash))
    book = keep_book(demand, pods, world.policy, now=world.snapshot.now, refused=refused, crowds=world.crowds)
    if isinstance(need, Problem):
        return Case(view=view, pods=pods, demand=demand, book=book, scale=scale, problems=(need,))
    return Case(view=view, pods=pods, demand=demand, book=book, need=need, room=room, scale=scale)


def _room(demand: Demand, need: Need, world: World) -> Room:
    room = candidates_for(demand, need, world.nodes, world.policy)
    return _by_claim(room, world.snapshot.dra) if demand.mode is Mode.DRA else room


def _scale(  # noqa: PLR0913, PLR0917 - a step of the line
    view: DeploymentView,
    demand: Demand,
    pods: tuple[PodView, ...],
    need: Need | Problem,
    room: Room | None,
    world: World,
) -> ScaleDecision | None:
    """Offers are judged for the most replicas: what a GPU may carry does not change with the hour's load."""
    if demand.scaling is None:
        return None
    return decide_scale(
        view,
        demand,
        demand.scaling,
        need=None if isinstance(need, Problem) else need,
        room=room,
        pods=pods,
        nodes=world.nodes,
        snapshot=world.snapshot,
        policy=world.policy,
    )


_OTHER_SHARES = frozenset({Reason.TIME_SLICED, Reason.SINGLE_STRATEGY_MIG, Reason.NO_MATCHING_GPU})


def _by_claim(room: Room, dra: Problem | None) -> Room:
    """For who asks for a ResourceClaim: what keeps claims from working tells more than what else the nodes share."""
    if dra is not None:
        return replace(room, rejections=(dra,))
    return replace(room, rejections=tuple(sorted(room.rejections, key=lambda p: p.reason in _OTHER_SHARES)))
