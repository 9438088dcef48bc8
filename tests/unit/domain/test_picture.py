"""The picture: every GPU or slice a bar, every pod and planned replica a block, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from slmpack.domain.picture import BarState, bar_state
from slmpack.domain.plan import Block, ClusterPlan, GpuBar
from slmpack.domain.quantity import MIB
from slmpack.domain.snapshot import Key
from tests.support.builders import (
    H100,
    L4,
    a_demand,
    a_deployment,
    a_node,
    a_pod,
    a_snapshot,
    a_stranger,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

QWEN = Key("llm", "qwen")


def shown(result: ClusterPlan) -> list[tuple[str, int | None, list[str]]]:
    return [(bar.resource, bar.index, [f"{b.label} {b.state}" for b in bar.blocks]) for bar in result.bars]


def world(*nodes: Any, replicas: int = 2, pods: Any = (), **demand: Any) -> ClusterPlan:
    view = a_deployment("qwen", a_demand(replicas=replicas, **demand))
    return plan(a_snapshot(deployments=(view,), nodes=nodes, pods=pods))


def test_a_bar_in_full() -> None:
    (bar,) = world(mps_node("n", replicas=2)).bars
    block = Block(
        label="llm/qwen-0", deployment=QWEN, share="MpsShare 1/2", used_bytes=(81082 - 1024) // 2 * MIB, state="planned"
    )
    assert bar == GpuBar(
        node="n",
        resource="nvidia.com/gpu",
        index=0,
        index_basis="assumed",
        product=H100,
        usable_bytes=81082 * MIB,
        blocks=(block, replace(block, label="llm/qwen-*", state="waiting")),
    )


def test_whole_gpus_are_bars_of_one_and_their_index_is_assumed() -> None:
    result = world(whole_node("n", gpus=2), replicas=1, pods=(a_stranger("s", "n"),))
    assert shown(result) == [
        ("nvidia.com/gpu", 0, ["other/s foreign"]),
        ("nvidia.com/gpu", 1, ["llm/qwen-0 planned"]),
    ]
    assert {bar.index_basis for bar in result.bars} == {"assumed"}
    assert result.bars[0].blocks[0] == Block(
        label="other/s", deployment=None, share="", used_bytes=22563 * MIB, state="foreign", pod=Key("other", "s")
    )


def test_slices_are_bars_without_an_index() -> None:
    result = world(mig_node("n", slices={"1g.5gb": 1, "3g.20gb": 2}), replicas=1)
    assert shown(result) == [
        ("nvidia.com/mig-1g.5gb", None, []),
        ("nvidia.com/mig-3g.20gb", None, ["llm/qwen-0 planned"]),
        ("nvidia.com/mig-3g.20gb", None, []),
    ]
    assert {bar.index_basis for bar in result.bars} == {None}


def test_states_of_blocks() -> None:
    node = whole_node("n", gpus=4)
    made = creates(world(node, replicas=4))
    starting, ready = a_pod(made[0]), a_pod(made[1], ready=True)
    leaving = replace(a_pod(made[2], ready=True), deleting=True)
    ended = replace(a_pod(made[3]), ended="NotReadyInTime")
    states = [bar.blocks[0].state for bar in world(node, replicas=4, pods=(starting, ready, leaving, ended)).bars]
    assert states == ["starting", "ready", "ending", "ending"]
    scaled = world(node, replicas=0, pods=(ready,))
    assert scaled.bars[0].blocks[0].state == "ending"


def test_shares_are_dealt_to_gpus_in_turn() -> None:
    taken = tuple(a_stranger(f"s{n}", "n") for n in range(5))
    result = world(mps_node("n", gpus=2), replicas=0, pods=taken)
    assert [len(bar.blocks) for bar in result.bars] == [3, 2]


def test_more_pods_than_units_get_bars_of_their_own() -> None:
    taken = tuple(a_stranger(f"s{n}", "n") for n in range(3))
    assert [len(bar.blocks) for bar in world(whole_node("n", gpus=1), replicas=0, pods=taken).bars] == [1, 1, 1]


def test_a_node_that_offers_nothing_says_why_and_still_shows_its_pods() -> None:
    pods = (a_stranger("s", "n", count=2),)
    (held, note) = world(a_node("n", product=f"{L4}-SHARED"), replicas=0, pods=pods).bars
    assert (held.resource, [block.label for block in held.blocks], held.note) == (
        "nvidia.com/gpu",
        ["other/s", "other/s"],
        "in use, but not offered",
    )
    assert not held.is_slice
    assert (note.resource, note.blocks, note.product) == ("", (), L4)
    assert note.note.startswith("TimeSliced: node n: ")
    (create,) = creates(world(whole_node("n"), replicas=1))
    (held, _) = world(whole_node("n", gpus=0), replicas=1, pods=(a_pod(create, ready=True),)).bars
    qwen = Block(label="llm/qwen-0", deployment=QWEN, share="Exclusive", used_bytes=0, state="ready")
    assert held.blocks == (replace(qwen, pod=Key("llm", "qwen-0")),)


def test_a_slice_that_is_offered_no_more_is_still_a_slice() -> None:
    pod = a_stranger("s", "n", resource="nvidia.com/mig-1g.5gb")
    bars = world(whole_node("n"), replicas=0, pods=(pod,)).bars
    assert [(bar.profile, bar.is_slice) for bar in bars] == [("", False), ("1g.5gb", True)]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), BarState.FREE),
        (("ready",), BarState.USED),
        (("foreign", "starting"), BarState.USED),
        (("foreign",), BarState.HELD),
        (("ending", "planned", "waiting", "idle"), BarState.HELD),
    ],
)
def test_a_bar_is_used_where_a_replica_runs_or_starts(states: tuple[str, ...], expected: BarState) -> None:
    (bar,) = world(whole_node("n"), replicas=0).bars
    owners = [None if state == "foreign" else QWEN for state in states]
    blocks = tuple(
        Block(label="b", deployment=owner, share="", used_bytes=1, state=state)
        for owner, state in zip(owners, states, strict=True)
    )
    assert bar_state(replace(bar, blocks=blocks)) is expected


def test_a_strangers_pod_that_is_ready_is_no_replica_of_ours() -> None:
    (bar,) = world(whole_node("n"), replicas=0).bars
    block = Block(label="b", deployment=None, share="", used_bytes=1, state="ready")
    assert bar_state(replace(bar, blocks=(block,))) is BarState.HELD


def test_every_pod_and_every_planned_replica_appears_once() -> None:
    nodes = (whole_node("a", gpus=2), mps_node("b", gpus=2), mig_node("c"))
    first = world(*nodes, replicas=9)
    pods = (*(a_pod(create, ready=True) for create in creates(first)), a_stranger("s", "b"))
    result = world(*nodes, replicas=9, pods=pods)
    (entry,) = result.deployments
    labels = Counter(block.label for bar in result.bars for block in bar.blocks)
    expected = Counter(str(pod.key) for pod in pods)
    expected.update(f"llm/{create.name}" for create in entry.creates)
    expected["llm/qwen-*"] = len(entry.waiting)
    assert labels == expected


def test_a_block_has_the_namespace_of_its_pod_there_or_planned() -> None:
    bars = world(whole_node("n", gpus=2), replicas=1, pods=(a_stranger("s", "n"),)).bars
    assert [(bar.blocks[0].pod, bar.blocks[0].namespace) for bar in bars] == [
        (Key("other", "s"), "other"),
        (None, "llm"),
    ]
    claim = Block(label="another's ResourceClaim", deployment=None, share="", used_bytes=1, state="foreign")
    assert claim.namespace == ""
