"""The verdict on a measured curve: the planner's knee, or the reason why none is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.knee import Binding, Knee
from slmpack.domain.prediction import Sharing
from slmpack.domain.profile import Profile, ProfilePoint, Refusal, incredible, judge, mismatch
from slmpack.domain.profile_faults import Fault, PointFault
from slmpack.domain.workload import Bounds

CAPPED = (PointFault(fault=Fault.CAP, message="at most 8 of 16 requests ran at once"),)


def a_profile(*throughputs: float, kv_cache_tokens: int | None = None) -> Profile:
    """Concurrency 1, 2, 4 and so on."""
    points = tuple(
        ProfilePoint(concurrency=2**power, throughput_tok_s=rate, itl_s=2**power / rate, ttft_s=0.1)
        for power, rate in enumerate(throughputs)
    )
    return Profile(
        model="org/model",
        gpu="l4",
        engine_version="0.32.0",
        sharing=Sharing.NONE,
        replicas=1,
        max_num_seqs=256,
        max_model_len=4096,
        kv_cache_tokens=kv_cache_tokens,
        input_tokens=512,
        output_tokens=256,
        points=points,
    )


def spoilt(profile: Profile, *sizes: int) -> Profile:
    points = (replace(point, faults=CAPPED) if point.concurrency in sizes else point for point in profile.points)
    return replace(profile, points=tuple(points))


def test_a_clean_curve_shows_its_knee() -> None:
    found = judge(a_profile(100, 190, 360, 600, 620))
    assert isinstance(found, Knee)
    assert (found.batch, found.binding, found.throughput_tok_s) == (8, Binding.DOUBLING, 600)


def test_the_knee_holds_absolute_bounds() -> None:
    found = judge(a_profile(100, 190, 360, 600, 620), bounds=Bounds(itl_s=0.0112))
    assert isinstance(found, Knee)
    assert (found.batch, found.binding) == (4, Binding.ITL_BOUND)


def test_a_spoilt_point_beyond_the_knee_changes_nothing() -> None:
    found = judge(spoilt(a_profile(100, 190, 360, 600, 620, 620), 32))
    assert isinstance(found, Knee)
    assert found.batch == 8


def test_a_cap_at_the_would_be_knee_is_no_knee() -> None:
    """The point beyond 8 is no evidence: it was the cap, not the engine, that held the throughput."""
    found = judge(spoilt(a_profile(100, 190, 360, 600, 600), 16))
    assert isinstance(found, Refusal)
    assert (found.concurrency, found.faults) == (16, CAPPED)
    assert found.message == (
        "throughput still pays at 8, and beyond it the curve is not the engine's own. "
        "At 16: Cap: at most 8 of 16 requests ran at once"
    )


def test_points_after_a_spoilt_one_do_not_count() -> None:
    found = judge(spoilt(a_profile(100, 190, 360, 600, 620), 4))
    assert isinstance(found, Refusal)
    assert found.concurrency == 4


@pytest.mark.parametrize(("sizes", "usable"), [((1,), 0), ((2, 4), 1)])
def test_two_points_are_needed(sizes: tuple[int, ...], usable: int) -> None:
    found = judge(spoilt(a_profile(100, 190, 360), *sizes))
    assert isinstance(found, Refusal)
    assert found.message.startswith(f"{usable} of 3 points can be used, 2 are needed. At {sizes[0]}: Cap: ")


def test_one_point_alone_is_too_few() -> None:
    found = judge(a_profile(100))
    assert found == Refusal(concurrency=None, faults=(), message="1 of 1 points can be used, 2 are needed")


def test_a_curve_that_ends_while_it_pays_names_no_knee() -> None:
    found = judge(a_profile(100, 190, 360))
    assert isinstance(found, Refusal)
    assert found.faults == ()
    assert found.message == "throughput still pays at 4, the largest measured; go on with --concurrency 8"


def test_beyond_the_grid_the_next_size_is_twice_as_large() -> None:
    profile = a_profile(*(100 * 1.8**power for power in range(11)))
    steady = tuple(replace(point, itl_s=0.01) for point in profile.points)
    found = judge(replace(profile, points=steady), bounds=Bounds())
    assert isinstance(found, Refusal)
    assert found.message.endswith("go on with --concurrency 2048")


@pytest.mark.parametrize("capped", [False, True])
def test_a_full_kv_cache_is_a_knee(capped: bool) -> None:
    """5 requests of 640 tokens fit; whether 8 was tried, and held back by that, makes no difference."""
    profile = a_profile(100, 190, 360, 365, kv_cache_tokens=5 * 640)
    profile = spoilt(profile, 8) if capped else replace(profile, points=profile.points[:3])
    found = judge(profile)
    assert isinstance(found, Knee)
    assert (found.batch, found.binding) == (4, Binding.KV_CACHE)
    assert found.explanation == "The knee is 4: the KV cache holds 5.0 requests of this length."


def test_a_kv_cache_with_room_for_the_next_point_is_no_reason() -> None:
    found = judge(a_profile(100, 190, 360, kv_cache_tokens=8 * 640))
    assert isinstance(found, Refusal)


def test_without_a_point_at_one_the_rule_cannot_compare() -> None:
    profile = a_profile(100, 190, 360, 370)
    found = judge(replace(profile, points=profile.points[1:]))
    assert isinstance(found, Refusal)
    assert "batch 1" in found.message


def test_clean_points_are_those_that_nothing_spoilt() -> None:
    profile = spoilt(a_profile(100, 190, 360), 2)
    assert [point.concurrency for point in profile.clean_points] == [1, 4]


def test_a_profile_of_another_model_or_gpu_says_nothing() -> None:
    profile = a_profile(100, 190)
    assert mismatch(profile, model="org/model", gpus={"l4", "NVIDIA-L4"}) is None
    assert mismatch(replace(profile, gpu=None), model="org/model", gpus={"a10"}) is None
    assert mismatch(profile, model="org/other", gpus={"l4"}) == (
        "model: the profile is of org/model, not of org/other; measure that one, or refer to its profile"
    )
    assert mismatch(profile, model="org/model", gpus={"t4", "a10"}) == (
        "gpu: the profile was measured on l4, not on a10 or t4; measure it there"
    )


def with_last(**other: float | None) -> Profile:
    """Two points of 256 tokens each, of which the last is so."""
    profile = a_profile(100, 190)
    first, last = (replace(point, ttft_s=None) for point in profile.points)
    return replace(profile, points=(first, replace(last, **other)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("part", "credible"), [(0.29, False), (0.31, True), (1.0, True), (1.49, True), (1.51, False)])
def test_throughput_and_latency_must_agree_with_the_concurrency(part: float, credible: bool) -> None:
    found = incredible(with_last(itl_s=part * 2 / 190))
    assert (found is None) is credible
    assert credible or str(found).startswith("points[1]: 190 tokens/s at ")


def test_long_prompts_are_credible_where_the_time_to_first_token_is_stated() -> None:
    """16 of 20 ms between tokens are little beside 5 s of prefill."""
    profile = replace(with_last(throughput_tok_s=6.0, itl_s=0.02, ttft_s=5.0), output_tokens=16)
    assert incredible(profile) is None
    found = incredible(replace(profile, points=(profile.points[0], replace(profile.points[1], ttft_s=None))))
    assert str(found).endswith("or add ttft_s where prompts take long")
    assert str(incredible(replace(profile, output_tokens=1))).endswith("(of all requests) and the latencies (seconds)")


def test_spoilt_points_need_not_agree() -> None:
    assert incredible(spoilt(with_last(itl_s=1e-7), 2)) is None
