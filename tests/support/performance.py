"""Engines and sites for tests of the performance model."""

from __future__ import annotations

from dataclasses import replace

from slmpack.adapters.performance_table import load_performance_table
from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.gpu import GpuModel
from slmpack.domain.model_profile import Experts, ModelProfile, Task
from slmpack.domain.prediction import Sharing, Site, Tenant
from tests.support.builders import a_model

V0 = load_performance_table().generation("V0")
V1_ASYNC = load_performance_table().generation("V1 async")


def a_gpu(identity: str = "h100-sxm5-80gb") -> GpuModel:
    found = load_gpu_catalogue().by_id(identity)
    assert found is not None, identity
    return found


def a_site(gpu: str = "h100-sxm5-80gb", sharing: Sharing = Sharing.NONE, *, sm_percent: int | None = None) -> Site:
    return Site(gpu=a_gpu(gpu), sharing=sharing, sm_percent=sm_percent)


def a_mig_site(profile: str, gpu: str = "a100-sxm4-40gb") -> Site:
    found = next(each for each in a_gpu(gpu).mig_profiles if each.name == profile)
    return Site(gpu=a_gpu(gpu), sharing=Sharing.MIG, mig_profile=found)


def a_tenant(
    *,
    model: ModelProfile | None = None,
    in_flight: float = 32.0,
    lengths: tuple[int, int] = (512, 256),
    max_num_seqs: int = 512,
    max_num_batched_tokens: int = 2048,
    kv_cache_tokens: int = 1_000_000,
) -> Tenant:
    return Tenant(
        model=model or a_model(),
        in_flight=in_flight,
        kv_cache_tokens=kv_cache_tokens,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_element_bytes=2,
        enforce_eager=False,
        cpu_cores=4.0,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        prefix_hit_rate=0.0,
    )


def with_experts(model: ModelProfile) -> ModelProfile:
    """The same sizes, but half of the weights are those of 8 experts a layer of which a token passes one."""
    each = model.weight_bytes // 2 // model.layers // 8
    experts = Experts(layers=model.layers, count=8, per_token=1, parameters_each=each // 2, bytes_each=each)
    return replace(model, experts=experts)


def an_embedder() -> ModelProfile:
    return replace(a_model(), architecture="BertModel", task=Task.EMBED)
