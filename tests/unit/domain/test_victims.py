"""Which replicas end first: what costs least, then those whose GPU comes free soonest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.domain.inventory import read_nodes
from slmpack.domain.snapshot import NodeView, PodView
from slmpack.domain.victims import Crowd, crowds_of, shrink
from tests.support.builders import (
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    a_stranger,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

DEMAND = a_demand()
(MADE,) = creates(plan(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),))))
SHARED = "nvidia.com/gpu"


def pod(number: int, node: str, *, resource: str = SHARED, age: int = 0, ready: bool = True) -> PodView:
    """A replica on a node; the higher its number, or the lower its age in minutes, the newer."""
    view = a_pod(MADE, ready=ready, created=NOW - timedelta(minutes=age))
    record = replace(MADE.record, ordinal=number, node=node, resource=resource)
    return replace(view, uid=f"pod-{number}", node=node, requests={resource: 1}, record=record)


def ended(
    pods: Iterable[PodView], count: int, nodes: Iterable[NodeView], *, others: Iterable[PodView] = ()
) -> list[str]:
    there = list(pods)
    crowds = crowds_of(read_nodes(tuple(nodes), POLICY.gpus), (*there, *others))
    return [delete.uid for delete in shrink(DEMAND, there, [], count, crowds=crowds).deletes]


def test_the_gpu_with_the_fewest_replicas_comes_free_first() -> None:
    nodes = (mps_node("a", replicas=4), mps_node("b", replicas=4))
    pods = [pod(0, "a"), pod(1, "a"), pod(2, "b"), pod(3, "a")]
    assert ended(pods, 1, nodes) == ["pod-2"]
    assert ended(pods, 4, nodes) == ["pod-2", "pod-3", "pod-1", "pod-0"]


def test_a_gpu_that_others_keep_in_use_waits() -> None:
    nodes = (mps_node("a", replicas=4), mps_node("b", replicas=4))
    pods = [pod(0, "a"), pod(1, "a"), pod(2, "b")]
    assert ended(pods, 3, nodes, others=[a_stranger("s", "b")]) == ["pod-1", "pod-0", "pod-2"]
    gone = replace(a_stranger("s", "b"), deleting=True)
    assert ended(pods, 1, nodes, others=[gone]) == ["pod-2"], "who is leaving keeps nothing"


def test_of_gpus_that_others_keep_the_emptier_goes_first() -> None:
    nodes = (mps_node("a", replicas=4), mps_node("b", replicas=4))
    others = [a_stranger("s", "a"), a_stranger("t", "a"), a_stranger("u", "b")]
    assert ended([pod(0, "b"), pod(1, "a")], 1, nodes, others=others) == ["pod-0"]


def test_a_node_with_several_gpus_counts_as_if_they_filled_up_one_by_one() -> None:
    """Five on two GPUs of four: one end frees a GPU, as far as anybody can tell; on node b two ends would."""
    nodes = (mps_node("a", replicas=4, gpus=2), mps_node("b", replicas=4))
    pods = [*(pod(n, "a") for n in range(5)), pod(5, "b"), pod(6, "b")]
    assert ended(pods, 3, nodes) == ["pod-4", "pod-6", "pod-5"]


def test_slices_of_several_kinds_share_a_gpu() -> None:
    nodes = (mig_node("a"), mig_node("b"))
    small, large = "nvidia.com/mig-1g.5gb", "nvidia.com/mig-3g.20gb"
    pods = [pod(0, "a", resource=small), pod(1, "a", resource=large), pod(2, "b", resource=small)]
    assert ended(pods, 1, nodes) == ["pod-2"]


def test_a_whole_gpu_goes_before_a_part_of_one() -> None:
    nodes = (mps_node("a", replicas=4), whole_node("b"))
    assert ended([pod(0, "b"), pod(1, "a"), pod(2, "a")], 1, nodes) == ["pod-0"]


def test_what_never_was_ready_ends_before_a_gpu_comes_free() -> None:
    nodes = (mps_node("a", replicas=4), mps_node("b", replicas=4))
    assert ended([pod(0, "a"), pod(1, "a", ready=False), pod(2, "b")], 1, nodes) == ["pod-1"]


def test_of_alike_the_newest_ends() -> None:
    nodes = (whole_node("a", gpus=3),)
    assert ended([pod(2, "a", age=9), pod(0, "a", age=1), pod(1, "a", age=5)], 2, nodes) == ["pod-0", "pod-1"]


@pytest.mark.parametrize("count", [0, -1])
def test_nothing_ends_for_nothing(count: int) -> None:
    assert ended([pod(0, "a")], count, (whole_node("a"),)) == []


def test_crowds_are_of_shared_gpus_only() -> None:
    nodes = read_nodes((whole_node("w"), mps_node("m", replicas=4, gpus=2)), POLICY.gpus)
    found = crowds_of(nodes, [pod(0, "m"), a_stranger("s", "m", count=2), a_stranger("w", "w"), pod(1, "elsewhere")])
    assert found == {"m": Crowd(resources=frozenset({SHARED}), per_gpu=4, used=3)}


def in_use(there: Mapping[str, int], per_gpu: int) -> int:
    return sum(-(-count // per_gpu) for count in there.values())


@settings(max_examples=60)
@given(
    own=st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    strangers=st.lists(st.sampled_from("abc"), max_size=4),
    per_gpu=st.integers(min_value=2, max_value=4),
)
def test_scaling_down_step_by_step_empties_gpus_one_after_another(
    own: list[str], strangers: list[str], per_gpu: int
) -> None:
    """After each end, no other choice of as many ends would have left fewer GPUs in use."""
    nodes = [mps_node(name, replicas=per_gpu, gpus=5) for name in "abc"]
    others = [a_stranger(f"s{n}", node) for n, node in enumerate(strangers)]
    left = [pod(n, node) for n, node in enumerate(own)]
    for ends in range(1, len(own) + 1):
        (gone,) = ended(left, 1, nodes, others=others)
        left = [view for view in left if view.uid != gone]
        now = in_use(Counter([*(view.node or "" for view in left), *strangers]), per_gpu)
        best = min(in_use(Counter([*kept, *strangers]), per_gpu) for kept in combinations(own, len(own) - ends))
        assert now == best
    assert not left
