"""What a profile's name means, whoever gave it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.gpu import GpuModel
from slmpack.domain.mig import compute_slices, find_profile, memory_slices, plain_profiles
from tests.support.builders import POLICY

MIG_GPUS = [gpu for gpu in POLICY.gpus.models if gpu.mig_profiles]


@pytest.mark.parametrize("gpu", MIG_GPUS, ids=lambda gpu: gpu.id)
def test_every_profile_is_found_by_either_spelling_and_by_its_slices(gpu: GpuModel) -> None:
    for profile in gpu.mig_profiles:
        assert find_profile(gpu, profile.name) is profile
        assert find_profile(gpu, profile.name.replace("+", ".")) is profile
        if "+" in profile.name:
            continue
        found = find_profile(gpu, f"{profile.name}.gfx")
        assert found is not None
        assert (found.compute_slices, found.memory_slices) == (profile.compute_slices, profile.memory_slices)


@pytest.mark.parametrize(
    ("gpu", "name", "expected"),
    [
        ("h100-sxm5-80gb", "1g.12gb", "1g.10gb"),
        ("h100-sxm5-80gb", "1g.24gb", "1g.20gb"),
        ("h100-sxm5-80gb", "2g.24gb", "2g.20gb"),
        ("a100-sxm4-80gb", "7g.79gb", "7g.80gb"),
        ("gb200-186gb", "1g.24gb", "1g.23gb"),
        ("gb200-186gb", "3g.95gb", "3g.93gb"),
        ("gb200-186gb", "7g.189gb", "7g.186gb"),
        ("rtx-pro-6000-blackwell-server", "1g.24gb-me", "1g.24gb"),
        ("rtx-pro-6000-blackwell-server", "2g.48gb.me.all", "2g.48gb"),
        ("h100-sxm5-80gb", "1g.5gb", None),
        ("h100-sxm5-80gb", "2g.10gb", None),
        ("h100-sxm5-80gb", "9g.9gb", None),
        ("h100-sxm5-80gb", "1c.2g.20gb", None),
        ("h100-sxm5-80gb", "half", None),
        ("l4", "1g.10gb", None),
    ],
)
def test_a_name_that_is_not_in_the_table_is_read(gpu: str, name: str, expected: str | None) -> None:
    model = POLICY.gpus.by_id(gpu)
    assert model is not None
    found = find_profile(model, name)
    assert (found.name if found else None) == expected


def test_a_table_whose_names_say_nothing_finds_nothing() -> None:
    a30 = POLICY.gpus.by_id("a30")
    assert a30 is not None
    odd = replace(a30, mig_profiles=tuple(replace(profile, name="odd") for profile in a30.mig_profiles))
    assert find_profile(odd, "1g.6gb") is None


def test_the_whole_is_the_largest_profile() -> None:
    sizes = {gpu.id: (compute_slices(gpu), memory_slices(gpu)) for gpu in MIG_GPUS}
    assert sizes["a30"] == (4, 4)
    assert sizes["rtx-pro-6000-blackwell-server"] == (4, 12)
    assert set(sizes.values()) == {(4, 4), (4, 12), (7, 8)}
    a100 = POLICY.gpus.by_id("a100-sxm4-40gb")
    assert a100 is not None
    assert all("+" not in profile.name for profile in plain_profiles(a100))
