"""The simulated nodes: which GPUs they have, which units of them are taken, and the replicas that run on them.

A pod asks for a resource of a node; which GPU it gets is the device plugin's choice. Its `distributed` rule, the
default, takes the GPU with the fewest units in use (facts-gpu-sharing; NVIDIA/k8s-device-plugin 0.20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmpack.domain.inventory import GpuNode
from slmpack.domain.sharing import DraClaim, MigSlice
from slmpack.simulate.cluster import Cluster
from slmpack.simulate.costs import EngineSpec
from slmpack.simulate.starts import Starts

__all__ = ["Change", "Fleet", "Running", "Spot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Interchangeable units of one resource on one node."""

    node: str
    resource: str
    gpus: tuple[int, ...]
    """The GPUs behind them, by their index in the cluster."""
    units: tuple[int, ...]
    """On each of them."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A replica that has not ended."""

    replica: int
    tenant: int
    gpu: int
    spot: Spot
    created: float
    ready_at: float
    kv_tokens: int
    """Of its KV pool."""
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A replica was added or told to end."""

    at: float
    tenant: int
    up: bool


class Fleet:
    """GPUs with their units, and the replicas on them."""

    def __init__(self, nodes: Sequence[GpuNode], *, cluster: Cluster, starts: Starts) -> None:
        self.cluster = cluster
        self.starts = starts
        self.spots: dict[tuple[str, str], Spot] = {}
        self.room: dict[str, dict[str, int]] = {}
        """By node: free millicores, bytes of host memory and pods."""
        self.node_of: list[str] = []
        """By GPU."""
        self.products: list[str] = []
        """By GPU: ids of the catalogue."""
        self.running: dict[int, Running] = {}
        self.playing = False
        """Whether the trace plays: what was made before is what everybody begins with."""
        self.changes: list[Change] = []
        """Since the trace began."""
        self._used: dict[tuple[int, str], int] = {}
        for node in nodes:
            self._add_node(node)

    @staticmethod
    def gpus_of(nodes: Sequence[GpuNode]) -> list[GpuNode]:
        """For each GPU of the fleet, by its index, the node that it is in."""
        return [node for node in nodes for _ in range(sum(_gpus(node)))]

    def _add_node(self, node: GpuNode) -> None:
        whole, cut = _gpus(node)
        view = node.view
        self.room[node.name] = {
            name: view.allocatable.get(name, 0) - view.used_by_others.get(name, 0) for name in ("cpu", "memory", "pods")
        }
        first = len(self.node_of)
        self.node_of.extend([node.name] * (whole + cut))
        self.products.extend([node.gpu.id if node.gpu else ""] * (whole + cut))
        start = first
        for offer in node.offers:
            mig = isinstance(offer.share, MigSlice | DraClaim)
            at = first + whole if mig else start
            gpus = tuple(range(at, at + offer.gpus))
            start += 0 if mig else offer.gpus
            units = tuple(offer.units // offer.gpus + (n < offer.units % offer.gpus) for n in range(offer.gpus))
            self.spots[node.name, offer.resource] = Spot(
                node=node.name, resource=offer.resource, gpus=gpus, units=units
            )

    def used(self, gpu: int, resource: str) -> int:
        """Units taken."""
        return self._used.get((gpu, resource), 0)

    def choose(self, spot: Spot) -> int | None:
        """The GPU that the device plugin gives: the one with the fewest units in use; None where all are taken."""
        free = [gpu for gpu, units in zip(spot.gpus, spot.units, strict=True) if self.used(gpu, spot.resource) < units]
        return min(free, key=lambda gpu: (self.used(gpu, spot.resource), gpu), default=None)

    def take(self, spot: Spot, gpu: int, *, cpu: int, memory: int) -> None:
        """A pod holds one more unit, so many millicores and bytes."""
        self._used[gpu, spot.resource] = self.used(gpu, spot.resource) + 1
        self._occupy(spot.node, cpu, memory, pods=1)

    def give(self, spot: Spot, gpu: int, *, cpu: int, memory: int) -> None:
        """A pod has gone."""
        self._used[gpu, spot.resource] -= 1
        self._occupy(spot.node, -cpu, -memory, pods=-1)

    def has_room(self, node: str, *, cpu: int, memory: int) -> bool:
        """Whether a node has so many millicores and bytes for another pod."""
        room = self.room[node]
        return room["cpu"] >= cpu and room["memory"] >= memory and room["pods"] >= 1

    def _occupy(self, node: str, cpu: int, memory: int, *, pods: int) -> None:
        room = self.room[node]
        room["cpu"] -= cpu
        room["memory"] -= memory
        room["pods"] -= pods

    def start(self, *, tenant: int, spot: Spot, gpu: int, engine: EngineSpec, not_before: float = 0.0) -> Running:
        """Start an engine now, or as soon as `not_before`; before the trace plays replicas are ready at once."""
        now = self.cluster.now
        took = self.starts.draw() if self.playing else 0.0
        ready_at = max(now, not_before) + took
        replica = self.cluster.add(tenant=tenant, gpu=gpu, engine=engine, ready_at=ready_at)
        running = Running(
            replica=replica,
            tenant=tenant,
            gpu=gpu,
            spot=spot,
            created=now,
            ready_at=ready_at,
            kv_tokens=engine.kv_tokens,
        )
        self.running[replica] = running
        if self.playing:
            self.changes.append(Change(at=now, tenant=tenant, up=True))
        return running

    def stop(self, replica: int) -> None:
        """Out of the Service at once; it ends when its requests are done."""
        found = self.running[replica]
        if not found.ending:
            found.ending = True
            self.cluster.remove(replica)
            self.changes.append(Change(at=self.cluster.now, tenant=found.tenant, up=False))

    def sweep(self) -> list[Running]:
        """Those that ended since the last look are forgotten and returned."""
        gone = [one for one in self.running.values() if one.ending and self.cluster.ended(one.replica)]
        for one in gone:
            del self.running[one.replica]
        return gone

    @property
    def ending(self) -> bool:
        """Whether any replica is on its way out."""
        return any(one.ending for one in self.running.values())

    def next_ready(self) -> float | None:
        """When the next start ends."""
        now = self.cluster.now
        return min((one.ready_at for one in self.running.values() if one.ready_at > now), default=None)


def _gpus(node: GpuNode) -> tuple[int, int]:
    """GPUs of a node that are offered whole or in MPS shares, and those that are cut into MIG instances."""
    whole = sum(offer.gpus for offer in node.offers if not isinstance(offer.share, MigSlice | DraClaim))
    cut = max((offer.gpus for offer in node.offers if isinstance(offer.share, MigSlice | DraClaim)), default=0)
    return whole, cut
