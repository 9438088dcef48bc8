"""Iteration times beside neighbours, and that jumping over iterations changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmpack.domain.contention import shared_alike, shared_apart
from slmpack.simulate import kernel
from slmpack.simulate.cluster import Cluster, EngineSpec, Outcome
from slmpack.simulate.state import queue_table
from tests.unit.simulate.worlds import PLAIN, RICH, cluster, noise, requests

SHARED = replace(PLAIN, shared=True, kv_tokens=200_000)


def _alone(engine: EngineSpec) -> tuple[float, float]:
    """Seconds at the device and away from it of an iteration that decodes one sequence."""
    small = engine.busy_s + engine.sequence_busy_s
    busy = engine.weights_s + small
    return busy, engine.host_s + engine.sequence_s - small


def _tpot(*engines: EngineSpec) -> list[float]:
    """Each with one endless request; seconds a token."""
    trace = requests(*((0.0, 1, 100_000) for _ in engines), tenants=range(len(engines)))
    world = cluster(trace, longest=150_000)
    for tenant, engine in enumerate(engines):
        world.add(tenant=tenant, gpu=0, engine=engine, ready_at=0.0)
    world.advance(10.0)
    before = world.scrape()
    world.advance(110.0)
    after = world.scrape()
    spent, made = after.itl.sums - before.itl.sums, after.generation_tokens - before.generation_tokens
    return [float(value) for value in spent / made]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equal_engines_slow_each_other_as_the_closed_network_says(count: int) -> None:
    engine = replace(SHARED, busy_s=0.006, sequence_busy_s=0.0005)
    busy, think = _alone(engine)
    expected = shared_alike(count, busy=busy, think=think, capped=0.0)
    assert _tpot(*[engine] * count) == pytest.approx([expected] * count, rel=0.01)  # less is not noticed


def test_two_unequal_engines_are_exact() -> None:
    first, second = replace(SHARED, busy_s=0.006), replace(SHARED, weights_s=0.020)
    expected = shared_apart([(*_alone(first), 0.0), (*_alone(second), 0.0)])
    assert _tpot(first, second) == pytest.approx(expected, rel=1e-4)


def test_several_unequal_engines_are_close() -> None:
    engines = [replace(SHARED, busy_s=0.002 * n, weights_s=0.004 * n) for n in range(1, 5)]
    expected = shared_apart([(*_alone(engine), 0.0) for engine in engines])
    assert _tpot(*engines) == pytest.approx(expected, rel=0.1)


def test_truth_scales_the_wait_for_neighbours() -> None:
    engine = replace(SHARED, busy_s=0.006, contention=1.25)
    busy, think = _alone(engine)
    assert _tpot(engine, engine) == pytest.approx([think + busy * (1.0 + 1.25 * busy / (busy + think))] * 2, rel=1e-4)


def test_a_ceiling_is_a_floor_under_the_time_at_the_device() -> None:
    engine = replace(SHARED, cap_memory=3.0)
    assert _tpot(engine) == pytest.approx([0.011 + 0.015])
    both = _tpot(engine, engine)
    assert both == pytest.approx([0.011 + 0.015] * 2)  # 5 ms, waited for or not, is less than 15


def test_mig_instances_do_not_slow_each_other() -> None:
    alone = replace(SHARED, shared=False, busy_s=0.006)
    assert _tpot(alone, alone, alone) == pytest.approx([0.016] * 3)


def test_a_neighbour_counts_only_while_it_works() -> None:
    """B works for 1 s in the middle of A's 1,000 tokens."""
    world = cluster(requests((0.0, 1, 1001), (2.0, 1, 51), tenants=(0, 1)))
    for tenant in (0, 1):
        world.add(tenant=tenant, gpu=0, engine=replace(SHARED, busy_s=0.003), ready_at=0.0)
    world.advance(100.0)
    slow = 0.016 + 0.008 * 0.5  # half of an iteration alone is at the device
    counts = world.outcome().itl_counts[0]
    place = int(np.searchsorted(world.outcome().itl_bounds, slow * 0.999))
    assert counts[place : place + 2].sum() == pytest.approx(51, abs=3)
    assert counts.sum() == 1000


