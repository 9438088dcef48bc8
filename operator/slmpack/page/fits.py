"""What is known of a block by its SLMDeployment, GPU product and share: the engine's memory, the watts of its GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slmpack.domain.choice import Choice
from slmpack.domain.fit import Fit
from slmpack.domain.footprint import Footprint
from slmpack.domain.gpu import GpuModel
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance import predict
from slmpack.domain.plan import Block, DeploymentPlan, GpuBar
from slmpack.domain.prediction import GpuPrediction, Site, Tenant
from slmpack.domain.snapshot import Key
from slmpack.page.values import Amount

__all__ = ["Fits", "amounts_of", "bar_watts", "fits_of", "least_amounts", "total"]

Fits = Mapping[tuple[Key, str, str], Fit]
"""By SLMDeployment, product and `describe_share`."""


def fits_of(plans: Iterable[DeploymentPlan]) -> Fits:
    """How the replicas of every SLMDeployment fit the shares in use."""
    return {(plan.deployment.key, used.product, used.share): used.fit for plan in plans for used in plan.fits}


def find(fits: Fits, block: Block, product: str) -> Fit | None:
    """The fit behind a block; None for strangers, and where the model is unknown."""
    return None if block.deployment is None else fits.get((block.deployment, product, block.share))


def amounts_of(fits: Fits, block: Block, product: str) -> tuple[Amount, ...]:
    """The engine's memory in its share, estimated; empty where it runs none, or nobody knows."""
    fit = find(fits, block, product)
    if fit is None or fit.part is None or block.state == "idle":
        return ()
    room = fit.part.room
    used = min(room.footprint.kv_bytes(fit.need.kv_tokens), room.kv_cache_bytes)
    return (
        *_fixed(room.footprint),
        Amount(name="KV cache at the knee", kind="kv", size=used),
        Amount(name="KV cache beyond it", kind="spare", size=room.kv_cache_bytes - used),
    )


def least_amounts(footprint: Footprint, kv_tokens: int) -> tuple[Amount, ...]:
    """The least that a share must hold."""
    return (*_fixed(footprint), Amount(name="KV cache", kind="kv", size=footprint.kv_bytes(kv_tokens)))


def _fixed(footprint: Footprint) -> tuple[Amount, ...]:
    other = footprint.fixed_inside_bytes - footprint.weights_bytes + footprint.outside_bytes
    return (
        Amount(name="weights", kind="weights", size=footprint.weights_bytes),
        Amount(name="activations, graphs, context, margin", kind="other", size=other),
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    """An engine as the performance model takes it."""

    tenant: Tenant
    site: Site
    fit: Fit


def bar_watts(fits: Fits, bar: GpuBar, gpu: GpuModel | None) -> Interval | None:
    """Watts of a whole GPU with what the plan puts on it, each engine at the load that was decided with.

    None for a slice (instances share the board's power), beside strangers, and where nothing can be predicted.
    """
    if gpu is None or bar.index is None:
        return None
    blocks = [block for block in bar.blocks if block.state != "idle"]
    if not blocks:
        return _resting(gpu)
    engines = [_runs(find(fits, block, bar.product)) for block in blocks]
    known = [engine for engine in engines if engine is not None]
    if len(known) < len(engines):
        return None
    first = known[0].fit
    assert first.ask is not None  # noqa: S101 - it was decided
    alike = all(engine.fit is first for engine in known)
    calibration = first.ask.calibration if alike else None
    tenants = tuple(engine.tenant for engine in known)
    found = predict(tenants, known[0].site, first.ask.constants, calibration=calibration)
    return found.power_w if isinstance(found, GpuPrediction) else None


def _runs(fit: Fit | None) -> _Runs | None:
    if fit is None or fit.part is None or not isinstance(fit.choice, Choice):
        return None
    choice = fit.choice
    in_flight = (choice.workload.in_flight or 0.0) / choice.replicas_per_gpu
    tenant = fit.part.tenant(choice.workload, in_flight=in_flight, prefix_hit_rate=choice.prefix_hit_rate)
    return _Runs(tenant=tenant, site=fit.part.cut.site, fit=fit)


def _resting(gpu: GpuModel) -> Interval | None:
    """Idle, as it was captured on GPUs of this product."""
    if gpu.idle_w is None:
        return None
    low, high = gpu.idle_w
    return Interval(low=low, expected=(low + high) / 2, high=high, basis=Basis.ASSUMED)


def total(known: Sequence[Interval]) -> Interval | None:
    """The sum; its basis is the softest. None of none."""
    if not known:
        return None
    low, expected, high = (sum(getattr(one, part) for one in known) for part in ("low", "expected", "high"))
    return Interval(
        low=low, expected=expected, high=high, basis=max((i.basis for i in known), key=lambda b: b.softness)
    )
