"""Nodes and bars: what is used, free and withheld, what fails, what is measured and predicted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.pack import EngineState
from slmpack.domain.prediction import GpuPrediction
from slmpack.domain.quantity import MIB
from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.sharing import Mode
from tests.support.builders import (
    H100,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_node,
    a_pod,
    a_snapshot,
    a_stranger,
    creates,
    heard,
    mig_node,
    mps_node,
    plan,
    whole_node,
)
from tests.unit.page.worlds import a_reading, a_world, bar_of, mixed, node_of, sheet_of, with_pods

H100_BYTES = 81082 * MIB
LIMIT = (81082 - 1024) // 4 * MIB


def test_what_is_used_free_and_withheld_adds_up_on_every_bar() -> None:
    for node in sheet_of(mixed()).nodes:
        for bar in node.bars:
            assert bar.used_bytes + bar.free_bytes + bar.withheld_bytes == bar.usable_bytes, (node.name, bar.unit)


def test_shares_are_free_one_by_one_and_the_servers_part_is_withheld() -> None:
    bar = bar_of(sheet_of(a_world(mps_node("n"), mode=Mode.MPS, max_per_gpu=2)), "n")
    assert (bar.free_bytes, bar.free) == (2 * LIMIT, "2 shares of 19.5 GiB")
    assert bar.withheld_bytes == H100_BYTES - 4 * LIMIT
    assert bar.withheld == "for the MPS server, and what is no whole share"
    assert bar_of(sheet_of(a_world(mps_node("n"), replicas=3, mode=Mode.MPS, max_per_gpu=3)), "n").free.startswith(
        "1 share of"
    )


def test_a_full_node_has_nothing_free() -> None:
    bar = bar_of(sheet_of(a_world(mps_node("n", replicas=2), mode=Mode.MPS, max_per_gpu=2)), "n")
    assert (bar.free_bytes, bar.free) == (0, "")


def test_a_cordoned_node_withholds_what_would_be_free() -> None:
    node = replace(whole_node("n"), unschedulable=True, ready=False)
    found = node_of(sheet_of(a_world(node)), "n")
    assert found.flags == ("cordoned", "not Ready")
    assert found.bars[0].free_bytes == 0
    assert found.bars[0].withheld_bytes == found.bars[0].usable_bytes
    assert found.bars[0].withheld == "the node is cordoned and not Ready"


def test_empty_bars_that_are_alike_are_one() -> None:
    snapshot = a_world(whole_node("n", gpus=8), mig_node("m", slices={"1g.5gb": 7}), replicas=1, mode=Mode.EXCLUSIVE)
    sheet = sheet_of(snapshot)
    assert [(bar.index, bar.count) for bar in node_of(sheet, "n").bars] == [(0, 1), (1, 7)]
    assert [(bar.unit, bar.index, bar.count) for bar in node_of(sheet, "m").bars] == [("1g.5gb", None, 7)]
    node = node_of(sheet, "n")
    assert (node.units, node.units_used, node.units_held) == (8, 0, 1), "planned, not there yet"


def test_a_gpu_is_in_use_where_ours_runs_and_held_where_anything_else_is() -> None:
    running = with_pods(a_world(whole_node("n", gpus=3), replicas=1, mode=Mode.EXCLUSIVE))
    sheet = sheet_of(replace(running, pods=(*running.pods, a_stranger("s", "n"))))
    assert (node_of(sheet, "n").units, node_of(sheet, "n").units_used, node_of(sheet, "n").units_held) == (3, 1, 1)
    assert next(fact for fact in sheet.totals if fact.name == "GPUs and slices in use").note == "1 held"


def test_two_empty_bars_stay_two() -> None:
    assert [bar.count for bar in node_of(sheet_of(a_world(whole_node("n", gpus=2), replicas=0)), "n").bars] == [1, 1]


def test_a_node_that_offers_nothing_says_why() -> None:
    found = node_of(sheet_of(a_world(a_node("n", product="NVIDIA-None"))), "n")
    assert found.bars == ()
    assert found.notes == ("UnknownGpu: node n: the GPU product 'NVIDIA-None' is not in the catalogue",)


def test_what_is_in_use_but_not_offered_has_no_size() -> None:
    gone = a_stranger("s", "n", resource="nvidia.com/mig-9g.9gb")
    bar = bar_of(sheet_of(a_world(whole_node("n"), replicas=0, pods=(gone,))), "n", 1)
    assert (bar.usable_bytes, bar.free, bar.withheld_bytes) == (0, "", 0)
    assert bar.blocks[0].full == "other/s"


def test_names_lose_a_namespace_that_all_have() -> None:
    assert bar_of(sheet_of(a_world(mps_node("n"), mode=Mode.MPS)), "n").blocks[0].name == "qwen-0"
    snapshot = a_world(mps_node("n"), mode=Mode.MPS, pods=(a_stranger("s", "n"),))
    assert {block.name for block in bar_of(sheet_of(snapshot), "n").blocks} >= {"llm/qwen-0", "other/s"}


def test_anothers_claim_keeps_its_name_beside_one_namespace() -> None:
    world = a_world(whole_node("n", gpus=2), replicas=1, mode=Mode.EXCLUSIVE)
    taken = replace(world.nodes[0], used_by_others={"nvidia.com/gpu": 1})
    names = [bar.blocks[0].name for bar in node_of(sheet_of(replace(world, nodes=(taken,))), "n").bars]
    assert names == ["another's ResourceClaim", "qwen-0"]


def test_the_engines_memory_lies_within_its_limit() -> None:
    (block, *_) = bar_of(sheet_of(a_world(mps_node("n"), mode=Mode.MPS)), "n").blocks
    assert [amount.kind for amount in block.amounts] == ["weights", "other", "kv", "spare"]
    assert 0.9 * block.limit_bytes < sum(amount.size for amount in block.amounts) <= block.limit_bytes


def test_strangers_and_engines_that_do_not_run_have_no_estimate() -> None:
    snapshot = a_world(whole_node("n"), replicas=0, pods=(a_stranger("s", "n"),))
    (block,) = bar_of(sheet_of(snapshot), "n").blocks
    assert (block.amounts, block.colour, block.state) == ((), None, "foreign")


def _pack(**changes: object) -> object:
    view = a_deployment("qwen", a_demand(replicas=2, mode=Mode.MPS_PACK))
    world = a_snapshot(deployments=(view,), nodes=(whole_node("n", product=H100),))
    (create,) = creates(plan(world, PACKS))
    return replace(world, pods=(heard(a_pod(create, ready=True), **changes),))  # type: ignore[arg-type]


def test_a_pack_keeps_room_for_its_server() -> None:
    world = a_world(whole_node("n", product=H100), mode=Mode.MPS_PACK)
    bar = bar_of(sheet_of(world, PACKS), "n")
    assert (bar.withheld_bytes, bar.withheld) == (1024 * MIB, "for the MPS server")
    assert [block.name for block in bar.blocks] == ["qwen-0 engine 0", "qwen-0 engine 1"]


def test_an_engine_that_fails_is_said_to() -> None:
    found = node_of(sheet_of(_pack(states={1: EngineState.FAILED}), PACKS), "n")  # type: ignore[arg-type]
    assert [block.state for block in found.bars[0].blocks] == ["ready", "failing"]
    assert found.bars[0].blocks[1].words == "EngineFailed: no message"
    assert found.troubled


def test_an_engine_that_does_not_run_is_idle_and_takes_no_power() -> None:
    view = a_deployment("qwen", a_demand(replicas=1, mode=Mode.MPS_PACK, max_per_gpu=2))
    world = with_pods(a_snapshot(deployments=(view,), nodes=(whole_node("n", product=H100),)), PACKS)
    world = replace(world, pods=tuple(map(heard, world.pods)))
    node = node_of(sheet_of(world, PACKS), "n")
    assert [(block.state, bool(block.amounts)) for block in node.bars[0].blocks] == [("ready", True), ("idle", False)]
    assert node.replicas == 1
    assert node.power_w is not None


def test_a_starting_pod_is_only_starting() -> None:
    snapshot = a_world(whole_node("n"), replicas=1, mode=Mode.EXCLUSIVE)
    (create,) = creates(plan(snapshot))
    found = node_of(sheet_of(replace(snapshot, pods=(a_pod(create),))), "n")
    assert [(b.state, b.words) for b in found.bars[0].blocks] == [("starting", "starting")]
    assert not found.troubled


def test_a_pod_that_cannot_pull_its_image_fails() -> None:
    snapshot = a_world(whole_node("n"), replicas=1, mode=Mode.EXCLUSIVE)
    (create,) = creates(plan(snapshot))
    pod = replace(a_pod(create), reason="ImagePullBackOff", message="no such image")
    (block,) = bar_of(sheet_of(replace(snapshot, pods=(pod,))), "n").blocks
    assert (block.state, block.words.partition(":")[0]) == ("failing", "ImagePullBackOff")


def test_the_full_gpus_watts_are_those_of_the_decision() -> None:
    snapshot = a_world(mps_node("n"), replicas=3, mode=Mode.MPS)
    sheet, made = sheet_of(snapshot), plan(snapshot)
    choice = made.deployments[0].fits[0].fit.choice
    prediction: GpuPrediction = choice.prediction  # type: ignore[union-attr]
    assert choice.replicas_per_gpu == len(bar_of(sheet, "n").blocks)  # type: ignore[union-attr]
    assert bar_of(sheet, "n").power_w == prediction.power_w
    assert node_of(sheet, "n").power_w == prediction.power_w


def test_fewer_replicas_draw_less_and_an_empty_gpu_its_idle() -> None:
    pods = tuple(a_stranger(name, "o") for name in "st")
    world = a_world(mps_node("n", gpus=3), whole_node("o", gpus=2), replicas=4, mode=Mode.MPS, pods=pods)
    sheet = sheet_of(world)
    watts = [bar.power_w for bar in node_of(sheet, "n").bars]
    assert watts[0] is not None
    assert watts[1] is not None
    assert watts[2] is not None
    assert [len(bar.blocks) for bar in node_of(sheet, "n").bars] == [2, 1, 1]
    assert watts[0].expected > watts[1].expected == watts[2].expected
    idle = bar_of(sheet_of(a_world(mps_node("n"), replicas=0)), "n").power_w
    assert idle is not None
    assert watts[1].expected > idle.expected > 0
    assert (node_of(sheet, "n").power_of, node_of(sheet, "o").power_of) == (3, 0)


def test_two_deployments_on_one_gpu_are_predicted_together() -> None:
    views = tuple(a_deployment(name, a_demand(replicas=1, mode=Mode.MPS)) for name in ("one", "two"))
    world = a_snapshot(deployments=views, nodes=(mps_node("n"),))
    world = with_pods(with_pods(world))
    bar = bar_of(sheet_of(world), "n")
    assert len({block.colour for block in bar.blocks}) == 2
    alone = bar_of(sheet_of(a_world(mps_node("n"), replicas=1, mode=Mode.MPS)), "n").power_w
    assert bar.power_w is not None
    assert alone is not None
    assert bar.power_w.expected > alone.expected


@pytest.mark.parametrize(
    ("node", "pods"),
    [
        (mig_node("n"), ()),
        (whole_node("n"), (a_stranger("s", "n"),)),
        (whole_node("n", product="NVIDIA-A100-PCIE-40GB"), ()),
        (mig_node("n", slices={"1g.5gb": 1}), ()),
    ],
    ids=["slices", "strangers", "never captured", "one slice"],
)
def test_where_nobody_can_tell_no_watts_are_predicted(node: object, pods: object) -> None:
    found = node_of(sheet_of(a_world(node, replicas=0, pods=pods)), "n")  # type: ignore[arg-type]
    assert (found.power_w, found.power_of) == (None, 0)


def test_single_strategy_slices_share_the_boards_power() -> None:
    labels = {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.count": "7"}
    node = a_node("n", product="NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", resources={"nvidia.com/gpu": 7}, labels=labels)
    found = node_of(sheet_of(a_world(node, replicas=1, mode=Mode.MIG)), "n")
    assert all(bar.power_w is None for bar in found.bars)


def test_readings_that_are_fresh_are_shown_on_their_node() -> None:
    stale = replace(a_reading("n"), at=a_reading().at - timedelta(hours=1))
    world = replace(a_world(mps_node("n")), gpus=(a_reading("n", fb_used_bytes=5), stale))
    (gpu,) = node_of(sheet_of(world), "n").gpus
    assert (gpu.power_w, gpu.fb_used_bytes) == (300.0, 5)


def test_the_lowest_ceiling_of_what_is_placed_there_counts() -> None:
    def view(name: str, watts: float | None) -> object:
        scaling = ScalingSpec(least=1, most=1, max_watts_per_gpu=watts)
        return a_deployment(name, replace(a_demand(mode=Mode.MPS), scaling=scaling))

    views = (view("a", 400.0), view("b", 300.0), view("c", None))
    world = a_snapshot(deployments=views, nodes=(mps_node("n"), whole_node("o")))  # type: ignore[arg-type]
    sheet = sheet_of(world)
    assert node_of(sheet, "n").ceiling_w == 300.0
    assert node_of(sheet, "o").ceiling_w is None


def test_what_labels_cannot_say_is_a_note() -> None:
    node = mig_node("n", slices={"1g.5gb": 14})
    node = replace(node, labels={**node.labels, "nvidia.com/gpu.count": "2"})
    found = node_of(sheet_of(a_world(node, replicas=0)), "n")
    assert any("labels do not say which of them holds what" in note for note in found.notes)
    assert POLICY.gpus.by_product(found.product) is not None
