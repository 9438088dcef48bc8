"""The ceiling on a GPU's watts, and measurements that correct what the model says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.capacity import Mix
from slmpack.domain.goodput import Correction, Goodput
from slmpack.domain.interval import Interval
from slmpack.domain.inventory import read_nodes
from slmpack.domain.load import GpuReading
from slmpack.domain.packing import candidates_for
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import ScaleDecision, ScalingSpec
from slmpack.domain.sharing import Mode
from slmpack.domain.sizing import Need, size_replica
from slmpack.domain.stacks import Layout, read_layout
from slmpack.domain.watts import Watts
from slmpack.domain.workload import Bounds
from tests.support.builders import H100, NOW, POLICY, a_stranger, whole_node
from tests.support.scaling import Scaled, a_load, scaled


def ceiling(watts: float | None) -> Scaled:
    return scaled(spec=ScalingSpec(least=1, most=16, max_watts_per_gpu=watts))


def reading(node: str, watts: float | None, *, age: float = 0.0) -> GpuReading:
    return GpuReading(node=node, uuid=f"GPU-{node}", at=NOW - timedelta(seconds=age), power_w=watts)


RATE = 45.0
"""Two replicas carry it, one does not."""


def power(decision: ScaleDecision) -> Interval:
    assert decision.power_w is not None
    return decision.power_w


def test_without_a_ceiling_watts_are_told_and_refuse_nothing() -> None:
    decision = ceiling(None).running(1).under(RATE).decide()
    assert decision.desired == 2
    assert 100 < power(decision).low < power(decision).expected < power(decision).high <= 700


def test_a_replica_that_would_break_the_ceiling_is_refused() -> None:
    """By the upper end of the prediction at the load that is to be carried."""
    two = power(ceiling(None).running(1).under(RATE).decide()).high
    assert ceiling(two + 1).running(1).under(RATE).decide().desired == 2
    decision = ceiling(two - 1).running(1).under(RATE).decide()
    assert (decision.desired, decision.reason, decision.refused) == (1, Reason.POWER_CEILING, Reason.POWER_CEILING)
    assert f"to {two:.0f} W at this load" in decision.message
    assert f"maxWattsPerGPU, {two - 1:g}" in decision.message
    assert decision.wished == 2


def test_measured_watts_leave_only_the_change_to_the_prediction() -> None:
    two = power(ceiling(None).running(1).under(RATE).decide()).high
    world = ceiling(two - 1).running(1).under(RATE)
    cool = replace(world, gpus=(reading("n0", 200.0), reading("n0", 180.0), reading("elsewhere", 600.0)))
    assert cool.decide().desired == 2
    assert power(cool.decide()).high < two - 1


def test_over_the_ceiling_by_measurement_nothing_is_added_and_nothing_ends() -> None:
    world = replace(ceiling(690.0).running(1).under(RATE), gpus=(reading("n0", 695.0),))
    decision = world.decide()
    assert (decision.desired, decision.reason) == (1, Reason.POWER_CEILING)
    assert "695 W are measured now" in decision.message
    assert replace(world, gpus=(reading("n0", 695.0, age=120.0),)).decide().desired == 2, "an old reading says nothing"
    assert replace(world, gpus=(reading("n0", None),)).decide().desired == 2
    calm = replace(ceiling(300.0).running(2).under(RATE), gpus=(reading("n0", 695.0),)).decide()
    assert (calm.desired, calm.reason) == (2, Reason.STEADY)


def test_as_many_as_the_ceiling_allows() -> None:
    """The first GPU is as it is; those on the next one are fewer than the load asks for."""
    free = ceiling(None).running(2).under(3.0 * RATE)
    heat = {n: power(ceiling(None).running(n).under(3.0 * RATE).decide()).high for n in (2, 6)}
    assert free.decide().desired == 6
    assert heat[2] > 0
    low = ceiling(450.0).running(2).under(3.0 * RATE).decide()
    assert low.refused is Reason.POWER_CEILING
    assert 2 <= low.desired < 6
    assert "maxWattsPerGPU, 450" in low.message


def test_strangers_on_a_gpu_of_ours_are_told() -> None:
    world = ceiling(None).running(1).under(RATE)
    ours = str(world.pods[0].key)

    def strangers(*readings: GpuReading) -> list[float]:
        return [it.value for it in replace(world, gpus=readings).decide().figures if it.name == "strangers"]

    assert strangers(replace(reading("n0", 300.0), pods=(ours, "lab/notebook"))) == [1.0]
    assert strangers(replace(reading("n0", 300.0), pods=(ours,))) == []
    assert strangers(replace(reading("n1", 300.0), pods=("lab/notebook",))) == [], "not where ours are"
    assert strangers(replace(reading("n0", 300.0, age=120.0), pods=("lab/notebook",))) == [], "long ago"


def test_the_ceiling_limits_nobody_who_needs_no_more() -> None:
    """A second replica would only fill the open GPU: that it may not is no news, and no alarm."""
    filled = ceiling(None).running(1).under(20.0).decide()
    assert (filled.wished, filled.desired) == (1, 2)
    decision = ceiling(power(filled).low).running(1).under(20.0).decide()
    assert (decision.desired, decision.reason, decision.refused) == (1, Reason.STEADY, None)


def test_what_nobody_can_predict_is_not_refused_for_its_watts() -> None:
    world = ceiling(1.0).running(1).under(RATE)
    gone = replace(world, nodes=world.nodes[1:])
    assert gone.decide().reason is Reason.HELD


@pytest.mark.parametrize(
    ("itl_ms", "factor", "wanted"), [(4.0, 0.95, 2), (9.2, 1.0, 2), (14.0, 1.25, 4), (50.0, 2.0, 4)]
)
def test_a_latency_that_is_measured_corrects_the_capacity(itl_ms: float, factor: float, wanted: int) -> None:
    """48 requests/s: two replicas carry 55 by the model, fewer if they are seen to be slower; half of that at least."""
    decision = ceiling(None).running(2).under(48.0, itl_s=itl_ms / 1000, generation_tok_s=48.0 * 256).decide()
    assert decision.desired == wanted
    found = {it.name: it.value for it in decision.figures}
    assert found["correction"] == pytest.approx(factor, rel=0.05)


def test_a_latency_says_nothing_without_a_batch() -> None:
    world = ceiling(None).running(2)
    for changes in (
        {"itl_s": 0.01, "generation_tok_s": 1.0},
        {"itl_s": None, "generation_tok_s": 1000.0},
        {"itl_s": 0.01, "generation_tok_s": None},
    ):
        decision = world.under(30.0, **changes).decide()
        assert "correction" not in {it.name for it in decision.figures}


def test_beside_others_what_is_measured_counts_as_theirs() -> None:
    """The first replica from zero, on a GPU that draws as much as its neighbour needs."""
    spec = ScalingSpec(least=0, most=4, max_watts_per_gpu=600.0)
    asleep = replace(scaled(spec=spec), strangers=(a_stranger("s", "n0"),)).with_state(0)
    knock = replace(asleep, load=a_load(0.0, reporting=0, gateway_waiting=300.0))
    assert knock.decide().desired == 1
    warm = replace(knock, gpus=(reading("n0", 150.0),)).decide()
    assert (warm.desired, warm.reason) == (1, Reason.WOKEN)
    hot = replace(knock, gpus=(reading("n0", 500.0),)).decide()
    assert (hot.desired, hot.reason) == (0, Reason.POWER_CEILING)
    unseen = replace(knock.demand, gpu_products=frozenset({"NVIDIA-A30"}))
    assert replace(knock, view=replace(knock.view, demand=unseen)).decide().desired == 1, "nothing to judge by"


@pytest.mark.parametrize(("product", "idle_w"), [("NVIDIA-A40", 81.0), (H100, 126.0)])
def test_what_a_loaded_gpu_draws_idle_is_captured_or_a_part_of_its_tdp(product: str, idle_w: float) -> None:
    """A GPU with 500 W of others' draws that and what ours is predicted to draw beyond idling."""
    world = scaled(whole_node("n", product=product), mode=Mode.EXCLUSIVE).running(1)
    alone = power(world.under(1.0).decide())
    nodes = read_nodes(world.nodes, POLICY.gpus)
    need = size_replica(world.demand, POLICY, ())
    assert isinstance(need, Need)
    room = candidates_for(world.demand, need, nodes, POLICY)
    after = read_layout(
        world.demand,
        room,
        ours=world.pods,
        snapshot=world.snapshot,
        nodes=nodes,
        policy=POLICY,
        key=world.view.key,
    )
    after = Layout(tuple(replace(gpu, others=1) for gpu in after.gpus))
    before = Layout(tuple(replace(gpu, ours=0, others=1) for gpu in after.gpus))
    goodput = Goodput(
        mix=Mix(521, 258), bounds=Bounds(), correction=Correction(), choice=POLICY.choice, policy=POLICY.scale
    )
    watts = Watts(before=before, goodput=goodput, measured={"n": 500.0}, now_s=0.0)
    heat = watts.hottest(after, 1.0, added=True)
    assert heat is not None
    assert heat.measured_w == 500.0
    tdp = next(gpu.stack.site.gpu.tdp_w for gpu in after.gpus if gpu.stack is not None)
    more = alone.expected - idle_w
    assert heat.power_w.expected == pytest.approx(min(max(tdp, 500), 500 + more), abs=10.0)
    assert heat.power_w.high == pytest.approx(min(max(tdp, 500), 500 + more * alone.high / alone.expected), abs=15.0)
    nobody = Layout(tuple(replace(gpu, stack=None) for gpu in after.gpus))
    assert replace(watts, before=nobody).hottest(nobody, 1.0, added=False) is None
