"""Whole simulations: our operator and a peer, on a small cluster."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from slmpack.domain.sharing import Mode, WhenFull
from slmpack.simulate.ground import CannotSimulateError, ground_for
from slmpack.simulate.policies.fixed import FixedRule
from slmpack.simulate.policies.hpa import HpaRule
from slmpack.simulate.run import Job, bounds_of, simulate
from slmpack.simulate.scenario import Scenario, Slo
from tests.support.builders import PACKS, POLICY, a_demand, a_deployment, whole_node
from tests.unit.simulate.grounds import a_ground, arrivals, play, scaled

OURS = Job(name="slmpack", seed=3)
PEER = Job(name="hpa", rule=HpaRule(target=8.0), seed=3)


def test_a_fixed_number_is_paid_for_all_the_time() -> None:
    trace = arrivals([2.0] * 10)
    figures = play(Job(name="fixed", rule=FixedRule(replicas=2), seed=3), trace, initial=2, warm_up_s=60.0).figures
    hours = (trace.span_s - 60.0) / 3600
    assert figures.slot_hours == pytest.approx(2 * hours, rel=1e-6)
    assert figures.gpu_hours == pytest.approx(2 * hours, rel=1e-6)  # Kubernetes spreads them
    assert (figures.scale_events, figures.cold_starts) == (0, 0)
    assert figures.slo_attainment > 0.99


def test_our_placement_keeps_a_peer_on_one_gpu() -> None:
    trace = arrivals([2.0] * 10)
    job = Job(name="fixed", rule=FixedRule(replicas=2), placement="slmpack", seed=3)
    figures = play(job, trace, initial=2, warm_up_s=60.0).figures
    assert figures.gpu_hours == pytest.approx((trace.span_s - 60.0) / 3600, rel=1e-6)
    assert figures.slot_hours == pytest.approx(2 * figures.gpu_hours, rel=1e-6)


def test_our_operator_follows_a_ramp_up_and_down() -> None:
    trace = arrivals([5.0] * 10 + [200.0] * 10 + [5.0] * 80)
    result = play(OURS, trace, warm_up_s=120.0)
    seen = {round(moment.at / 60): moment for moment in result.moments}
    assert (seen[9].replicas, seen[9].gpus) == (1, 1)
    assert seen[19].gpus > 1
    assert seen[98].gpus == 1
    assert seen[98].replicas < seen[19].replicas
    assert result.turns > 240


def test_a_peer_follows_a_ramp_too() -> None:
    trace = arrivals([5.0] * 10 + [100.0] * 10 + [5.0] * 20)
    result = play(PEER, trace, warm_up_s=120.0)
    counts = {round(moment.at / 60): moment.replicas for moment in result.moments}
    assert counts[9] == 1
    assert counts[19] > 1
    assert counts[39] < counts[19]


@pytest.mark.parametrize("job", [OURS, PEER], ids=lambda job: job.name)
def test_the_same_seed_gives_the_same_figures(job: Job) -> None:
    trace = arrivals([5.0] * 3 + [60.0] * 5)
    assert play(job, trace).figures == play(job, trace).figures


@pytest.mark.parametrize("job", [OURS, PEER], ids=lambda job: job.name)
def test_another_seed_is_another_world(job: Job) -> None:
    trace = arrivals([5.0] * 3 + [60.0] * 5)
    assert play(job, trace).figures != play(replace(job, seed=4), trace).figures


def test_faster_starts_help() -> None:
    trace = arrivals([5.0] * 5 + [120.0] * 3)
    cold, wake = (play(replace(PEER, start=start), trace, warm_up_s=60.0).figures for start in ("k8s", "wake"))
    assert wake.slo_attainment > cold.slo_attainment


def test_to_zero_and_back() -> None:
    """Quiet for long enough, then requests that wait at the gateway."""
    trace = arrivals([3.0] * 3 + [0.0] * 25 + [3.0] * 5)
    result = play(OURS, trace, scaled(least=0))
    counts = {round(moment.at / 60): moment.replicas for moment in result.moments}
    assert counts[2] == 1
    assert counts[26] == 0
    assert counts[32] >= 1


def test_packs_are_played_engine_by_engine() -> None:
    """Whole GPUs, an operator with a supervisor image: several replicas in one pod."""
    trace = arrivals([5.0] * 5 + [150.0] * 8)
    demand = replace(scaled(mode=Mode.MPS_PACK), max_per_gpu=3)
    nodes = tuple(whole_node(f"node-{n}", product="NVIDIA-H100-80GB-HBM3") for n in range(3))
    trace, ground = ground_for(trace, [a_deployment("qwen", demand)], nodes, PACKS)
    result = simulate(OURS, Scenario(name="", warm_up_s=0.0), trace=trace, ground=ground)
    most = max(result.moments, key=lambda moment: moment.replicas)
    assert most.replicas > most.gpus >= 1


def test_what_would_ask_for_a_node_waits() -> None:
    """No node autoscaler is played; three GPUs in four shares each, and more is wanted."""
    trace = arrivals([5.0] * 5 + [400.0] * 5)
    demand = replace(scaled(most=30), when_full=WhenFull.PENDING, max_per_gpu=4)
    assert max(moment.replicas for moment in play(OURS, trace, demand).moments) <= 12


def test_prompts_beyond_the_context_are_rejected_whatever_the_policy() -> None:
    trace = arrivals([3.0] * 5)
    trace.input_tokens[::10] = 5000
    wanted = len(trace.input_tokens[::10])
    assert {play(job, trace).figures.rejected for job in (OURS, PEER)} == {wanted}


def test_the_bound_of_a_long_prompt_is_three_times_what_it_takes_alone() -> None:
    trace = arrivals([3.0])
    trace.input_tokens[0], trace.input_tokens[1] = 4000, 100
    trace, ground = a_ground(trace)
    ttft, tpot = bounds_of(trace, ground, Scenario(name="", warm_up_s=0.0, slo=Slo(ttft_s=0.05)))
    assert ttft[0] > 3 * ttft[1] > 3 * 0.05 - 1e-9
    assert tpot.tolist() == [0.05]
    alone = bounds_of(trace, ground, Scenario(name="", warm_up_s=0.0, slo=Slo(ttft_s=1e-9, ttft_times=1.0)))[0]
    assert ttft[0] == pytest.approx(3 * alone[0])


def test_what_an_empty_engine_takes_is_what_the_simulated_one_takes() -> None:
    """One request at a time, in a world that is within a quarter of the model."""
    trace = arrivals([0.05] * 20)
    trace.input_tokens[:] = np.linspace(100, 3500, len(trace)).astype(np.int64)
    trace, ground = a_ground(trace)
    alone = bounds_of(trace, ground, Scenario(name="", warm_up_s=0.0, slo=Slo(ttft_s=1e-9, ttft_times=1.0)))[0]
    result = simulate(
        Job(name="fixed", rule=FixedRule(replicas=1), seed=11),
        Scenario(name="", warm_up_s=0.0),
        trace=trace,
        ground=ground,
    )
    assert np.median(result.ttft_s / alone) == pytest.approx(1.0, abs=0.25)


def test_a_day_of_turns_is_fast() -> None:
    """Two hours are a twelfth of a day: far more time than they take."""
    trace = arrivals([1.0] * 120)
    began = time.process_time()
    play(OURS, trace)
    assert time.process_time() - began < 60.0


@pytest.mark.parametrize(
    ("names", "tenants", "message"),
    [
        (["qwen"], ("qwen", "other"), "tenant 'other' of the trace: no SLMDeployment of this name"),
        (["qwen", "other"], ("",), "the trace has no tenant column, and there are 2 SLMDeployments"),
        ([], ("qwen",), "no SLMDeployment is given"),
    ],
)
def test_tenants_without_a_deployment(names: list[str], tenants: tuple[str, ...], message: str) -> None:
    trace = replace(arrivals([1.0]), tenants=tenants)
    views = [a_deployment(name, scaled()) for name in names]
    with pytest.raises(CannotSimulateError, match=message):
        ground_for(trace, views, (whole_node("a"),), POLICY)


def test_a_trace_without_tenants_goes_to_the_only_deployment() -> None:
    trace, ground = ground_for(
        replace(arrivals([1.0]), tenants=("",)), [a_deployment("qwen", scaled())], (whole_node("a"),), POLICY
    )
    assert trace.tenants == ("qwen",)
    assert ground.views[0].key.name == "qwen"


def test_a_deployment_without_requests_is_there_too() -> None:
    trace, ground = ground_for(
        arrivals([1.0]), [a_deployment("idle", scaled()), a_deployment("qwen", scaled())], (whole_node("a"),), POLICY
    )
    assert trace.tenants == ("qwen", "idle")
    assert [view.key.name for view in ground.views] == ["qwen", "idle"]


def test_what_fits_nowhere_cannot_be_simulated() -> None:
    with pytest.raises(CannotSimulateError, match="has no place on any of the nodes"):
        play(PEER, arrivals([1.0]), replace(a_demand(mode=Mode.MIG), scaling=scaled().scaling))
