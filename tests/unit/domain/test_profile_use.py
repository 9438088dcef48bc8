"""What a profile may change: only figures that agree with each other and with the model calibrate it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.calibration import Calibration
from slmpack.domain.prediction import Sharing
from slmpack.domain.profile import Profile, ProfilePoint
from slmpack.domain.profile_use import calibration_for
from slmpack.domain.serving import Engine
from slmpack.domain.sizing import engine_of
from tests.support.builders import POLICY, a_demand


def a_profile(*itls: float, sizes: tuple[int, ...] = (1, 64)) -> Profile:
    points = tuple(
        ProfilePoint(concurrency=size, throughput_tok_s=size / itl, itl_s=itl)
        for size, itl in zip(sizes, itls, strict=True)
    )
    return Profile(
        model="Qwen/Qwen2.5-1.5B-Instruct",
        gpu="l4",
        engine_version="0.33.0",
        sharing=Sharing.NONE,
        replicas=1,
        max_num_seqs=None,
        max_model_len=None,
        kv_cache_tokens=None,
        input_tokens=512,
        output_tokens=256,
        points=points,
    )


def used(profile: Profile) -> tuple[Calibration | None, tuple[str, ...]]:
    demand = replace(a_demand(), profile=profile)
    engine, gpu = engine_of(demand, POLICY), POLICY.gpus.by_id("l4")
    assert isinstance(engine, Engine)
    assert gpu is not None
    return calibration_for(demand, engine, gpu, POLICY)


def test_points_near_the_model_calibrate_it() -> None:
    found, notes = used(a_profile(0.02, 0.035))
    assert isinstance(found, Calibration)
    assert 0.3 < found.factor < 3
    assert notes == ()


@pytest.mark.parametrize(
    ("itls", "factor"), [((1e-7, 1e-7), "0.3 or less"), ((1e5, 1e5), "0.3 or less"), ((0.02, 5.0), "3.0 or more")]
)
def test_a_factor_at_the_end_of_its_range_calibrates_nothing(itls: tuple[float, ...], factor: str) -> None:
    found, (note,) = used(a_profile(*itls))
    assert found is None
    assert note.startswith(f"spec.profileRef: points: to meet itl_s, the modelled times need a factor of {factor}: ")
    assert note.endswith("a large number of them: predictions for l4 are modelled.")


def test_figures_that_contradict_each_other_calibrate_nothing() -> None:
    profile = a_profile(0.02, 0.035)
    low, high = profile.points
    found, (note,) = used(replace(profile, points=(low, replace(high, throughput_tok_s=5.0))))
    assert found is None
    assert note.startswith("spec.profileRef: points[1]: 5 tokens/s at 0.035 s for each token of a request are ")
    assert note.endswith("predictions for l4 are modelled.")
