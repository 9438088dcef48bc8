"""What the replicas carry as they lie on their GPUs, and where the next ones would go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.capacity import Carried, Mix, Stack, carried, latency_at, power_at, rounded
from slmpack.domain.gpu import DenseTflops
from slmpack.domain.inventory import read_nodes
from slmpack.domain.packing import candidates_for
from slmpack.domain.performance import Unpredictable
from slmpack.domain.sharing import Mode
from slmpack.domain.sizing import Need, size_replica
from slmpack.domain.snapshot import NodeView
from slmpack.domain.stacks import Layout, read_layout
from slmpack.domain.workload import Bounds, Workload
from tests.support.builders import (
    H100,
    PACKS,
    POLICY,
    a_stranger,
    mig_node,
    mps_node,
    whole_node,
)
from tests.support.scaling import Scaled, scaled

CHAT, FREE = Mix(512, 256), Bounds()


def layout_of(world: Scaled) -> Layout:
    nodes = read_nodes(world.nodes, world.policy.gpus)
    need = size_replica(world.demand, world.policy, ())
    assert isinstance(need, Need)
    room = candidates_for(world.demand, need, nodes, world.policy)
    return read_layout(
        world.demand,
        room,
        ours=world.pods,
        snapshot=world.snapshot,
        nodes=nodes,
        policy=world.policy,
        key=world.view.key,
    )


def a_stack(node: NodeView, mode: Mode, **demand: object) -> Stack:
    stack = layout_of(scaled(node, mode=mode, **demand)).gpus[0].stack  # type: ignore[arg-type]
    assert stack is not None
    return stack


WHOLE = a_stack(whole_node("n", product=H100), Mode.EXCLUSIVE)
SHARED = a_stack(mps_node("n"), Mode.MPS)
SLICE = a_stack(mig_node("n", product=H100, slices={"1g.10gb": 7}), Mode.MIG)


def one(stack: Stack, replicas: int = 1, *, mix: Mix = CHAT, bounds: Bounds = FREE, tail: float = 0.01) -> Carried:
    found = carried(replace(stack, replicas=replicas), mix, bounds, POLICY.choice, tail)
    assert isinstance(found, Carried)
    return found


def test_engines_that_share_a_gpu_carry_less_each_and_mig_instances_the_same() -> None:
    assert one(SHARED, 4).requests_s < 0.9 * one(SHARED, 1).requests_s
    assert one(SLICE, 7).requests_s == one(SLICE, 1).requests_s


def test_others_on_the_gpu_slow_ours() -> None:
    neighbour = WHOLE.engine.tenant(
        Workload(), in_flight=64.0, sequences=128, kv_cache_tokens=100_000, prefix_hit_rate=0.0
    )
    assert one(replace(SHARED, others=(neighbour,) * 3)).requests_s < 0.95 * one(SHARED).requests_s
    assert one(replace(SLICE, others=(neighbour,))).requests_s == one(SLICE).requests_s


def test_the_capacity_is_that_of_the_knee_and_of_chance() -> None:
    """The rate is less than the throughput at the knee: the number of requests there varies."""
    found = one(WHOLE)
    assert found.batch < found.most
    assert one(WHOLE, tail=0.1).requests_s > found.requests_s
    assert one(WHOLE, mix=Mix(1024, 256)).requests_s < found.requests_s
    assert one(WHOLE, mix=Mix(512, 512)).requests_s < found.requests_s


def test_a_bound_lowers_it_and_a_bound_on_the_first_token_allows_a_queue() -> None:
    tight = one(WHOLE, bounds=Bounds(itl_s=0.008))
    assert tight.most < one(WHOLE, bounds=Bounds(itl_s=0.012)).most
    assert tight.itl_s <= 0.008
    small = replace(WHOLE, max_num_seqs=8)
    assert one(small, bounds=Bounds(ttft_s=2.0)).most > 8 == one(small, bounds=Bounds(itl_s=1.0)).most


def test_a_bound_that_nothing_keeps_leaves_one_at_a_time() -> None:
    assert one(WHOLE, bounds=Bounds(itl_s=1e-6)).most == 1
    assert one(replace(WHOLE, kv_cache_tokens=16)).most == 1


def test_a_model_without_a_cache_is_not_limited_by_it() -> None:
    none = replace(WHOLE.engine.model, cache=())
    endless = replace(WHOLE, engine=replace(WHOLE.engine, model=none), kv_cache_tokens=0)
    assert none.kv_elements_per_token == 0
    assert one(endless).most > 1


def test_what_the_catalogue_lacks_is_not_guessed() -> None:
    bare = replace(WHOLE.site.gpu, dense_tflops=DenseTflops())
    unknown = replace(WHOLE, site=replace(WHOLE.site, gpu=bare))
    assert isinstance(carried(unknown, CHAT, Bounds(), POLICY.choice, 0.01), Unpredictable)
    assert latency_at(unknown, CHAT, 8.0) is None
    assert power_at(unknown, CHAT, 1.0) is None


def test_power_rises_with_the_rate_up_to_what_the_replica_answers() -> None:
    little, much = power_at(WHOLE, CHAT, 0.1), power_at(WHOLE, CHAT, 20.0)
    assert little is not None
    assert much is not None
    assert little.expected < much.expected
    assert power_at(WHOLE, CHAT, 1e6) == power_at(WHOLE, CHAT, 1e9)


@pytest.mark.parametrize(("value", "step", "near"), [(1.0, 1.05, 1.0), (100.0, 1.05, 99.0), (0.5, 1.1, 0.513)])
def test_rounded_to_powers_of_a_step(value: float, step: float, near: float) -> None:
    assert rounded(value, step) == pytest.approx(near, rel=0.01)


def spread(layout: Layout) -> list[tuple[str, int]]:
    return [(gpu.node, gpu.ours) for gpu in layout.used]


def test_the_next_replicas_go_where_the_planner_puts_them() -> None:
    """GPU by GPU, as many as pay; then nothing is free."""
    empty = layout_of(scaled(mps_node("a"), mps_node("b")))
    assert spread(empty.with_replicas(3)) == [("a", 2), ("b", 1)]
    full = empty.with_replicas(6)
    assert (full.placed, full.missing, full.replicas, full.held) == (4, 2, 6, 4)
    assert full.withheld
    assert full.with_replicas(3) == empty.with_replicas(4).with_replicas(3)


def test_the_fewest_on_a_gpu_end_first() -> None:
    three = layout_of(scaled(mps_node("a"), mps_node("b"))).with_replicas(3)
    assert spread(three.with_replicas(2)) == [("a", 2)]


def test_others_shares_are_taken() -> None:
    strangers = tuple(a_stranger(f"s{n}", "a") for n in range(3))
    world = replace(scaled(mps_node("a"), mps_node("b")), strangers=strangers)
    layout = layout_of(world)
    assert [(gpu.node, gpu.others, gpu.more, gpu.in_use) for gpu in layout.gpus] == [
        ("a", 3, 1, True),
        ("b", 0, 2, False),
    ]
    assert spread(layout.with_replicas(2)) == [("a", 1), ("b", 1)]
    assert not layout.full
    assert layout.with_replicas(1).full


def test_more_than_pay_count_where_they_run() -> None:
    world = scaled(mps_node("a"), max_per_gpu=4).running(4)
    now = replace(world, view=replace(world.view, demand=replace(world.demand, max_per_gpu=None)))
    layout = layout_of(now)
    assert sum(gpu.ours for gpu in layout.gpus) == 4
    assert layout.ready.placed == 4


def test_idle_engines_of_a_pack_come_first() -> None:
    world = scaled(whole_node("a", product=H100), whole_node("b", product=H100), mode=Mode.MPS_PACK, policy=PACKS)
    opened = world.running(1)
    assert len(opened.pods) == 1
    record = opened.pods[0].record
    assert record is not None
    assert record.pack is not None
    layout = layout_of(opened)
    assert [(gpu.node, gpu.ours, gpu.ready, gpu.seats) for gpu in layout.used] == [("a", 1, 1, True)]
    engines = record.pack.engines
    assert engines > 1
    assert layout.with_replicas(engines).held == 1
    assert layout.with_replicas(engines + 1).held == 2
    fewer = replace(world.demand, max_per_gpu=1)
    assert layout_of(replace(opened, view=replace(opened.view, demand=fewer))).with_replicas(2).held == 2


def test_a_whole_gpu_each_and_mig_slices() -> None:
    whole = layout_of(scaled(whole_node("a", gpus=2), mode=Mode.EXCLUSIVE).running(1))
    assert (whole.placed, whole.with_replicas(2).held) == (1, 2)
    slices = layout_of(scaled(mig_node("a", product=H100, slices={"1g.10gb": 7}), mode=Mode.MIG))
    assert slices.with_replicas(7).held == 1


def test_where_no_further_one_may_go_replicas_still_count() -> None:
    world = scaled(mps_node("a"), mps_node("b")).running(4)
    cordoned = replace(world, nodes=(world.nodes[0], replace(world.nodes[1], unschedulable=True)))
    layout = layout_of(cordoned)
    assert (layout.placed, layout.ready.placed) == (4, 4)
    assert all(gpu.stack is not None for gpu in layout.used)
    gone = replace(world, nodes=world.nodes[:1])
    assert [gpu.stack is None for gpu in layout_of(gone).used].count(True) == 2
