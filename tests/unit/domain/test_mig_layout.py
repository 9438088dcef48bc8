"""MIG layouts keep the placement rules: against NVIDIA's useful mixes, and against a bit map written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.adapters.tables import read_table
from slmpack.domain.gpu import GpuModel, MigProfile
from slmpack.domain.mig_layout import Layout, Slot, is_allowed, layouts_of, place, stock_name
from tests.support.builders import POLICY

MIG_GPUS = [gpu for gpu in POLICY.gpus.models if gpu.mig_profiles]
A100 = next(gpu for gpu in MIG_GPUS if gpu.id == "a100-sxm4-80gb")
TABLE = read_table("gpus.yaml")
RULES = {entry["id"]: entry["mig"] for entry in TABLE["gpus"] if entry["mig"]["supported"]}
MIXES: list[list[str]] = TABLE["rules"]["useful_8slice_mixes"]
"""Such as [3g@0, 2g@4, 1g-double@6]."""


def keeps_the_rules(gpu: GpuModel, slots: Sequence[Slot]) -> bool:
    """The same question, from the YAML and one bit a memory slice."""
    mig, taken = RULES[gpu.id], 0
    rows = {row["name"]: row for row in mig["profiles"]}
    for slot in slots:
        row = rows[slot.profile.name]
        bits = ((1 << row["placement_size"]) - 1) << slot.start
        if slot.start not in row["placement_starts"] or taken & bits:
            return False
        taken |= bits
    counts = Counter(slot.profile.name for slot in slots)
    too_many = any(count > rows[name]["max_instances"] for name, count in counts.items())
    compute = sum(rows[slot.profile.name]["compute_slices"] for slot in slots)
    return not too_many and compute <= mig["compute_slices"] and taken < 1 << mig["memory_slices"]


def profile_of(gpu: GpuModel, word: str) -> MigProfile:
    compute = int(word[0])
    alike = [p for p in gpu.mig_profiles if p.compute_slices == compute and "+" not in p.name]
    return sorted(alike, key=lambda p: p.memory_slices)[1 if "double" in word else 0]


@pytest.mark.parametrize("mix", MIXES, ids=" ".join)
def test_nvidias_useful_mixes_are_allowed(mix: list[str]) -> None:
    words = [(word, int(start or 0)) for word, _, start in (each.partition("@") for each in mix)]
    slots = [Slot(profile=profile_of(A100, word), start=start) for word, start in words]
    assert is_allowed(A100, slots)
    layout = place(A100, [slot.profile for slot in slots])
    assert layout is not None
    assert Counter(slot.profile for slot in layout.slots) == Counter(slot.profile for slot in slots)


@st.composite
def some_slots(draw: st.DrawFn) -> tuple[GpuModel, list[Slot]]:
    gpu = draw(st.sampled_from(MIG_GPUS))
    starts = st.integers(0, 12)
    slot = st.builds(Slot, profile=st.sampled_from(gpu.mig_profiles), start=starts)
    fitting = st.sampled_from([Slot(profile=p, start=s) for p in gpu.mig_profiles for s in p.placement_starts])
    return gpu, draw(st.lists(st.one_of(fitting, fitting, fitting, slot), max_size=8))


@given(some_slots())
def test_what_breaks_a_rule_is_not_allowed(asked: tuple[GpuModel, list[Slot]]) -> None:
    gpu, slots = asked
    assert is_allowed(gpu, slots) == keeps_the_rules(gpu, slots)


@given(st.sampled_from(MIG_GPUS), st.data())
def test_instances_are_placed_by_the_rules_or_not_at_all(gpu: GpuModel, data: st.DataObject) -> None:
    profiles = data.draw(st.lists(st.sampled_from(gpu.mig_profiles), max_size=8))
    layout = place(gpu, profiles)
    if layout is None:
        return
    assert keeps_the_rules(gpu, layout.slots)
    assert Counter(slot.profile for slot in layout.slots) == Counter(profiles)


@pytest.mark.parametrize("gpu", MIG_GPUS, ids=lambda gpu: gpu.id)
def test_every_layout_keeps_the_rules_and_nothing_more_fits_unless_it_is_a_stock_layout(gpu: GpuModel) -> None:
    names = [layout.name for layout in layouts_of(gpu)]
    assert names == sorted(set(names))
    for layout in layouts_of(gpu):
        assert keeps_the_rules(gpu, layout.slots)
        assert all("+" not in slot.profile.name and slot.profile.memory_mib for slot in layout.slots)
        profiles = [slot.profile for slot in layout.slots]
        more = [p for p in gpu.mig_profiles if p.memory_mib and "+" not in p.name and place(gpu, [*profiles, p])]
        assert not more or stock_name(gpu, layout)


def test_the_layouts_of_a_gpu() -> None:
    layouts = {layout.name: layout for layout in layouts_of(A100)}
    assert len(layouts) == 30
    assert stock_name(A100, layouts["1 x 3g.40gb + 1 x 2g.20gb + 2 x 1g.10gb"]) == "all-balanced"
    stock = {stock_name(A100, layout) for layout in layouts.values()} - {None}
    assert stock == {"all-balanced"} | {f"all-{p.name}" for p in A100.mig_profiles if "+" not in p.name}
    # 3g at 0 would leave 2g and 1g no starts: the larger ones give way
    assert [slot.start for slot in layouts["1 x 3g.40gb + 4 x 1g.10gb"].slots] == [0, 1, 2, 3, 4]


def test_gpus_with_four_compute_slices_are_balanced_without_a_third_size() -> None:
    for name, wanted in {
        "a30": "1 x 2g.12gb + 2 x 1g.6gb",
        "rtx-pro-6000-blackwell-server": "1 x 2g.48gb + 2 x 1g.24gb",
    }.items():
        gpu = next(each for each in MIG_GPUS if each.id == name)
        balanced = [layout.name for layout in layouts_of(gpu) if stock_name(gpu, layout) == "all-balanced"]
        assert balanced == [wanted]


def test_a_single_profile_in_smaller_number_has_no_stock_name() -> None:
    two = place(A100, [profile_of(A100, "2g")] * 2)
    assert two is not None
    assert stock_name(A100, two) is None
    assert place(A100, [profile_of(A100, "4g")] * 2) is None


def test_a_gpu_of_unheard_of_width_has_no_balanced_layout() -> None:
    odd = GpuModel(
        id="odd",
        product_labels=("odd",),
        compute_capability="9.0",
        memory_total_mib=1,
        memory_usable_mib=None,
        bandwidth_gb_s=None,
        tdp_w=1,
        sm_count=None,
        mig_profiles=tuple(p for p in A100.mig_profiles if p.compute_slices <= 2),
        mps_max_clients=None,
    )
    assert stock_name(odd, Layout(slots=())) is None
