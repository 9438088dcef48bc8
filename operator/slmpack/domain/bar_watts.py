"""Watts of a GPU in the picture: predicted for what the plan puts there, each engine at the load of its decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from slmpack.domain.choice import Choice
from slmpack.domain.fit import Fit
from slmpack.domain.gpu import GpuModel
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance import predict
from slmpack.domain.plan import Block, DeploymentPlan, GpuBar
from slmpack.domain.prediction import GpuPrediction, Tenant
from slmpack.domain.snapshot import Key

__all__ = ["Fits", "bar_watts", "fit_of", "fits_of"]

Fits = Mapping[tuple[Key, str, str], Fit]
"""By SLMDeployment, product and `describe_share`."""


def fits_of(plans: Iterable[DeploymentPlan]) -> Fits:
    """How the replicas of every SLMDeployment fit the shares in use."""
    return {(plan.deployment.key, used.product, used.share): used.fit for plan in plans for used in plan.fits}


def fit_of(fits: Fits, block: Block, product: str) -> Fit | None:
    """The fit behind a block; None for strangers, and where the model is unknown."""
    return None if block.deployment is None else fits.get((block.deployment, product, block.share))


def bar_watts(fits: Fits, bar: GpuBar, gpu: GpuModel | None) -> Interval | None:
    """Watts of a whole GPU; at rest, as it was captured, where no engine is on it.

    None for a slice (instances share the board's power), beside strangers, and where nothing can be predicted.
    """
    if gpu is None or bar.index is None:
        return None
    blocks = [block for block in bar.blocks if block.state != "idle"]
    if not blocks:
        return _resting(gpu)
    known = [fit for block in blocks if (fit := fit_of(fits, block, bar.product)) is not None]
    tenants = [tenant for fit in known if (tenant := _tenant(fit)) is not None]
    return _together(known, tenants) if len(tenants) == len(blocks) else None


def _together(fits: Sequence[Fit], tenants: Sequence[Tenant]) -> Interval | None:
    """Of the engines of one GPU; a profile corrects it where all are of that profile."""
    first = fits[0]
    assert first.ask is not None  # noqa: S101 - it was decided
    assert first.part is not None  # noqa: S101 - as there is a tenant
    calibration = first.ask.calibration if all(fit is first for fit in fits) else None
    found = predict(tuple(tenants), first.part.cut.site, first.ask.constants, calibration=calibration)
    return found.power_w if isinstance(found, GpuPrediction) else None


def _tenant(fit: Fit) -> Tenant | None:
    """The engine at its part of the load, as the performance model takes it."""
    if fit.part is None or not isinstance(fit.choice, Choice):
        return None
    choice = fit.choice
    in_flight = (choice.workload.in_flight or 0.0) / choice.replicas_per_gpu
    return fit.part.tenant(choice.workload, in_flight=in_flight, prefix_hit_rate=choice.prefix_hit_rate)


def _resting(gpu: GpuModel) -> Interval | None:
    """Idle, as it was captured on GPUs of this product."""
    if gpu.idle_w is None:
        return None
    low, high = gpu.idle_w
    return Interval(low=low, expected=(low + high) / 2, high=high, basis=Basis.ASSUMED)
