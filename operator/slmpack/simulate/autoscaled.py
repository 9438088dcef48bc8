"""A peer's autoscaler in the simulator: its rule says how many replicas, a placement where they go and which end.

It looks at exact figures of the moment, at its own interval: no lag is held against a peer. Kubernetes starts what is
placed at once; what has no room stays Pending and is tried again at each look.
"""

from __future__ import annotations

import numpy as np

from slmpack.simulate.fleet import Fleet, Running, Spot
from slmpack.simulate.ground import Engines, Ways
from slmpack.simulate.policies.base import Bounds, GpuSeen, Placement, ReplicaSeen, Rule, Seen, TenantSeen
from slmpack.simulate.readings import Scrape
from slmpack.simulate.trace import Trace

__all__ = ["Autoscaled"]


class Autoscaled:
    """Looks, decides, places."""

    def __init__(self, engines: Engines, *, fleet: Fleet, rule: Rule, placement: Placement, trace: Trace) -> None:
        self._engines, self._fleet, self._placement = engines, fleet, placement
        ground = engines.ground
        tenants = range(len(ground.views))
        scaling = [ground.scaling(tenant) for tenant in tenants]
        self._bounds = [Bounds(least=one.least, most=one.most) for one in scaling]
        self._scaler = rule.scaler(self._bounds)
        self._ways = [engines.ways(tenant) for tenant in tenants]
        self._spots = [self._spots_of(ways) for ways in self._ways]
        self._arrivals = [trace.arrival_s[trace.tenant == tenant] for tenant in tenants]
        self._prompt = [
            float(np.mean(trace.input_tokens[trace.tenant == tenant])) if len(self._arrivals[tenant]) else 0.0
            for tenant in tenants
        ]
        self._nodes = {name: place for place, name in enumerate(dict.fromkeys(fleet.node_of))}
        self._pending = [0 for _ in tenants]

    def begin(self, initial: int) -> None:
        """So many replicas of each tenant are there when the trace begins."""
        for tenant, bounds in enumerate(self._bounds):
            self._pending[tenant] = min(max(initial, bounds.least), bounds.most)
            self._place(tenant)

    def turn(self) -> float:
        """Look and act; seconds until the next look."""
        self._sweep()
        wanted = self._scaler.decide(self._seen(self._fleet.cluster.scrape()))
        for tenant, count in sorted(wanted.items()):
            self._aim(tenant, self._bounds[tenant].clamp(count))
        return self._scaler.period_s

    def _spots_of(self, ways: Ways) -> dict[str, Spot]:
        return {found.node: self._fleet.spots[found.node, ways.resource] for found in ways.candidates}

    def _aim(self, tenant: int, count: int) -> None:
        live = [one for one in self._fleet.running.values() if one.tenant == tenant and not one.ending]
        surplus = len(live) - count
        self._pending[tenant] = max(0, -surplus)
        if surplus > 0:
            now = self._fleet.cluster.now
            seen = [_known(one, now) for one in live]
            gpus = self._gpus(tenant)
            chosen = self._placement.victims(tenant=tenant, count=surplus, replicas=seen, gpus=gpus, now=now)
            for replica in chosen[:surplus]:
                self._fleet.stop(replica)
            self._sweep()
        self._place(tenant)

    def _place(self, tenant: int) -> None:
        demand = self._engines.ground.demand(tenant)
        cpu, memory = demand.cpu_millicores, demand.memory_bytes
        while self._pending[tenant]:
            roomy = [gpu for gpu in self._gpus(tenant) if self._has_room(gpu.gpu, cpu, memory)]
            chosen = self._placement.place(tenant=tenant, gpus=roomy)
            if chosen is None:
                return
            node = self._fleet.node_of[chosen]
            spot = self._spots[tenant][node]
            found = next(one for one in self._ways[tenant].candidates if one.node == node)
            engine = self._engines.of(tenant, found.node, found.share, found.fit.settings)
            self._fleet.take(spot, chosen, cpu=cpu, memory=memory)
            self._fleet.start(tenant=tenant, spot=spot, gpu=chosen, engine=engine)
            self._pending[tenant] -= 1

    def _has_room(self, gpu: int, cpu: int, memory: int) -> bool:
        return self._fleet.has_room(self._fleet.node_of[gpu], cpu=cpu, memory=memory)

    def _sweep(self) -> None:
        for one in self._fleet.sweep():
            demand = self._engines.ground.demand(one.tenant)
            self._fleet.give(one.spot, one.gpu, cpu=demand.cpu_millicores, memory=demand.memory_bytes)

    def _gpus(self, tenant: int) -> list[GpuSeen]:
        resource, pays = self._ways[tenant].resource, self._ways[tenant].pays
        held: dict[int, list[tuple[int, int]]] = {}
        for one in self._fleet.running.values():
            if one.spot.resource == resource:
                held.setdefault(one.gpu, []).append((one.replica, one.tenant))
        return [
            GpuSeen(gpu=gpu, node=self._nodes[node], slots=units, pays=pays, replicas=tuple(held.get(gpu, ())))
            for node, spot in self._spots[tenant].items()
            for gpu, units in zip(spot.gpus, spot.units, strict=True)
        ]

    def _seen(self, scrape: Scrape) -> Seen:
        now = self._fleet.cluster.now
        replicas: list[list[ReplicaSeen]] = [[] for _ in self._bounds]
        columns = (scrape.replica, scrape.running, scrape.waiting, scrape.kv_usage)
        for name, running, waiting, usage in zip(*(column.tolist() for column in columns), strict=True):
            one = self._fleet.running[name]
            if not one.ending:
                replicas[one.tenant].append(self._replica(one, now, running=running, waiting=waiting, usage=usage))
        gateway = scrape.gateway_waiting.tolist()
        return Seen(
            now=now,
            tenants=tuple(
                TenantSeen(
                    now=now,
                    tenant=tenant,
                    replicas=tuple(replicas[tenant]),
                    gateway_waiting=gateway[tenant],
                    arrived=int(np.searchsorted(self._arrivals[tenant], now, side="right")),
                )
                for tenant in range(len(self._bounds))
            ),
        )

    def _replica(self, one: Running, now: float, *, running: int, waiting: int, usage: float) -> ReplicaSeen:
        """Prompts that wait are counted at the tenant's mean length."""
        return ReplicaSeen(
            replica=one.replica,
            gpu=one.gpu,
            created_at=one.created,
            ready_at=one.ready_at if one.ready_at <= now else None,
            running=running,
            waiting=waiting,
            kv_usage=usage,
            kv_tokens=one.kv_tokens,
            waiting_tokens=round(waiting * self._prompt[one.tenant]),
        )


def _known(one: Running, now: float) -> ReplicaSeen:
    return ReplicaSeen(
        replica=one.replica,
        gpu=one.gpu,
        created_at=one.created,
        ready_at=one.ready_at if one.ready_at <= now else None,
    )
