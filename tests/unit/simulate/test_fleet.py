"""GPUs, their units, and which one the device plugin gives."""

from __future__ import annotations

import pytest

from slmpack.domain.inventory import read_nodes
from slmpack.domain.snapshot import NodeView
from slmpack.simulate.cluster import Cluster
from slmpack.simulate.fleet import Fleet
from slmpack.simulate.starts import PRESETS, Starts
from slmpack.simulate.truth import AS_MODELLED
from tests.support.builders import POLICY, a_node, mig_node, mps_node, whole_node
from tests.unit.simulate.worlds import BOARD, PLAIN, requests

NONE = 0


def a_fleet(*nodes: NodeView, rows: tuple[tuple[float, int, int], ...] = ((50.0, 10, 10),)) -> Fleet:
    read = read_nodes(nodes, POLICY.gpus)
    cluster = Cluster(requests(*rows), boards=[BOARD] * len(Fleet.gpus_of(read)), longest=[2048], seed=1)
    return Fleet(read, cluster=cluster, starts=Starts(PRESETS["cold"], seed=1, truth=AS_MODELLED))


def test_gpus_are_numbered_node_by_node() -> None:
    fleet = a_fleet(whole_node("b", gpus=2), mps_node("a", gpus=2, replicas=3))
    assert fleet.node_of == ["a", "a", "b", "b"]
    shares, whole = fleet.spots["a", "nvidia.com/gpu"], fleet.spots["b", "nvidia.com/gpu"]
    assert (shares.gpus, shares.units) == ((0, 1), (3, 3))
    assert (whole.gpus, whole.units) == ((2, 3), (1, 1))


def test_mig_profiles_are_cut_from_the_same_gpus() -> None:
    fleet = a_fleet(mig_node("m", slices={"1g.5gb": 3, "3g.20gb": 1}))
    small, large = (fleet.spots["m", f"nvidia.com/mig-{name}"] for name in ("1g.5gb", "3g.20gb"))
    assert (small.gpus, small.units) == ((0,), (3,))
    assert (large.gpus, large.units) == ((0,), (1,))


def test_the_gpu_with_the_fewest_units_in_use_is_given() -> None:
    fleet = a_fleet(mps_node("a", gpus=2, replicas=2))
    spot, given = fleet.spots["a", "nvidia.com/gpu"], []
    for _ in range(4):
        gpu = fleet.choose(spot)
        assert gpu is not None
        given.append(gpu)
        fleet.take(spot, gpu, cpu=NONE, memory=NONE)
    assert given == [0, 1, 0, 1]
    assert fleet.choose(spot) is None
    fleet.give(spot, 1, cpu=NONE, memory=NONE)
    assert fleet.choose(spot) == 1


def test_cores_host_memory_and_pods_run_out_too() -> None:
    fleet = a_fleet(a_node("a", cpu=3000, memory=100))
    spot = fleet.spots["a", "nvidia.com/gpu"]
    assert fleet.has_room("a", cpu=3000, memory=100)
    fleet.take(spot, 0, cpu=2000, memory=10)
    assert not fleet.has_room("a", cpu=1001, memory=0)
    assert not fleet.has_room("a", cpu=0, memory=91)
    assert fleet.has_room("a", cpu=1000, memory=90)
    fleet.give(spot, 0, cpu=2000, memory=10)
    assert fleet.has_room("a", cpu=3000, memory=100)


def test_a_start_takes_its_time_once_the_trace_plays() -> None:
    fleet = a_fleet(whole_node("a", gpus=2))
    spot = fleet.spots["a", "nvidia.com/gpu"]
    first = fleet.start(tenant=0, spot=spot, gpu=0, engine=PLAIN)
    fleet.playing = True
    fleet.cluster.advance(10.0)
    second = fleet.start(tenant=0, spot=spot, gpu=1, engine=PLAIN)
    assert (first.ready_at, fleet.next_ready()) == (0.0, second.ready_at)
    assert 30.0 < second.ready_at < 120.0
    assert [(change.at, change.up) for change in fleet.changes] == [(10.0, True)]
    later = fleet.start(tenant=0, spot=spot, gpu=1, engine=PLAIN, not_before=500.0)
    assert later.ready_at > 500.0


def test_a_replica_that_ends_is_swept_when_its_requests_are_done() -> None:
    fleet = a_fleet(whole_node("a"), rows=((1.0, 10, 100),))
    one = fleet.start(tenant=0, spot=fleet.spots["a", "nvidia.com/gpu"], gpu=0, engine=PLAIN)
    fleet.playing = True
    fleet.cluster.advance(1.1)
    fleet.stop(one.replica)
    fleet.stop(one.replica)
    assert fleet.ending
    assert fleet.sweep() == []
    fleet.cluster.advance(30.0)
    assert fleet.sweep() == [one]
    assert not fleet.ending
    assert [(change.at, change.up) for change in fleet.changes] == [(pytest.approx(1.1), False)]
