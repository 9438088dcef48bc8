"""How an engine batches: chunks, places, the KV pool and preemption, as vLLM's scheduler does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slmpack.simulate.cluster import EngineSpec
from tests.unit.simulate.worlds import PLAIN, cluster, requests


def _played(engine: EngineSpec, *rows: tuple[float, int, int], longest: int = 512, until: float = 30.0) -> tuple:  # type: ignore[type-arg]
    world = cluster(requests(*rows), longest=longest)
    world.add(tenant=0, gpu=0, engine=engine, ready_at=0.0)
    world.advance(until)
    return world.outcome(), world.scrape()


def test_a_prompt_longer_than_the_budget_takes_several_iterations() -> None:
    outcome, _ = _played(replace(PLAIN, max_num_batched_tokens=100), (0.0, 250, 1))
    assert outcome.ttft_s == pytest.approx([0.020 + 0.020 + 0.015])


def test_decoding_sequences_come_first_and_the_prompt_takes_the_rest_of_the_budget() -> None:
    """B's 100 tokens do not fit beside A's one: 99 in one iteration, 1 in the next."""
    outcome, _ = _played(replace(PLAIN, max_num_batched_tokens=100), (0.0, 100, 4), (0.001, 100, 1))
    first = 0.020
    second = first + 0.010 + 0.001 + 100 * 0.0001
    third = second + 0.010 + 0.001 + 0.005
    assert outcome.ttft_s == pytest.approx([first, third - 0.001])


def test_prompts_come_first_and_alone_without_chunks() -> None:
    outcome, _ = _played(replace(PLAIN, chunked=False), (0.0, 100, 3), (0.021, 200, 2))
    second = 0.020 + 0.016
    third = second + 0.030  # 200 tokens, nobody decodes
    assert outcome.ttft_s == pytest.approx([0.020, third - 0.021])
    fourth = third + 0.017
    assert outcome.tpot_s == pytest.approx([(fourth - 0.020) / 2, 0.017])


def test_without_chunks_prompts_share_an_iteration_within_the_budget_and_a_longer_one_goes_alone() -> None:
    engine = replace(PLAIN, chunked=False, max_num_batched_tokens=150)
    outcome, _ = _played(engine, (0.0, 10, 1), (0.001, 60, 1), (0.001, 60, 1), (0.001, 60, 1), (0.001, 300, 1))
    first = 0.015
    both = first + 0.022
    assert outcome.ttft_s + np.array([0.0, 0.001, 0.001, 0.001, 0.001]) == pytest.approx(
        [first, both, both, both + 0.016, both + 0.016 + 0.040]
    )


def test_no_more_sequences_than_places() -> None:
    outcome, _ = _played(replace(PLAIN, max_num_seqs=1), (0.0, 100, 2), (0.0, 100, 2))
    assert outcome.ttft_s == pytest.approx([0.020, 0.036 + 0.020])


def test_a_prompt_waits_until_the_pool_holds_all_of_it() -> None:
    """32 blocks of 16: two prompts of 250 tokens fill them, a third waits until one is done."""
    engine = replace(PLAIN, kv_tokens=512)
    outcome, scrape = _played(engine, (0.0, 250, 3), (0.0, 250, 3), (0.0, 250, 1))
    assert scrape.preemptions.sum() == 0
    assert outcome.ttft_s == pytest.approx([0.060, 0.060, 0.060 + 2 * 0.017 + 0.035])


def test_the_youngest_is_preempted_and_all_its_tokens_are_computed_again() -> None:
    """32 blocks: two prompts of 255 tokens. Each takes 16 blocks, and a 17th at its second decode."""
    engine = replace(PLAIN, kv_tokens=512)
    outcome, scrape = _played(engine, (0.0, 255, 4), (0.0, 255, 4))
    assert list(outcome.preemptions) == [0, 1]
    assert list(scrape.preemptions) == [1]
    begin = 0.010 + 510 * 0.0001
    second = begin + 0.017
    third = second + 0.016  # B is out: A needs the 17th block
    fourth = third + 0.016
    again = fourth + 0.010 + 257 * 0.0001  # its prompt and two tokens, which makes the third
    assert outcome.tpot_s == pytest.approx([(fourth - begin) / 3, (again + 0.016 - begin) / 3])
    gap = again - second
    place = int(np.searchsorted(outcome.itl_bounds, gap))
    assert outcome.itl_counts[0, place] == 1  # what the client saw
    assert outcome.itl_counts.sum() == 6
    assert scrape.itl.sums == pytest.approx([3 * outcome.tpot_s.sum()])


def test_the_pool_is_never_overfull_and_everybody_ends() -> None:
    rows = [(0.001 * n, 20 + 13 * n % 200, 40 + 7 * n % 100) for n in range(60)]
    world = cluster(requests(*rows), longest=512)
    world.add(tenant=0, gpu=0, engine=replace(PLAIN, kv_tokens=512, max_num_seqs=16), ready_at=0.0)
    fullest = 0.0
    for tick in range(1, 4000):
        world.advance(tick * 0.01)
        fullest = max(fullest, float(world.scrape().kv_usage[0]))
    assert 0.9 < fullest <= 1.0
    assert world.outcome().finished.all()
    assert world.outcome().preemptions.sum() > 3
    assert world.scrape().kv_usage[0] == 0.0


def test_context_and_prompt_length_cost_what_the_spec_says() -> None:
    engine = replace(PLAIN, cache_s=1e-5, prompt_s=1e-6, state_s=0.002)
    outcome, _ = _played(engine, (0.0, 100, 3))
    prompt = 0.010 + 0.010 + 1e-6 * 100 * 101 / 2
    assert outcome.ttft_s == pytest.approx([prompt])
    assert outcome.tpot_s == pytest.approx([0.016 + 0.002 + 1e-5 * (100 + 101) / 2])


def test_truth_slows_prompts_and_experts_are_read_as_tokens_touch_them() -> None:
    engine = replace(PLAIN, prefill=1.2, weights_s=0.001, experts_s=0.016, expert_missed=0.5)
    outcome, _ = _played(engine, (0.0, 200, 2))
    assert outcome.ttft_s == pytest.approx([0.010 + 1.2 * 0.020])
    assert outcome.tpot_s == pytest.approx([0.011 + 0.001 + 0.016 * 0.5])
