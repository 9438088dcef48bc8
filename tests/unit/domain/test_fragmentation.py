"""What is said of free MIG instances follows from the labels, and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmpack.domain.fragmentation import describe_slices, slice_notes
from slmpack.domain.inventory import GpuNode, free_on, read_nodes
from slmpack.domain.mig_layout import Layout, layouts_of
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import NodeView
from slmpack.domain.workload import Workload
from tests.support.builders import (
    A100_40,
    L4,
    POLICY,
    a_demand,
    a_deployment,
    a_node,
    a_snapshot,
    a_stranger,
    mig_node,
    plan,
    whole_node,
)

A100 = next(gpu for gpu in POLICY.gpus.models if gpu.id == "a100-sxm4-40gb")
UNKNOWABLE = "labels do not say which of them holds what"


def read(view: NodeView) -> GpuNode:
    (node,) = read_nodes((view,), POLICY.gpus)
    return node


def cut(gpus: int, slices: Mapping[str, int], **more: int) -> NodeView:
    resources = {f"nvidia.com/mig-{name}": count for name, count in slices.items()}
    labels = {"nvidia.com/gpu.count": str(gpus)}
    return a_node("n", product=A100_40, resources={**resources, **more}, labels=labels)


def told(view: NodeView, used: Mapping[str, int] | None = None) -> str:
    node = read(view)
    taken = {f"nvidia.com/mig-{name}": count for name, count in (used or {}).items()}
    return describe_slices(node, {name: n - taken.get(name, 0) for name, n in free_on(node, ()).items()})


@pytest.mark.parametrize(
    ("view", "used", "text"),
    [
        (cut(1, {"1g.5gb": 4, "3g.20gb": 1}), {"1g.5gb": 1}, "3 of 4 1g.5gb and 1 of 1 3g.20gb free, all on its one GPU."),
        (
            cut(2, {"1g.5gb": 7}),
            {"1g.5gb": 4},
            f"{UNKNOWABLE}. By their number, at least 0 and at most 1 of the GPUs have no instance in use.",
        ),
        (cut(2, {"7g.40gb": 2}), {"7g.40gb": 1}, "By their number, 1 of the GPUs has no instance in use."),
        (cut(3, {"7g.40gb": 3}), {}, "By their number, 3 of the GPUs have no instance in use."),
        (cut(4, {"1g.5gb.me": 4}), {"1g.5gb.me": 2}, "By their number, 2 of the GPUs have no instance in use."),
        (cut(2, {"2g.10gb": 6}), {"2g.10gb": 5}, "By their number, 0 of the GPUs have no instance in use."),
        (cut(1, {"1g.5gb": 2}), {"1g.5gb": 3}, "0 of 2 1g.5gb free"),  # withdrawn while a pod holds it
        (
            cut(3, {"1g.5gb": 9}, **{"nvidia.com/gpu": 1}),
            {},
            "9 of 9 1g.5gb free, on at least 2 GPUs; labels do not say how many GPUs are cut, nor which of them holds what.",
        ),
        (
            a_node("n", product=f"{A100_40}-MIG-1g.5gb", resources={"nvidia.com/gpu": 7}, labels={}),
            {},
            "7 of 7 1g.5gb free, on one GPU or more; labels do not say how many GPUs are cut",
        ),
        (
            replace(cut(2, {}), allocatable={"nvidia.com/mig-9g.9gb": 2}, labels={
                "nvidia.com/gpu.product": A100_40, "nvidia.com/gpu.count": "2", "nvidia.com/mig-9g.9gb.memory": "9000",
            }),
            {"9g.9gb": 2},
            "By their number, at least 0 and at most 1 of the GPUs have no instance in use.",
        ),
    ],
)  # fmt: skip
def test_what_is_said(view: NodeView, used: Mapping[str, int], text: str) -> None:
    assert text in told(view, used)


def test_nodes_without_instances_and_unknown_gpus_have_nothing_to_say() -> None:
    assert told(whole_node("n", product=L4)) == ""
    assert told(a_node("n", product="Tesla-K80")) == ""


@given(st.lists(st.sampled_from(layouts_of(A100)), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_bounds_hold_however_the_instances_lie(layouts: list[Layout], random: Random) -> None:
    """Any layouts, any instances in use: the number of GPUs that really have none lies within what is said."""
    slots = [(gpu, slot.profile.name) for gpu, layout in enumerate(layouts) for slot in layout.slots]
    used = [slot for slot in slots if random.random() < 0.4]
    idle = len(layouts) - len({gpu for gpu, _ in used})
    text = told(cut(len(layouts), Counter(name for _, name in slots)), Counter(name for _, name in used))
    numbers = [int(word) for word in text.rpartition("By their number, ")[2].split() if word.isdigit()]
    assume(numbers)
    assert numbers[0] <= idle <= numbers[-1]


def test_a_replica_without_room_is_told_what_is_free_and_what_nobody_can_tell() -> None:
    view = cut(2, {"1g.5gb": 7, "3g.20gb": 1})
    strangers = tuple(a_stranger(f"s{n}", "n", resource="nvidia.com/mig-3g.20gb") for n in range(1))
    demand = a_demand(max_model_len=32768, replicas=1)
    done = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=(view,), pods=strangers))
    (unplaced,) = done.deployments[0].unplaced
    assert unplaced.problem.reason is Reason.INSUFFICIENT_GPUS
    assert unplaced.problem.message.endswith(
        f"; node n has 7 of 7 1g.5gb and 0 of 1 3g.20gb free, on 2 GPUs; {UNKNOWABLE}. "
        "By their number, 1 of the GPUs has no instance in use"
    )


def test_only_the_first_of_several_nodes_is_told_at_length() -> None:
    taken = [a_stranger(f"s{name}", name, resource="nvidia.com/mig-3g.20gb") for name in ("a", "b", "c")]
    demand = a_demand(max_model_len=32768)
    for count, more in ((1, ""), (2, "; 1 more node has MIG instances"), (3, "; 2 more nodes have MIG instances")):
        nodes = tuple(mig_node(name, slices={"3g.20gb": 1}) for name in ("a", "b", "c")[:count])
        done = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=nodes, pods=tuple(taken[:count])))
        message = done.deployments[0].unplaced[0].problem.message
        assert message.endswith(f"; node a has 0 of 1 3g.20gb free, all on its one GPU{more}")


def test_the_picture_has_a_note_for_nodes_with_several_gpus() -> None:
    views = (cut(2, {"1g.5gb": 14}), replace(cut(1, {"1g.5gb": 7}), name="one"), whole_node("w"))
    demand = replace(a_demand(replicas=2, max_model_len=512), workload=Workload(input_tokens=100, output_tokens=50))
    done = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=views[:2]))
    notes = slice_notes(read_nodes(views, POLICY.gpus), done.bars)
    free = 14 - sum(bool(bar.blocks) for bar in done.bars if bar.node == "n")
    assert len(notes) == 1
    assert notes[0].startswith(f"Node n has {free} of 14 1g.5gb free, on 2 GPUs; ")
