"""What a deployment's profile says about one GPU product: a calibration, or why it says nothing."""

from __future__ import annotations

from slmpack.domain.calibration import Calibration, MeasuredPoint
from slmpack.domain.gpu import GpuModel
from slmpack.domain.model import ModelProfile
from slmpack.domain.performance import Unpredictable, calibrate
from slmpack.domain.prediction import Sharing, Site, Tenant
from slmpack.domain.profile import Profile, mismatch
from slmpack.domain.reasons import Problem
from slmpack.domain.sizing import is_eager, kv_bytes_of
from slmpack.domain.snapshot import Demand, Policy

__all__ = ["calibration_for"]

HUB = "hf://"
ROOMY_TOKENS = 2**31
"""A KV cache that binds nowhere, where the profile does not say how large it was."""


def calibration_for(
    demand: Demand, model: ModelProfile, gpu: GpuModel, policy: Policy
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
    found = calibrate(points, _measured_engine(profile, demand, model, policy), site, constants)
    return (None, (found.reason,)) if isinstance(found, Unpredictable) else (found, ())


def _unfit(profile: Profile, demand: Demand, gpu: GpuModel) -> str | None:
    if profile.gpu is None:
        return "gpu: the profile does not say its GPU; add the catalogue id or the product label"
    if profile.replicas > 1 or profile.sharing not in {None, Sharing.NONE}:
        return "sharing: the profile was measured beside other replicas; measure one that has the GPU to itself"
    # the folder of a claim has another path in every cluster: the user's word counts
    model = demand.model_source.removeprefix(HUB) if demand.model_source.startswith(HUB) else profile.model
    return mismatch(profile, model=model, gpus={gpu.id, *gpu.product_labels})


def _measured_engine(profile: Profile, demand: Demand, model: ModelProfile, policy: Policy) -> Tenant:
    return Tenant(
        model=model,
        in_flight=1.0,
        kv_cache_tokens=profile.kv_cache_tokens or ROOMY_TOKENS,
        max_num_seqs=profile.max_num_seqs or max(point.concurrency for point in profile.points),
        max_num_batched_tokens=policy.max_num_batched_tokens,
        kv_element_bytes=kv_bytes_of(demand, model),
        enforce_eager=is_eager(demand),
        cpu_cores=demand.cpu_millicores / 1000,
        input_tokens=profile.input_tokens,
        output_tokens=profile.output_tokens,
        prefix_hit_rate=0.0,
    )
