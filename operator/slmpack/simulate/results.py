"""What a simulation comes to: the figures of the JSON, from the outcomes at the end of the warm-up and of the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from slmpack.simulate.fleet import Change
from slmpack.simulate.readings import Outcome
from slmpack.simulate.trace import Trace

__all__ = ["REVERSAL_S", "Figures", "Measured", "attained", "figures_of"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REVERSAL_S = 600.0
"""A change the other way within so many seconds of the last one is a reversal (facts-autoscaling, section 4)."""
HOUR_S = 3600.0
KWH_J = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One policy's. Requests that came during the warm-up, and what was used then, are left out."""

    slo_attainment: float
    """Part of the requests, 0 to 1, that were answered in time; rejected ones are left out, the same for all."""
    worst_tenant_slo: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    """Of a request that was never answered, how long it waited."""
    itl_p50_ms: float
    itl_p99_ms: float
    """Of single tokens."""
    gpu_hours: float
    """Of GPUs that hold any starting, ready or ending replica."""
    slot_hours: float
    """Of such replicas."""
    energy_kwh: float
    """Of all boards of the cluster, with the idle watts of those that are empty."""
    j_per_token: float
    """That energy by output token."""
    scale_events: int
    """Times that a tenant's number of replicas was changed, up or down."""
    reversals: int
    cold_starts: int
    rejected: int
    """Requests whose prompt is longer than the model's context."""

    def to_json(self) -> dict[str, float | int]:
        """Rounded to what the figures mean."""
        return {
            name: value if isinstance(value, int) else round(value, _DIGITS.get(name, 4))
            for name, value in asdict(self).items()
        }

    @classmethod
    def read(cls, raw: dict[str, float | int]) -> Figures:
        """From JSON."""
        return cls(**{field.name: raw[field.name] for field in fields(cls)})  # type: ignore[arg-type]


_DIGITS = {"slo_attainment": 6, "worst_tenant_slo": 6, "ttft_p50_ms": 1, "ttft_p99_ms": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What figures are made from."""

    trace: Trace
    warm: Outcome
    """At the end of the warm-up."""
    end: Outcome
    """At the last arrival: cost counts until then."""
    last: Outcome
    """When the last request was answered, or given up."""
    changes: Sequence[Change]
    ttft_bounds: Floats
    """By request, seconds."""
    tpot_bounds: Floats
    """By tenant, seconds."""


def attained(measured: Measured) -> Bools:
    """By request: whether it was answered within its bounds."""
    last, trace = measured.last, measured.trace
    in_time = last.finished & (last.ttft_s <= measured.ttft_bounds)
    return np.asarray(in_time & (last.tpot_s <= measured.tpot_bounds[trace.tenant]))


def figures_of(measured: Measured) -> Figures:
    """All figures."""
    warm, end, last, trace = measured.warm, measured.end, measured.last, measured.trace
    late = trace.arrival_s >= warm.at
    counted = late & ~last.rejected
    kept = attained(measured)
    by_tenant = [
        float(np.mean(kept[mine]))
        for tenant in range(len(trace.tenants))
        if (mine := counted & (trace.tenant == tenant)).any()
    ]
    waited = np.where(np.isfinite(last.ttft_s), last.ttft_s, last.at - trace.arrival_s)
    ttft = waited[counted]
    itl = (last.itl_counts - warm.itl_counts).sum(axis=0)
    joules = float(np.sum(end.joules - warm.joules))
    tokens = int(np.sum(end.output_tokens) - np.sum(warm.output_tokens))
    changes = [change for change in measured.changes if warm.at <= change.at <= end.at]
    return Figures(
        slo_attainment=float(np.mean(kept[counted])) if counted.any() else 1.0,
        worst_tenant_slo=min(by_tenant, default=1.0),
        ttft_p50_ms=_percentile(ttft, 50.0) * 1000,
        ttft_p99_ms=_percentile(ttft, 99.0) * 1000,
        itl_p50_ms=_of_bins(last.itl_bounds, itl, 0.50) * 1000,
        itl_p99_ms=_of_bins(last.itl_bounds, itl, 0.99) * 1000,
        gpu_hours=float(np.sum(end.gpu_s - warm.gpu_s)) / HOUR_S,
        slot_hours=(float(np.sum(end.replica_s)) - float(np.sum(warm.replica_s))) / HOUR_S,
        energy_kwh=joules / KWH_J,
        j_per_token=joules / tokens if tokens else 0.0,
        scale_events=len(_events(changes)),
        reversals=_reversals(changes),
        cold_starts=sum(change.up for change in changes),
        rejected=int(np.sum(late & last.rejected)),
    )


def _events(changes: Sequence[Change]) -> list[Change]:
    """Replicas that a tenant gains or loses at one moment are one event."""
    return list({(change.at, change.tenant, change.up): change for change in changes}.values())


def _reversals(changes: Sequence[Change]) -> int:
    found, before = 0, dict[int, Change]()
    for change in _events(changes):
        last = before.get(change.tenant)
        found += last is not None and last.up != change.up and change.at - last.at <= REVERSAL_S
        before[change.tenant] = change
    return found


def _percentile(values: Floats, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


def _of_bins(bounds: Floats, counts: NDArray[np.int64], share: float) -> float:
    """The upper bound of the bin that holds this share: at most 2 % more than the true value."""
    total = int(counts.sum())
    if not total:
        return 0.0
    place = int(np.searchsorted(np.cumsum(counts), share * total))
    return float(bounds[min(place, len(bounds) - 1)])
