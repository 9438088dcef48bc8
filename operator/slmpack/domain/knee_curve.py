"""The curve behind a choice: what one GPU with the replicas that pay does at each batch, and where its knee is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmpack.domain.choice import Ask, Choice
from slmpack.domain.fit import Fit
from slmpack.domain.interval import Interval
from slmpack.domain.part import Part
from slmpack.domain.performance import predict
from slmpack.domain.prediction import GpuPrediction

__all__ = ["BATCHES", "KneeCurve", "KneePoint", "knee_curve"]

BATCHES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Every power of two, and between them where knees lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KneePoint:
    """The GPU with so many requests in flight at each replica, none of them waiting."""

    batch: int
    throughput_tok_s: Interval
    """Output tokens a second of the GPU."""
    itl_s: Interval
    """Mean inter-token latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KneeCurve:
    """By rising batch of each replica, while all of them run."""

    points: tuple[KneePoint, ...]
    replicas: int
    """On the GPU."""
    knee: int
    """The batch of a point."""
    runs: int
    """--max-num-seqs."""
    itl_limit_s: float | None
    """The bound that the user asked for."""


def knee_curve(fit: Fit) -> KneeCurve | None:
    """The curve, up to the batch that the KV cache holds; None where nothing can be predicted."""
    part, ask, choice = fit.part, fit.ask, fit.choice
    if part is None or ask is None or not isinstance(choice, Choice):
        return None
    live = choice.workload.live_tokens
    held = part.room.kv_cache_tokens / live if part.room.kv_cache_tokens else part.engine.most_num_seqs
    most = max(choice.knee.batch, min(held, part.engine.most_num_seqs))
    batches = sorted({batch for batch in BATCHES if batch <= most} | {choice.knee.batch})
    return KneeCurve(
        points=tuple(_point(part, ask, choice, batch) for batch in batches),
        replicas=choice.replicas_per_gpu,
        knee=choice.knee.batch,
        runs=choice.max_num_seqs,
        itl_limit_s=ask.bounds.itl_s,
    )


def _point(part: Part, ask: Ask, choice: Choice, batch: int) -> KneePoint:
    at = replace(part, sequences=batch)
    tenant = at.tenant(choice.workload, in_flight=batch, prefix_hit_rate=choice.prefix_hit_rate)
    tenants = (tenant,) * choice.replicas_per_gpu
    found = predict(tenants, part.cut.site, ask.constants, calibration=ask.calibration)
    assert isinstance(found, GpuPrediction)  # noqa: S101 - the choice was predicted at the same site
    return KneePoint(batch=batch, throughput_tok_s=found.throughput_tok_s, itl_s=found.tenants[0].itl_s)
