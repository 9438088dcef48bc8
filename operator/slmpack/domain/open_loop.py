"""Requests in flight that a request rate leads to: Little's law, solved for tenants that slow each other down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slmpack.domain.performance import Unpredictable, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Site, Tenant

__all__ = ["Settled", "settle"]

_ROUNDS = 400
_CLOSE = 1e-4
_OVERLOAD = 8.0
"""Requests in flight over max-num-seqs from which on the queue is taken to grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The tenants with the requests in flight that they end up with."""

    tenants: tuple[Tenant, ...]
    steady: bool
    """False: requests come faster than they are answered, and the queue grows without end."""


def settle(
    tenants: Sequence[Tenant], rate: Sequence[float | None], site: Site, constants: EngineConstants
) -> Settled | Unpredictable:
    """The steady state of an open loop.

    Args:
        tenants: `in_flight` counts only where no rate is given.
        rate: requests a second of each tenant; None: a closed loop.
        site: where they run.
        constants: of the engine.

    Requests in flight rise from the least; latency rises with them, so that the first fixed point is the one reached.
    """
    now = tuple(
        tenant if each is None else replace(tenant, in_flight=1.0) for tenant, each in zip(tenants, rate, strict=True)
    )
    for _ in range(_ROUNDS):
        found = rates(now, site, constants)
        if isinstance(found, Unpredictable):
            return found
        wanted = [
            tenant.in_flight if each is None else each * (got.ttft_s + (tenant.output_tokens - 1) * got.itl_s)
            for tenant, each, got in zip(now, rate, found, strict=True)
        ]
        still = all(abs(new - tenant.in_flight) <= _CLOSE * new for new, tenant in zip(wanted, now, strict=True))
        now = tuple(replace(tenant, in_flight=new) for tenant, new in zip(now, wanted, strict=True))
        if still:
            return Settled(tenants=now, steady=True)
        if any(tenant.in_flight > _OVERLOAD * tenant.max_num_seqs for tenant in now):
            break
    return Settled(tenants=now, steady=False)
