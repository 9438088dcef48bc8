"""A catalogue GPU cut for replicas: shares, limits, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.cut import CannotCut, Cut, cut_gpu, cut_unequally
from slmpack.domain.gpu import GpuModel
from slmpack.domain.prediction import Sharing
from slmpack.domain.quantity import GIB, MIB
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare


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
    assert "the memory of 1g.10gb on h100-sxm5-80gb is not known; nor that of its other profiles" in unknown.message
    some = cut_gpu(a_gpu("h200-sxm-141gb"), sharing=Sharing.MIG, replicas=1, mig_profile="1g.35gb")
    assert isinstance(some, CannotCut)
    assert some.message.endswith("is not known; take another of 1g.18gb, 1g.18gb+me, 2g.35gb, 7g.141gb")


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
