"""What a simulated autoscaler may look at, and the two questions it answers: how many, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Protocol

__all__ = [
    "Bounds",
    "GpuSeen",
    "Mover",
    "PerTenant",
    "Placement",
    "ReplicaSeen",
    "Rule",
    "Scaler",
    "Seen",
    "TenantSeen",
    "whole_above",
    "whole_below",
]

_ROUNDING = 1e-9
"""A quotient this close to a whole number is that number: 6 / 0.3 is 20.000000000000004 in binary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSeen:
    """One replica that is starting or ready, and what its engine's metrics say now (all 0 until it is ready).

    `ready_at` is None until the replica is ready: when it will be is not for a policy to know.
    `kv_usage` is the share of the KV cache in use, 0 to 1; `kv_tokens` its size in tokens; `waiting_tokens` the prompt
    tokens of the requests that wait in the engine.
    """

    replica: int
    gpu: int
    created_at: float
    ready_at: float | None
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_tokens: int = 0
    waiting_tokens: int = 0

    @property
    def ready(self) -> bool:
        """Whether the replica is in the Service."""
        return self.ready_at is not None

    @property
    def in_flight(self) -> int:
        """Requests that run or wait in this engine."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSeen:
    """One tenant at one moment: its replicas (those that are ending left out) and what its gateway counts.

    `gateway_waiting` requests wait because no replica is ready; `arrived` counts every request since the run began.
    """

    now: float
    tenant: int
    replicas: tuple[ReplicaSeen, ...]
    gateway_waiting: int
    arrived: int

    @property
    def ready(self) -> tuple[ReplicaSeen, ...]:
        """The replicas in the Service."""
        return tuple(seen for seen in self.replicas if seen.ready)

    @property
    def in_flight(self) -> int:
        """Requests that came and have not ended, as a proxy in front of the replicas counts them."""
        return self.gateway_waiting + sum(seen.in_flight for seen in self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that a policy may look at, `now` seconds after the trace began; one entry for each tenant, by its index."""

    now: float
    tenants: tuple[TenantSeen, ...]


class Scaler(Protocol):
    """Says how many replicas each tenant should have."""

    @property
    def period_s(self) -> float:
        """Seconds between two looks; a policy that decides less often repeats its last answer in between."""
        ...

    def decide(self, seen: Seen) -> dict[int, int]:
        """Tenant -> replicas wanted, starting ones included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSeen:
    """One GPU as a placement sees it.

    `slots` is how many replicas the node offers on it (MIG slices or MPS shares of equal size), `pays` how many of them
    pay by the domain's own reckoning; `replicas` are those on it that have not ended, each with its tenant.
    """

    gpu: int
    node: int
    slots: int
    pays: int
    replicas: tuple[tuple[int, int], ...] = ()
    """(replica, tenant), the ending ones included: they hold their slot until they are gone."""

    @property
    def used(self) -> int:
        """Slots taken."""
        return len(self.replicas)


class Placement(Protocol):
    """Says where a new replica goes and which ones end."""

    def place(self, *, tenant: int, gpus: Sequence[GpuSeen]) -> int | None:
        """The GPU for one more replica of a tenant; None if there is no room (it stays Pending, unplaced)."""
        ...

    def victims(
        self, *, tenant: int, count: int, replicas: Sequence[ReplicaSeen], gpus: Sequence[GpuSeen], now: float
    ) -> tuple[int, ...]:
        """The ids of `count` replicas of a tenant to end, in order; all of them if it has fewer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The least and the most replicas of a tenant, the same for every policy of a scenario."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            message = f"bounds {self.least}..{self.most}: least must be 0 or more, most at least 1 and least or more"
            raise ValueError(message)

    def clamp(self, wanted: int) -> int:
        """`wanted`, brought into the bounds."""
        return min(max(wanted, self.least), self.most)


class Mover(Protocol):
    """One tenant's autoscaler with its memory: looks once and answers once."""

    def step(self, seen: TenantSeen) -> int:
        """Replicas wanted now."""
        ...


class Rule(Protocol):
    """A policy's parameters, its swept target among them; every rule is a frozen dataclass and can be pickled."""

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """A scaler without memory, for tenants with these bounds (by the tenant's index)."""
        ...


class PerTenant:
    """A scaler that keeps one `Mover` for each tenant, as one HPA, Knative Service or Model object does."""

    def __init__(self, *, period_s: float, mover: Callable[[Bounds], Mover], bounds: Sequence[Bounds]) -> None:
        """`mover(bounds)` makes the autoscaler of one tenant when it is first seen."""
        self._period_s = period_s
        self._make = mover
        self._bounds = tuple(bounds)
        self._movers: dict[int, Mover] = {}

    @property
    def period_s(self) -> float:
        """Seconds between two looks."""
        return self._period_s

    def decide(self, seen: Seen) -> dict[int, int]:
        """Ask each tenant's own autoscaler."""
        for one in seen.tenants:
            if one.tenant not in self._movers:
                self._movers[one.tenant] = self._make(self._bounds[one.tenant])
        return {one.tenant: self._movers[one.tenant].step(one) for one in seen.tenants}


def whole_above(value: float) -> int:
    """The least whole number not below `value`, forgiving binary rounding."""
    return ceil(value - _ROUNDING)


def whole_below(value: float) -> int:
    """The greatest whole number not above `value`, forgiving binary rounding."""
    return floor(value + _ROUNDING)
