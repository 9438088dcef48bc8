"""Replicas that wait for a node to come count as capacity, and a cluster without nodes can be woken."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Pacing, ScaleState, ScalingSpec
from slmpack.domain.sharing import Mode, WhenFull
from slmpack.domain.snapshot import NodePins, PodPhase
from tests.support.builders import L4, whole_node
from tests.support.scaling import Scaled, a_load, scaled


def with_one_that_waits(world: Scaled) -> Scaled:
    """The same with a further replica, for which no node is there."""
    pod = world.pods[0]
    assert pod.record is not None
    waits = replace(
        pod,
        key=replace(pod.key, name="qwen-99"),
        uid="waits",
        node=None,
        ready=False,
        was_ready=False,
        ready_since=None,
        phase=PodPhase.PENDING,
        record=replace(pod.record, node="", pins=NodePins(labels=(("nvidia.com/gpu.product", L4),)), ordinal=99),
    )
    return replace(world, pods=(*world.pods, waits)).with_state(len(world.pods) + 1)


def full_node(rate: float) -> Scaled:
    world = scaled(whole_node("n1"), mode=Mode.EXCLUSIVE).running(1)
    demand = replace(world.demand, when_full=WhenFull.PENDING)
    return replace(world, view=replace(world.view, demand=demand)).under(rate)


def test_a_replica_that_waits_for_a_node_is_capacity_already() -> None:
    alone = full_node(1.0)
    rate = next(rate for rate in range(1, 500) if full_node(float(rate)).decide().wished == 2)
    assert alone.decide().desired == 1
    waiting = with_one_that_waits(full_node(float(rate)))
    decision = waiting.decide()
    assert decision.reason is not Reason.HELD, decision.message
    assert (decision.current, decision.desired) == (2, 2), decision.message


def test_one_that_waits_does_not_keep_load_that_fell_from_ending_it() -> None:
    spec = ScalingSpec(least=1, most=8, down=Pacing(stabilisation=timedelta(0)))
    world = with_one_that_waits(full_node(0.01))
    demand = replace(world.demand, scaling=spec)
    decision = replace(world, view=replace(world.view, demand=demand)).decide()
    assert (decision.reason, decision.desired) == (Reason.LOAD_FELL, 1), decision.message


@pytest.mark.parametrize("when_full", list(WhenFull))
def test_a_cluster_whose_nodes_have_gone_can_be_woken(when_full: WhenFull) -> None:
    world = scaled(whole_node("n1"), mode=Mode.EXCLUSIVE, least=0)
    demand = replace(world.demand, when_full=when_full)
    view = replace(world.view, demand=demand, scale=ScaleState(desired=0))
    gone = replace(world, nodes=(), view=view)
    assert replace(gone, load=a_load(0.0, reporting=0)).decide().desired == 0
    knocked = replace(gone, load=a_load(0.0, reporting=0, gateway_waiting=1.0)).decide()
    assert (knocked.desired, knocked.reason) == (1, Reason.WOKEN)
