"""What a deployment's profile says about one GPU product: a calibration, or why it says nothing."""

from __future__ import annotations

from slmpack.domain.calibration import FACTOR_RANGE, Calibration, MeasuredPoint
from slmpack.domain.gpu import GpuModel
from slmpack.domain.performance import Unpredictable, calibrate
from slmpack.domain.prediction import Sharing, Site, Tenant
from slmpack.domain.profile import Profile, incredible, mismatch
from slmpack.domain.reasons import Problem
from slmpack.domain.serving import Engine
from slmpack.domain.snapshot import Demand, Policy
from slmpack.domain.workload import Workload

__all__ = ["calibration_for"]

HUB = "hf://"
ROOMY_TOKENS = 2**31
"""A KV cache that binds nowhere, where the profile does not say how large it was."""


def calibration_for(
    demand: Demand, engine: Engine, gpu: GpuModel, policy: Policy
) -> tuple[Calibration | None, tuple[str, ...]]:
    """The calibration, and why there is none where the spec refers to a profile; never an error."""
    profile = demand.profile
    if profile is None:
        return None, ()
    if isinstance(profile, Problem):
        return None, (f"{profile.message}: predictions are modelled.",)
    unfit = _unfit(profile, demand, gpu)
    if unfit is not None:
        return None, (f"spec.profileRef: {unfit}: predictions for {gpu.id} are modelled.",)
    points = [MeasuredPoint(in_flight=point.concurrency, itl_s=point.itl_s) for point in profile.clean_points]
    site = Site(gpu=gpu, sharing=Sharing.NONE)
    constants = policy.performance.constants_for(demand.engine_version)
    found = calibrate(points, _measured_engine(profile, engine), site, constants)
    if isinstance(found, Unpredictable):
        return None, (found.reason,)
    far = _too_far(found)
    return (found, ()) if far is None else (None, (f"spec.profileRef: {far}: predictions for {gpu.id} are modelled.",))


def _too_far(found: Calibration) -> str | None:
    low, high = FACTOR_RANGE
    if low < found.factor < high:
        return None
    factor = f"{low} or less" if found.factor <= low else f"{high} or more"
    return (
        f"points: to meet itl_s, the modelled times need a factor of {factor}: the points are of another model, GPU or"
        " engine, spoilt, or too close together; measure again, with one request in flight and a large number of them"
    )


def _unfit(profile: Profile, demand: Demand, gpu: GpuModel) -> str | None:
    if profile.gpu is None:
        return "gpu: the profile does not say its GPU; add the catalogue id or the product label"
    if profile.replicas > 1 or profile.sharing not in {None, Sharing.NONE}:
        return "sharing: the profile was measured beside other replicas; measure one that has the GPU to itself"
    if (why := incredible(profile)) is not None:
        return why
    # the folder of a claim has another path in every cluster: the user's word counts
    model = demand.model_source.removeprefix(HUB) if demand.model_source.startswith(HUB) else profile.model
    return mismatch(profile, model=model, gpus={gpu.id, *gpu.product_labels})


def _measured_engine(profile: Profile, engine: Engine) -> Tenant:
    return engine.tenant(
        Workload(input_tokens=profile.input_tokens, output_tokens=profile.output_tokens),
        in_flight=1.0,
        sequences=profile.max_num_seqs or max(point.concurrency for point in profile.points),
        kv_cache_tokens=profile.kv_cache_tokens or ROOMY_TOKENS,
        prefix_hit_rate=0.0,
    )