def test_the_table_is_the_closed_network() -> None:
    table = queue_table()
    for count in (1, 4, 48):
        for load in (0.0, 0.25, 0.75, 1.0):
            expected = shared_alike(count + 1, busy=load, think=1.0 - load, capped=0.0)
            assert (1.0 + table[count, round(load * 256)]) * load + 1.0 - load == pytest.approx(expected)


def _world(*, tick: float = 1.0, seed: int = 3) -> Cluster:
    world = cluster(noise(300, seed=seed, tenants=2), gpus=2, longest=520)
    rich = replace(RICH, kv_tokens=1024)
    engines = (replace(rich, shared=True), replace(rich, shared=True, busy_s=0.004), rich, replace(rich, chunked=False))
    for place, engine in enumerate(engines):
        world.add(tenant=place % 2, gpu=place // 2, engine=engine, ready_at=0.2 * place)
    for step in range(1, round(120.0 / tick) + 1):
        world.advance(step * tick)
    return world


def _same(one: Outcome, other: Outcome, *, rel: float) -> None:
    assert one.finished.all()
    assert one.preemptions.sum() > 0
    for name in ("finished", "rejected", "replica", "output_tokens", "preemptions"):
        assert (getattr(one, name) == getattr(other, name)).all()
    for name in ("ttft_s", "tpot_s", "gpu_s", "replica_s"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rel, atol=1e-9)
    np.testing.assert_allclose(one.joules, other.joules, rtol=1e-3)
    assert np.abs(one.itl_counts - other.itl_counts).sum() <= 0.001 * one.itl_counts.sum()


def test_jumps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jumped = _world().outcome()
    advance = kernel.advance
    monkeypatch.setattr(kernel, "advance", lambda world, until, _: advance(world, until, False))
    _same(jumped, _world().outcome(), rel=1e-9)


def test_how_often_one_looks_changes_nothing() -> None:
    _same(_world(tick=120.0).outcome(), _world(tick=0.25).outcome(), rel=1e-9)


def test_a_stretch_is_counted_where_each_of_its_tokens_belongs() -> None:
    """The context grows by one token an iteration, so latency passes through many bins."""
    engine = replace(PLAIN, cache_s=1e-5, kv_tokens=200_000)
    world = cluster(requests((0.0, 10, 3001)), longest=150_000)
    world.add(tenant=0, gpu=0, engine=engine, ready_at=0.0)
    world.advance(1000.0)
    outcome = world.outcome()
    latencies = 0.016 + 1e-5 * (10 + np.arange(3000))
    places = np.searchsorted(outcome.itl_bounds, latencies)
    expected = np.bincount(places, minlength=outcome.itl_counts.shape[1])
    assert np.abs(outcome.itl_counts[0] - expected).max() <= 1
    assert world.scrape().itl.sums == pytest.approx([latencies.sum()])


def _report() -> str:
    """Everything that comes of a small world, to the last digit."""
    world = _world()
    outcome, scrape = world.outcome(), world.scrape()
    parts = (outcome.ttft_s, outcome.tpot_s, outcome.joules, outcome.itl_counts, outcome.gpu_s, scrape.itl.sums)
    return json.dumps([[float(value).hex() for value in part.ravel()] for part in parts])


@pytest.mark.timeout(600)
def test_compiled_and_plain_python_give_the_same_to_the_last_digit() -> None:
    program = "from tests.unit.simulate.test_pacing import _report; print(_report())"
    root = Path(__file__).parents[3]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'operator'}"}
    plain = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    assert plain.stdout.strip() == _report()


def test_a_heavy_hour_does_not_take_long() -> None:
    """A guard against a slip by orders of magnitude: 20,000 requests, 1.2 million tokens."""
    _world()  # compiled now
    world = cluster(noise(20_000, seed=5, span=3600.0), gpus=4)
    for gpu in range(4):
        for _ in range(2):
            world.add(tenant=0, gpu=gpu, engine=replace(RICH, shared=True), ready_at=0.0)
    begin = time.process_time()
    for tick in range(1, 241):
        world.advance(tick * 15.0)
        world.scrape()
    assert world.outcome().finished.mean() > 0.99
    assert time.process_time() - begin < 60.0
