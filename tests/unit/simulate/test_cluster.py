"""The cluster on cases small enough to add up by hand, and what must hold in any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slmpack.simulate.cluster import Cluster
from tests.unit.simulate.worlds import BOARD, PLAIN, RICH, cluster, noise, requests


def test_two_requests_by_hand() -> None:
    """A: 20 ms of prompt, then decode; B comes within an iteration and rides on the next one."""
    world = cluster(requests((0.0, 100, 3), (0.030, 50, 2)))
    world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=0.0)
    world.advance(1.0)
    outcome = world.outcome()
    third = 0.020 + 0.016 + 0.010 + 0.001 + 51 * 0.0001
    assert outcome.ttft_s == pytest.approx([0.020, third - 0.030])
    assert outcome.tpot_s == pytest.approx([(third - 0.020) / 2, 0.016])
    assert outcome.finished.all()
    assert list(outcome.output_tokens) == [3, 2]
    assert outcome.itl_counts.sum() == 3


def test_the_scrape_shows_what_is_under_way() -> None:
    world = cluster(requests((0.0, 100, 11), (0.001, 100, 11), (0.002, 100, 11)))
    world.add(tenant=0, gpu=0, engine=replace(PLAIN, max_num_seqs=2), ready_at=0.0)
    world.advance(0.030)
    scrape = world.scrape()
    assert (list(scrape.running), list(scrape.waiting)) == ([2], [1])
    assert list(scrape.generation_tokens) == [1]
    assert list(scrape.prompt_tokens) == [100]
    assert scrape.kv_usage == pytest.approx([2 * 7 / 256])
    assert list(scrape.completions) == [0]
    assert scrape.ttft.counts[0, 3] == 1  # 20 ms is within the bucket up to 0.02
    world.advance(5.0)
    scrape = world.scrape()
    assert list(scrape.completions) == [3]
    assert list(scrape.generation_tokens) == [33]
    assert list(scrape.running + scrape.waiting) == [0]
    assert scrape.kv_usage == pytest.approx([0.0])
    assert scrape.itl.counts.sum() == 30
    assert scrape.queue.counts.sum() == 3
    assert scrape.tpot.counts.sum() == 3
    assert scrape.tpot.sums == pytest.approx([world.outcome().tpot_s.sum()])
    third = world.outcome().ttft_s[2]
    assert scrape.ttft.sums == pytest.approx([0.020 + world.outcome().ttft_s[1] + third])
    assert scrape.queue.sums[0] > 0.1


def test_counters_are_those_of_the_moment_within_a_long_decode() -> None:
    world = cluster(requests((0.0, 100, 500)))
    world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=0.0)
    world.advance(0.020 + 10 * 0.016 + 0.008)
    assert list(world.scrape().generation_tokens) == [11]
    assert list(world.outcome().output_tokens) == [11]


def test_requests_wait_at_the_gateway_for_the_first_replica() -> None:
    world = cluster(requests((0.0, 100, 1), (1.0, 100, 1)))
    world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=5.0)
    world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=4.0)
    world.advance(3.0)
    scrape = world.scrape()
    assert list(scrape.gateway_waiting) == [2]
    assert not scrape.ready.any()
    assert not scrape.ending.any()
    world.advance(10.0)
    assert list(world.outcome().replica) == [1, 1]
    assert world.outcome().ttft_s == pytest.approx([4.030, 3.030])
    assert list(world.scrape().gateway_waiting) == [0]
    assert world.scrape().ttft.sums == pytest.approx([0.0, 0.060])  # vLLM does not see the gateway


def test_a_tenant_without_replicas_waits_and_others_do_not() -> None:
    world = cluster(requests((0.0, 10, 1), (0.5, 10, 1), tenants=(0, 1)))
    world.add(tenant=1, gpu=0, engine=PLAIN, ready_at=0.0)
    world.advance(2.0)
    assert list(world.outcome().finished) == [False, True]
    assert list(world.scrape().gateway_waiting) == [1, 0]


def test_a_removed_replica_takes_nothing_new_and_ends_when_it_is_done() -> None:
    world = cluster(requests((0.0, 100, 101), (1.0, 100, 1), (3.0, 100, 1)), gpus=2)
    first = world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=0.0)
    world.advance(0.5)
    second = world.add(tenant=0, gpu=1, engine=PLAIN, ready_at=0.6)
    world.remove(first)
    world.remove(first)  # twice does no harm
    assert not world.ended(first)
    assert list(world.scrape().ending) == [True, False]
    world.advance(2.0)
    assert world.ended(first)
    assert list(world.scrape().replica) == [second]
    world.remove(second)
    assert world.ended(second)
    world.advance(4.0)
    outcome = world.outcome()
    assert list(outcome.finished) == [True, True, False]
    assert list(outcome.replica) == [0, 1, -1]
    done = 0.020 + 100 * 0.016
    assert outcome.replica_s == pytest.approx([done, 1.5])
    assert outcome.gpu_s == pytest.approx([done, 1.5])
    assert list(world.scrape().gateway_waiting) == [1]


def test_a_replica_removed_while_it_starts_is_never_in_the_service() -> None:
    world = cluster(requests((3.0, 10, 1)))
    replica = world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=2.0)
    world.advance(1.0)
    world.remove(replica)
    assert world.ended(replica)
    world.advance(9.0)
    assert not world.outcome().finished.any()
    assert world.outcome().gpu_s == pytest.approx([1.0])


def test_prompts_that_reach_the_limit_are_rejected_and_outputs_are_cut_there() -> None:
    world = cluster(requests((0.0, 64, 5), (0.1, 65, 5), (0.2, 60, 5), (0.3, 63, 9)), longest=64)
    world.add(tenant=0, gpu=0, engine=replace(PLAIN, kv_tokens=64), ready_at=0.0)
    world.advance(5.0)
    outcome = world.outcome()
    assert list(outcome.rejected) == [True, True, False, False]
    assert list(outcome.output_tokens) == [0, 0, 4, 1]
    assert list(outcome.finished) == [False, False, True, True]
    assert np.isnan(outcome.ttft_s[:2]).all()
    assert np.isnan(outcome.tpot_s[:2]).all()
    assert outcome.tpot_s[3] == 0.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kv_tokens": 2047}, "kv_tokens 2047: the pool must hold one request of 2048 tokens"),
        ({"max_num_seqs": 0}, "max_num_seqs 0"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens 0"),
    ],
)
def test_an_engine_that_could_never_work_is_refused(change: dict[str, int], says: str) -> None:
    world = cluster(requests((0.0, 1, 1)))
    with pytest.raises(ValueError, match=says):
        world.add(tenant=0, gpu=0, engine=replace(PLAIN, **change), ready_at=0.0)  # type: ignore[arg-type]


def test_more_replicas_than_a_gpu_can_hold_are_refused() -> None:
    world = cluster(requests((0.0, 1, 1)))
    for _ in range(64):
        world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=0.0)
    with pytest.raises(ValueError, match="gpu 0: it holds 64 replicas"):
        world.add(tenant=0, gpu=0, engine=PLAIN, ready_at=0.0)


def test_a_limit_for_each_tenant_is_needed() -> None:
    with pytest.raises(ValueError, match="longest has 1 numbers; the trace has 2 tenants"):
        Cluster(requests((0.0, 1, 1), (1.0, 1, 1), tenants=(0, 1)), boards=[BOARD], longest=[5], seed=1)


def test_the_service_picks_at_random_and_the_same_for_the_same_seed() -> None:
    trace = requests(*((0.01 * n, 1, 1) for n in range(3000)))
    picked = []
    for seed in (1, 1, 2):
        world = cluster(trace, gpus=3, seed=seed)
        for gpu in range(3):
            world.add(tenant=0, gpu=gpu, engine=PLAIN, ready_at=0.0)
        world.advance(60.0)
        picked.append(list(world.outcome().replica))
    assert picked[0] == picked[1] != picked[2]
    for replica in range(3):
        assert picked[0].count(replica) == pytest.approx(1000, abs=100)


def test_an_empty_board_draws_its_idle_watts_and_is_not_in_use() -> None:
    world = cluster(requests((0.0, 1, 1)), gpus=2)
    world.advance(10.0)
    replica = world.add(tenant=0, gpu=1, engine=PLAIN, ready_at=1e9)
    world.advance(30.0)
    world.remove(replica)
    world.advance(40.0)
    assert world.outcome().joules == pytest.approx([40 * 50.0, 20 * 50.0 + 20 * 100.0])
    assert world.outcome().gpu_s == pytest.approx([0.0, 20.0])
    assert list(world.scrape().watts) == [50.0, 50.0]


def test_watts_of_a_busy_board_by_hand() -> None:
    """One sequence decodes all the time: it moves the weights and its cache each iteration."""
    world = cluster(requests((0.0, 100, 100_000)), longest=200_000)
    engine = replace(PLAIN, kv_tokens=200_000, weights_part=0.004, token_part=0.0008)
    world.add(tenant=0, gpu=0, engine=engine, ready_at=0.0)
    world.advance(50.0)
    world.advance(100.0)
    assert world.scrape().watts == pytest.approx([150.0 + 400.0 * 0.004 / 0.016 + 300.0 * 0.0008 / 0.016])
    assert world.scrape().active == pytest.approx([100.0])


def test_watts_are_bounded_by_the_board() -> None:
    world = cluster(requests((0.0, 100, 100_000)), longest=200_000)
    engine = replace(PLAIN, kv_tokens=200_000, weights_part=1.0, token_part=0.1)
    world.add(tenant=0, gpu=0, engine=engine, ready_at=0.0)
    world.advance(100.0)
    assert world.scrape().watts == pytest.approx([700.0])


@pytest.mark.parametrize("seed", range(6))
def test_every_request_is_somewhere_whatever_comes_and_goes(seed: int) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    trace = noise(400, seed=seed, tenants=3)
    world = cluster(trace, gpus=3, longest=420, seed=seed)
    live: list[int] = []
    spent = np.zeros(3)
    for second in range(1, 90):
        if random.random() < 0.3 or second < 4:
            engine = replace(RICH, kv_tokens=1024, max_num_seqs=int(random.integers(1, 9)), shared=bool(second % 2))
            wait = float(random.uniform(0.0, 6.0))
            where = int(random.integers(3))
            live.append(world.add(tenant=int(random.integers(3)), gpu=where, engine=engine, ready_at=world.now + wait))
        if live and random.random() < 0.2:
            world.remove(live.pop(int(random.integers(len(live)))))
        world.advance(float(second))
        scrape, outcome = world.scrape(), world.outcome()
        arrived = int((trace.arrival_s <= world.now).sum())
        inside = int((scrape.running + scrape.waiting).sum() + scrape.gateway_waiting.sum())
        assert int(outcome.finished.sum()) + int(outcome.rejected[:arrived].sum()) + inside == arrived
        assert (outcome.gpu_s >= spent).all()
        assert ((scrape.kv_usage >= 0) & (scrape.kv_usage <= 1)).all()
        assert (outcome.output_tokens <= trace.output_tokens).all()
        spent = outcome.gpu_s
    made = outcome.output_tokens
    assert outcome.itl_counts.sum() == np.maximum(0, made - 1).sum()
    assert (outcome.ttft_s[made > 0] > 0).all()
    assert (made[outcome.finished] == np.minimum(trace.output_tokens, 420 - trace.input_tokens)[outcome.finished]).all()
    assert scrape.gpu.shape == scrape.replica.shape
