"""A catalogue GPU cut for replicas: shares, limits, the engine's budget in them, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.footprint import Footprint
from slmpack.domain.gpu import GpuModel
from slmpack.domain.prediction import Sharing
from slmpack.domain.quantity import GIB, MIB
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare
from slmpack.domain.whatif import CannotCut, Cut, cut_gpu, cut_unequally, make_room

FOOTPRINT = Footprint(
    weights_bytes=2 * GIB,
    kv_bytes_per_token=64 * 1024,
    activation_bytes=512 * MIB,
    non_torch_bytes=128 * MIB,
    cuda_graph_bytes=256 * MIB,
    cuda_graphs_inside_budget=True,
    context_bytes=512 * MIB,
    margin_bytes=128 * MIB,
    basis="modelled",
)


def a_gpu(name: str = "h100-sxm5-80gb") -> GpuModel:
    gpu = load_gpu_catalogue().by_id(name)
    assert gpu is not None
    return gpu


def a_cut(sharing: Sharing = Sharing.NONE, replicas: int = 1, *, gpu: str = "h100-sxm5-80gb") -> Cut:
    cut = cut_gpu(a_gpu(gpu), sharing=sharing, replicas=replicas, mig_profile="1g.10gb")
    assert isinstance(cut, Cut)
    return cut


def test_a_whole_gpu_is_its_own_limit() -> None:
    gpu = a_gpu()
    cut = a_cut()
    assert cut.share == Exclusive(resource="nvidia.com/gpu", memory_bytes=gpu.cuda_total_mib * MIB)
    assert cut.limit_bytes == gpu.cuda_total_mib * MIB
    assert (cut.site.gpu, cut.site.sharing, cut.enforcement) == (gpu, Sharing.NONE, "the whole GPU")


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_mps_limits_leave_a_gibibyte_for_the_server(replicas: int) -> None:
    gpu = a_gpu()
    cut = cut_gpu(gpu, sharing=Sharing.MPS, replicas=replicas, sm_percent=40)
    assert isinstance(cut, Cut)
    limit = (gpu.cuda_total_mib - 1024) // replicas * MIB
    assert cut.share == MpsShare(
        resource="nvidia.com/gpu",
        replicas=replicas,
        gpu_memory_bytes=gpu.cuda_total_mib * MIB,
        limit_bytes=limit,
        active_thread_percentage=40,
    )
    assert replicas * limit + GIB <= gpu.cuda_total_mib * MIB
    assert (cut.limit_bytes, cut.site.sm_percent) == (limit, 40)
    assert "not verified" in cut.enforcement


def test_time_slicing_limits_nothing() -> None:
    cut = a_cut(Sharing.TIMESLICE, 2)
    assert cut.limit_bytes is None
    assert cut.enforcement == "time-slicing bounds nothing"
    assert isinstance(cut.share, MpsShare)
    assert cut.share.limit_bytes == a_gpu().cuda_total_mib // 2 * MIB
    assert cut.share.active_thread_percentage == 100


@pytest.mark.parametrize("name", ["1g.10gb+me", "1g.10gb.me"])
def test_a_mig_profile_by_either_spelling(name: str) -> None:
    cut = cut_gpu(a_gpu(), sharing=Sharing.MIG, replicas=1, mig_profile=name)
    assert isinstance(cut, Cut)
    assert isinstance(cut.share, MigSlice)
    assert (cut.share.profile, cut.share.resource) == ("1g.10gb+me", "nvidia.com/mig-1g.10gb.me")
    assert cut.enforcement == "held by the hardware"
    assert cut.site.mig_profile is not None
    assert cut.limit_bytes == cut.share.memory_bytes == (cut.site.mig_profile.memory_mib or 0) * MIB


def without_memory(gpu: GpuModel) -> GpuModel:
    return replace(gpu, mig_profiles=tuple(replace(profile, memory_mib=None) for profile in gpu.mig_profiles))


@pytest.mark.parametrize(
    ("gpu", "sharing", "replicas", "profile", "field", "message"),
    [
        ("l4", Sharing.NONE, 2, None, "replicas", "2 replicas cannot have a whole GPU each; share it by"),
        ("l4", Sharing.MIG, 1, "1g.5gb", "sharing", "l4 has no MIG; use none, mps or timeslice"),
        ("h100-sxm5-80gb", Sharing.MIG, 1, None, "mig_profile", "mig needs a profile; h100-sxm5-80gb has 1g.10gb"),
        ("h100-sxm5-80gb", Sharing.MIG, 1, "1g.5gb", "mig_profile", "no profile '1g.5gb'; it has 1g.10gb"),
        ("h100-sxm5-80gb", Sharing.MIG, 8, "1g.10gb", "replicas", "holds 7 instances of 1g.10gb at most"),
        ("l4", Sharing.MPS, 49, None, "replicas", "l4 admits 48 MPS clients at most"),
    ],
)
def test_what_cannot_be_cut(
    gpu: str, sharing: Sharing, replicas: int, profile: str | None, field: str, message: str
) -> None:
    found = cut_gpu(a_gpu(gpu), sharing=sharing, replicas=replicas, mig_profile=profile)
    assert isinstance(found, CannotCut)
    assert found.field == field
    assert message in found.message


def test_a_gpu_without_mps_and_a_profile_of_unknown_size() -> None:
    none = cut_gpu(replace(a_gpu("l4"), mps_max_clients=None), sharing=Sharing.MPS, replicas=1)
    assert none == CannotCut(field="sharing", message="l4 has no MPS; use none, mig or timeslice")
    unknown = cut_gpu(without_memory(a_gpu()), sharing=Sharing.MIG, replicas=1, mig_profile="1g.10gb")
    assert isinstance(unknown, CannotCut)
    assert "the memory of 1g.10gb on h100-sxm5-80gb is not known; take another" in unknown.message


def test_unequal_limits_and_the_rest_for_the_others() -> None:
    cut = a_cut(Sharing.MPS, 4)
    parts = cut_unequally(cut, [10_240, None, 20_480, None])
    assert isinstance(parts, tuple)
    total = a_gpu().cuda_total_mib - 1024
    rest = (total - 30_720) // 2
    assert [part.limit_bytes for part in parts] == [10_240 * MIB, rest * MIB, 20_480 * MIB, rest * MIB]
    assert {part.site for part in parts} == {cut.site}


def test_unequal_parts_of_a_time_sliced_gpu_leave_nothing_for_a_server() -> None:
    cut = a_cut(Sharing.TIMESLICE, 2)
    parts = cut_unequally(cut, [1_024, None])
    assert isinstance(parts, tuple)
    assert isinstance(parts[1].share, MpsShare)
    assert parts[1].share.limit_bytes == (a_gpu().cuda_total_mib - 1_024) * MIB


@pytest.mark.parametrize("limits", [[80_000, 80_000], [79_000, 1_058, None], [10**6, None]])
def test_limits_that_are_more_than_there_is(limits: list[int | None]) -> None:
    found = cut_unequally(a_cut(Sharing.MPS, len(limits)), limits)
    assert isinstance(found, CannotCut)
    assert found.field == "memory"
    assert "make them smaller" in found.message


def test_limits_all_given_may_leave_some_over() -> None:
    assert isinstance(cut_unequally(a_cut(Sharing.MPS, 2), [1_000, 2_000]), tuple)


@pytest.mark.parametrize("sharing", [Sharing.NONE, Sharing.MIG])
def test_a_device_of_its_own_takes_no_limit(sharing: Sharing) -> None:
    found = cut_unequally(a_cut(sharing), [1_000])
    assert found == CannotCut(
        field="memory", message=f"replicas of {sharing.value} have what the device gives them; leave the memory out"
    )


def room(cut: Cut, wanted: float | None = None, *, length: int = 4096, footprint: Footprint = FOOTPRINT):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return make_room(cut, footprint, max_model_len=length, ceiling=0.92, wanted=wanted)


def test_budget_and_context_lie_inside_the_share_and_the_cache_is_whole_blocks() -> None:
    for sharing, replicas in ((Sharing.NONE, 1), (Sharing.MIG, 1), (Sharing.MPS, 4), (Sharing.TIMESLICE, 3)):
        cut = a_cut(sharing, replicas)
        found = room(cut)
        assert found.shortfall is None
        total = cut.share.gpu_memory_bytes if isinstance(cut.share, MpsShare) else cut.share.memory_bytes
        limit = cut.share.limit_bytes if isinstance(cut.share, MpsShare) else cut.share.memory_bytes
        assert found.requested_bytes == int(found.gpu_memory_utilization * total)
        assert found.requested_bytes + FOOTPRINT.outside_bytes <= limit
        assert found.gpu_memory_utilization == round(found.gpu_memory_utilization, 3) <= 0.92
        assert found.kv_cache_bytes == found.kv_cache_tokens * FOOTPRINT.kv_bytes_per_token
        assert found.kv_cache_tokens % 16 == 0
        left = found.requested_bytes - FOOTPRINT.fixed_inside_bytes - found.kv_cache_bytes
        assert 0 <= left < 16 * FOOTPRINT.kv_bytes_per_token


def test_a_wanted_utilisation_is_taken_or_named_with_what_works() -> None:
    cut = a_cut(Sharing.MPS, 2)
    assert room(cut, 0.3).gpu_memory_utilization == 0.3
    too_much = room(cut, 0.9).shortfall
    assert too_much is not None
    assert "a utilisation of 0.9 asks for" in too_much
    most = float(too_much.rpartition("at most ")[2].removesuffix(" works"))
    assert room(cut, most).shortfall is None
    assert room(cut, most + 0.001).shortfall is not None


def test_what_is_too_small_says_what_is_needed_term_by_term() -> None:
    found = room(a_cut(Sharing.MPS, 30))
    assert found.kv_cache_tokens == 0
    assert found.shortfall == (
        "a replica of 4,096 tokens needs 3.8 GiB: weights 2.0 GiB + KV cache of one request 256 MiB"
        " + activations 512 MiB + graphs 256 MiB + context 512 MiB + other 256 MiB; the share offers 2.6 GiB"
    )


def test_a_share_smaller_than_the_context_offers_nothing() -> None:
    found = room(a_cut(), footprint=replace(FOOTPRINT, context_bytes=10**12))
    assert (found.gpu_memory_utilization, found.requested_bytes, found.kv_cache_bytes) == (0.0, 0, 0)
    assert found.shortfall is not None


def test_vllm_starts_only_with_room_for_one_request() -> None:
    cut = a_cut(Sharing.MIG)
    tokens = room(cut).kv_cache_tokens
    assert room(cut, length=tokens).shortfall is None
    assert room(cut, length=tokens + 1).shortfall is not None


def test_a_model_without_a_cache_needs_none() -> None:
    found = room(a_cut(), footprint=replace(FOOTPRINT, kv_bytes_per_token=0))
    assert (found.kv_cache_bytes, found.kv_cache_tokens, found.shortfall) == (0, 0, None)
