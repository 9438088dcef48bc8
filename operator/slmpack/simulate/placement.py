"""Where a baseline's replicas go and which of them end: Kubernetes' own way, and this operator's.

Both choose a node; the GPU within it is the device plugin's choice: the one with the fewest units in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, log2
from typing import Literal

from slmpack.simulate.policies.base import GpuSeen, Placement, ReplicaSeen

__all__ = ["KubernetesPlacement", "PackedPlacement", "PlacementName", "placement_named"]

PlacementName = Literal["kubernetes", "slmpack"]

_SPREAD_WEIGHT = 2
_SKEW = 3
"""PodTopologySpread: its default weight, and maxSkew of the default constraint on hostnames (of zones it is 5)."""
_UID_MULTIPLIER = 2654435761
"""Knuth's multiplicative hash: pods of one age bucket are ordered by their random uid."""
_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True)
class _Node:
    """A node with room: its GPUs, units and tenants."""

    node: int
    gpus: tuple[GpuSeen, ...]

    @property
    def units(self) -> int:
        return sum(one.slots for one in self.gpus)

    @property
    def used(self) -> int:
        return sum(one.used for one in self.gpus)

    def siblings(self, tenant: int) -> int:
        """Replicas of one tenant on this node."""
        return sum(owner == tenant for one in self.gpus for _, owner in one.replicas)


class KubernetesPlacement:
    """The default scheduler and the ReplicaSet controller.

    Scores: NodeResourcesFit's LeastAllocated on CPU and memory (weight 1; extended resources such as GPUs are only
    filtered on, not scored) and PodTopologySpread by hostname (weight 2). Equal engines ask for equal CPU, so the share
    of a node's units in use stands for its CPU. A tie, which the scheduler breaks at random, goes to the lower node.
    """

    def place(self, *, tenant: int, gpus: Sequence[GpuSeen]) -> int | None:
        """The node with the highest score, and there the GPU that the device plugin gives."""
        nodes = [node for node in _nodes(gpus) if any(one.used < one.slots for one in node.gpus)]
        if not nodes:
            return None
        counts = {node.node: node.siblings(tenant) * log(len(nodes) + 2) + _SKEW - 1 for node in nodes}
        most, least = max(counts.values()), min(counts.values())

        def score(node: _Node) -> float:
            allocated = 100 * (node.units - node.used - 1) / node.units
            return allocated + _SPREAD_WEIGHT * 100 * (most + least - counts[node.node]) / most

        best = max(nodes, key=lambda node: (score(node), -node.node))
        return _device(best.gpus, {one.gpu: one.slots for one in best.gpus})

    def victims(
        self, *, tenant: int, count: int, replicas: Sequence[ReplicaSeen], gpus: Sequence[GpuSeen], now: float
    ) -> tuple[int, ...]:
        """ActivePodsWithRanks: not ready, then most siblings on the node, then newest by the logarithm of its age.

        All pods here are assigned and without a deletion cost; ranks are counted once, before the first deletion.
        """
        siblings = {one.gpu: node.siblings(tenant) for node in _nodes(gpus) for one in node.gpus}

        def order(one: ReplicaSeen) -> tuple[bool, int, int, int]:
            since = one.created_at if one.ready_at is None else one.ready_at
            return one.ready, -siblings[one.gpu], _age_bucket(now - since), one.replica * _UID_MULTIPLIER % 2**32

        return tuple(one.replica for one in sorted(replicas, key=order)[:count])


class PackedPlacement:
    """As this operator does it: fewest GPUs that pay, and the victim whose end frees one."""

    def place(self, *, tenant: int, gpus: Sequence[GpuSeen]) -> int | None:  # noqa: ARG002 - the Protocol's
        """The fullest node on whose GPUs one more pays; where it pays nowhere, the emptiest that has room."""
        nodes = _nodes(gpus)
        for caps, fullest in (
            ({one.gpu: min(one.pays, one.slots) for one in gpus}, True),
            ({one.gpu: one.slots for one in gpus}, False),
        ):
            fits = [node for node in nodes if any(one.used < caps[one.gpu] for one in node.gpus)]
            if fits:
                best = min(fits, key=lambda node: (-node.used if fullest else node.used, node.node))
                return _device(best.gpus, caps)
        return None

    def victims(
        self, *, tenant: int, count: int, replicas: Sequence[ReplicaSeen], gpus: Sequence[GpuSeen], now: float
    ) -> tuple[int, ...]:
        """One after another: from the GPU with the fewest replicas left, one that starts before one that is ready."""
        del tenant, now
        left = {one.gpu: one.used for one in gpus}
        candidates = list(replicas)
        chosen: list[int] = []
        while candidates and len(chosen) < count:
            one = min(candidates, key=lambda each: (left[each.gpu], each.ready, -each.created_at, -each.replica))
            candidates.remove(one)
            left[one.gpu] -= 1
            chosen.append(one.replica)
        return tuple(chosen)


def placement_named(name: PlacementName) -> Placement:
    """The placement of this name."""
    return KubernetesPlacement() if name == "kubernetes" else PackedPlacement()


def _nodes(gpus: Sequence[GpuSeen]) -> list[_Node]:
    """The GPUs, grouped by their node."""
    found: dict[int, list[GpuSeen]] = {}
    for one in gpus:
        found.setdefault(one.node, []).append(one)
    return [_Node(node, tuple(ones)) for node, ones in sorted(found.items())]


def _device(gpus: Sequence[GpuSeen], caps: Mapping[int, int]) -> int:
    """The device plugin's `distributed` rule for shared GPUs: fewest units in use, among those with room."""
    return min((one for one in gpus if one.used < caps[one.gpu]), key=lambda one: (one.used, one.gpu)).gpu


def _age_bucket(seconds: float) -> int:
    """LogarithmicScaleDown: the whole part of log2 of the age in nanoseconds; -1 for none."""
    return int(log2(seconds * _NANOSECONDS)) if seconds > 0 else -1
