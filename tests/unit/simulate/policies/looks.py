"""Makes what a policy sees, for tests that compute a policy's steps by hand."""

from __future__ import annotations

from collections.abc import Iterable

from slmpack.simulate.policies.base import Bounds, ReplicaSeen, Scaler, Seen, TenantSeen

__all__ = ["ANY", "ask", "look", "replica"]

ANY = Bounds(least=1, most=32)


def replica(number: int, *, ready: bool = True, running: int = 0, waiting: int = 0, **more: float) -> ReplicaSeen:
    """One replica on a GPU of its own, ready since 0."""
    return ReplicaSeen(
        replica=number,
        gpu=int(more.get("gpu", number)),
        created_at=more.get("created_at", 0.0),
        ready_at=more.get("ready_at", 0.0) if ready else None,
        running=running,
        waiting=waiting,
        kv_usage=more.get("kv_usage", 0.0),
        kv_tokens=int(more.get("kv_tokens", 0)),
        waiting_tokens=int(more.get("waiting_tokens", 0)),
    )


def look(now: float, loads: Iterable[int] = (), *, starting: int = 0, gateway: int = 0, arrived: int = 0) -> TenantSeen:
    """Ready replicas with these requests running, then so many that are starting."""
    ready = [replica(number, running=load) for number, load in enumerate(loads)]
    rest = [replica(len(ready) + number, ready=False) for number in range(starting)]
    return TenantSeen(now=now, tenant=0, replicas=(*ready, *rest), gateway_waiting=gateway, arrived=arrived)


def ask(scaler: Scaler, seen: TenantSeen) -> int:
    """One look of the only tenant."""
    return scaler.decide(Seen(now=seen.now, tenants=(seen,)))[0]
