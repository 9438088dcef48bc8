"""The oracle's plan and the fluid bound, on traces small enough to plan by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from slmpack.simulate.costs import EngineSpec
from slmpack.simulate.oracle import Oracle, OracleRule, Work, fluid_gpu_hours, replicas_needed, work_of
from slmpack.simulate.policies.base import Bounds
from slmpack.simulate.trace import Trace
from tests.unit.simulate.policies.looks import ask, look

BOUNDS = Bounds(least=0, most=9)


def _work(arrivals: Sequence[float], seconds: Sequence[float], gain: tuple[float, ...] = (1.0,)) -> Work:
    return Work(
        tenant=0,
        arrival_s=np.array(arrivals),
        seconds=np.array(seconds),
        gain=gain,
        fluid=np.array(seconds) / 2,
    )


def _spec(*, shared: bool = False, cap: float = 1.0) -> EngineSpec:
    """10 ms of host and 10 ms of weights a step, 1 ms for a prompt token; 8 sequences at the most."""
    return EngineSpec(
        max_num_seqs=8,
        max_num_batched_tokens=2048,
        kv_tokens=100_000,
        chunked=True,
        shared=shared,
        slices=1,
        host_s=0.010,
        sequence_s=0.0,
        busy_s=0.0,
        sequence_busy_s=0.0,
        weights_s=0.010,
        token_s=0.001,
        cache_s=0.0,
        prompt_s=0.0,
        cap_memory=cap,
        cap_compute=cap,
    )


def _trace(*requests: tuple[float, int, int]) -> Trace:
    columns = np.array(requests)
    return Trace(
        arrival_s=columns[:, 0].astype(np.float64),
        input_tokens=columns[:, 1].astype(np.int64),
        output_tokens=columns[:, 2].astype(np.int64),
        tenant=np.zeros(len(requests), dtype=np.int64),
        tenants=("",),
    )


def test_what_arrives_in_a_window_is_done_in_it() -> None:
    work = _work([4.2, 4.7, 9.0], [1.0, 1.0, 0.5])
    needed = replicas_needed(work, rule=OracleRule(load=1.0, window_s=1.0), bounds=BOUNDS, until_s=11.0)

    assert needed.tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0]


def test_a_longer_window_spreads_a_burst_over_every_second_that_it_covers() -> None:
    work = _work([4.0], [3.0])
    needed = replicas_needed(work, rule=OracleRule(load=1.0, window_s=2.0), bounds=BOUNDS, until_s=8.0)

    # Windows of two seconds that hold second 4 begin at 3 and 4: 3 s of work in 2 s need 2 replicas from 3 to 5.
    assert needed.tolist() == [0, 0, 0, 2, 2, 2, 0, 0, 0]


def test_headroom_asks_for_more_and_bounds_hold() -> None:
    work = _work([0.5], [1.0])
    half = replicas_needed(work, rule=OracleRule(load=0.5, window_s=1.0), bounds=BOUNDS, until_s=2.0)
    tenth = replicas_needed(work, rule=OracleRule(load=0.1, window_s=1.0), bounds=Bounds(least=1, most=5), until_s=2.0)

    assert half.tolist() == [2, 0, 0]
    assert tenth.tolist() == [5, 1, 1]


def test_replicas_that_share_a_gpu_count_for_what_they_gain() -> None:
    # 1, 1.5 and then a second GPU: 2.5, 3.
    work = _work([0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 1.4, 1.6, 2.6, 3.1], gain=(1.0, 1.5))
    needed = replicas_needed(work, rule=OracleRule(load=1.0, window_s=1.0), bounds=BOUNDS, until_s=4.0)

    assert needed.tolist() == [1, 2, 3, 4, 5]


def test_it_starts_just_early_enough_and_knows_how_long_each_start_takes() -> None:
    needed = np.array([0] * 50 + [2] * 5 + [0] * 20)
    starts = iter((20.0, 30.0, 10.0))
    oracle = Oracle((needed,), next_start_s=lambda: next(starts))
    said = [ask(oracle, look(float(now))) for now in range(75)]

    # The first start takes 20 s: it begins at second 29, a second to spare. The next takes 30 s: it is late and begins
    # at once. Neither is taken back while the third would take 10 s only.
    assert said == [0] * 29 + [2] * 26 + [0] * 20


def test_a_short_gap_is_not_worth_a_new_start() -> None:
    needed = np.array([1] * 5 + [0] * 10 + [1] * 5 + [0] * 30 + [1] * 5)
    oracle = Oracle((needed,), next_start_s=lambda: 15.0)
    said = [ask(oracle, look(float(now))) for now in range(55)]

    assert set(said[:20]) == {1}
    assert said[20:34] == [0] * 14
    assert set(said[34:]) == {1}


def test_work_of_a_request_is_its_prompt_and_its_part_of_full_steps() -> None:
    work = work_of(_trace((0.0, 100, 40)), 0, spec=_spec(), tpot_s=1.0, per_gpu=7)

    # 100 ms of prompt; 40 tokens in steps of 20 ms that make up to 8 (the search stops within 5 % below).
    assert work.seconds[0] == pytest.approx(0.1 + 40 * 0.020 / 8, rel=0.03)
    assert work.gain == (1, 2, 3, 4, 5, 6, 7)
    assert work.fluid[0] == pytest.approx((0.1 + 40 * 0.020 / 8) / 7)


def test_a_tight_bound_keeps_the_batch_small() -> None:
    spec = _spec()
    tight = work_of(_trace((0.0, 100, 40)), 0, spec=spec, tpot_s=0.001, per_gpu=1)

    assert tight.seconds[0] == pytest.approx(0.1 + 40 * 0.020)  # one at a time


def test_under_mps_the_host_time_of_one_is_the_device_time_of_another() -> None:
    only_decoding = work_of(_trace((0.0, 1, 10_000)), 0, spec=_spec(shared=True), tpot_s=1.0, per_gpu=2)
    only_prompts = work_of(_trace((0.0, 10_000, 1)), 0, spec=_spec(shared=True), tpot_s=1.0, per_gpu=2)

    # Half at the device: two of them meet there half the time: 2 x 20 / (10 x 1.5 + 10).
    assert only_decoding.gain[1] == pytest.approx(1.6, rel=0.01)
    assert only_prompts.gain[1] == pytest.approx(1.0, rel=0.01)
    # The device alone is what no packing can go below.
    assert only_decoding.fluid[0] == pytest.approx(0.001 + 10_000 * 0.010 / 8)


def test_a_ceiling_makes_sharing_pay_for_prompts_too() -> None:
    prompts = work_of(_trace((0.0, 10_000, 1)), 0, spec=_spec(shared=True, cap=2.0), tpot_s=1.0, per_gpu=2)

    assert prompts.gain[1] == pytest.approx(2.0, rel=0.02)


def test_the_fluid_bound_counts_what_arrives_and_never_less_than_the_least() -> None:
    work = _work([10.0, 700.0, 5000.0], [100.0, 7200.0, 9999.0])

    assert fluid_gpu_hours([work], since_s=600.0, until_s=4200.0, least=0) == pytest.approx(1.0)
    assert fluid_gpu_hours([work], since_s=600.0, until_s=7800.0, least=1) == pytest.approx((3600.0 + 4999.5) / 3600)
    assert fluid_gpu_hours([work], since_s=600.0, until_s=4200.0, least=2) == pytest.approx(2.0)
