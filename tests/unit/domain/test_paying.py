from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.knee import GRID
from slmpack.domain.paying import (
    Answer,
    Load,
    Operating,
    Packing,
    PayPolicy,
    PayRule,
    Verdict,
    operate,
    pack_what_pays,
)
from slmpack.domain.workload import Bounds, Objective

DATA = Path(__file__).parents[2] / "data"
NO_BOUNDS = Bounds()


def a_rule(objective: Objective = Objective.THROUGHPUT, *, spread: float = 0.03) -> PayRule:
    return PayRule(policy=PayPolicy(), objective=objective, spread=spread, basis=Basis.MEASURED)


def a_point(batch: float, throughput: float, itl: float = 0.01, **more: float) -> CurvePoint:
    return CurvePoint(batch=batch, throughput_tok_s=throughput, itl_s=itl, **more)


def a_packing(replicas: int, *points: CurvePoint, runs: float = math.inf, most: float = math.inf) -> Packing:
    return Packing(replicas=replicas, curve=Curve.of_points(points), runs=runs, most=most)


def modelled(
    replicas: int, *, host: float = 0.004, device: float = 0.00005, runs: float = 512, ttft: float = 0.001
) -> Packing:
    """Each has its own host time; the device serves one replica after the other."""

    def point(batch: float) -> CurvePoint:
        itl = max(host + device * batch, replicas * device * batch)
        return a_point(batch, replicas * batch / itl, itl, ttft_s=ttft * batch, energy_j_per_token=itl / batch)

    return Packing(replicas=replicas, curve=Curve.of_function(GRID, point), runs=runs, most=512)


def decided(*packings: Packing, load: Load, bounds: Bounds = NO_BOUNDS, rule: PayRule | None = None) -> Answer:
    answer = pack_what_pays(packings, load, bounds, rule=rule or a_rule())
    assert answer is not None
    return answer


def measured_packings(source: str, model: str, *, runs: float) -> list[Packing]:
    with (DATA / "packing-curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rows = [row for row in rows if (row["source"], row["model"]) == (source, model)]
    return [
        a_packing(
            replicas,
            *(
                a_point(int(row["batch"]), float(row["throughput_tok_s"]), float(row["itl_ms"]) / 1000)
                for row in rows
                if int(row["replicas"]) == replicas
            ),
            runs=runs,
        )
        for replicas in sorted({int(row["replicas"]) for row in rows})
    ]


@pytest.mark.parametrize("in_flight", [512, 1024, 3000])
def test_measured_opt_1_3b_at_batch_256_pays_as_two_and_not_as_four(in_flight: float) -> None:
    packings = measured_packings("memory-gap", "opt-1.3b", runs=256)
    answer = decided(*packings, load=Load(in_flight=in_flight))
    assert answer.operating.replicas == 2
    assert [(step.replicas, step.verdict) for step in answer.steps] == [(2, Verdict.PAYS), (4, Verdict.DOES_NOT_PAY)]
    assert answer.steps[1].gain.expected < 1.005


def test_measured_opt_1_3b_four_at_batch_96_lose_to_two_at_twice_that_batch() -> None:
    answer = decided(*measured_packings("memory-gap", "opt-1.3b", runs=96), load=Load(in_flight=384))
    assert answer.operating.replicas == 2
    assert answer.steps[-1].verdict is Verdict.DOES_NOT_PAY
    assert answer.steps[-1].gain.expected == pytest.approx(0.942, abs=0.001)


def test_measured_opt_2_7b_pays_as_two() -> None:
    answer = decided(*measured_packings("memory-gap", "opt-2.7b", runs=128), load=Load(in_flight=256))
    assert answer.operating.replicas == 2
    assert answer.steps[0].gain.expected == pytest.approx(1.17, abs=0.01)


@pytest.mark.parametrize("in_flight", [2, 4, 8, 16, 32, 64])
def test_measured_qwen3_4b_stays_alone_at_the_same_requests_in_flight(in_flight: float) -> None:
    answer = decided(*measured_packings("dynamo", "Qwen3-4B", runs=32), load=Load(in_flight=in_flight))
    assert answer.operating.replicas == 1
    assert [step.verdict for step in answer.steps] == [Verdict.DOES_NOT_PAY]


def test_two_that_beat_one_of_the_same_batch_do_not_pay_against_one_of_twice_the_batch() -> None:
    one = a_packing(1, a_point(32, 1000), a_point(64, 1500), runs=32)
    two = a_packing(2, a_point(32, 1520), runs=32)
    answer = decided(one, two, load=Load(in_flight=64))
    assert (answer.operating.replicas, answer.operating.goodput_tok_s) == (1, 1000)
    assert answer.steps[0].text == (
        "2 replicas at batch 32 instead of 1 at its best, 64: 1,520 instead of 1,500 output tokens/s, "
        "a gain of 1.3 % (-2 to 4 %); does not pay, being under 5 %."
    )


@pytest.mark.parametrize("second", [103, 107])
def test_a_gain_whose_interval_holds_the_threshold_is_uncertain_and_ends_the_search(second: float) -> None:
    packings = [a_packing(k, a_point(8, throughput)) for k, throughput in ((1, 100), (2, second), (3, 900))]
    answer = decided(*packings, load=Load(in_flight=24))
    assert answer.operating.replicas == 1
    assert [step.verdict for step in answer.steps] == [Verdict.UNCERTAIN]
    assert answer.steps[0].text.endswith("uncertain, as 5 % lies within, which counts as does not pay.")
    assert answer.before is None


def test_each_step_has_to_pay_by_itself() -> None:
    packings = [a_packing(k, a_point(8, throughput)) for k, throughput in ((1, 100), (2, 150), (3, 152))]
    answer = decided(*packings, load=Load(in_flight=24))
    assert answer.operating.replicas == 2
    assert answer.before is not None
    assert answer.before.replicas == 1
    assert answer.steps[0].gain == Interval(low=1.47, expected=1.5, high=1.53, basis=Basis.MEASURED)
    assert "a gain of 50.0 % (47 to 53 %); pays, being over 5 %." in answer.steps[0].text


def test_packings_are_read_only_as_far_as_needed() -> None:
    def packings() -> Iterator[Packing]:
        yield a_packing(1, a_point(8, 100))
        yield a_packing(2, a_point(8, 90))
        raise AssertionError

    answer = pack_what_pays(packings(), Load(in_flight=8), NO_BOUNDS, rule=a_rule())
    assert answer is not None
    assert answer.operating.replicas == 1


def test_a_packing_that_runs_nowhere_does_not_pay() -> None:
    slow = a_packing(2, a_point(8, 900, 0.5))
    bounds = Bounds(itl_s=0.1)
    answer = decided(a_packing(1, a_point(8, 100)), slow, load=Load(in_flight=8), bounds=bounds)
    assert answer.operating.replicas == 1
    assert answer.steps[0].operating is None
    assert answer.steps[0].text == "No batch is known at which 2 replicas run within the bounds: does not pay."
    assert pack_what_pays([slow], Load(in_flight=8), bounds, rule=a_rule()) is None


def ran(packing: Packing, load: Load, bounds: Bounds = NO_BOUNDS, *, most: float = 512) -> Operating:
    operating = operate(packing, load, bounds, most=most)
    assert operating is not None
    return operating


def test_requests_beyond_the_batch_wait() -> None:
    packing = modelled(2)
    assert ran(packing, Load(in_flight=200)).point.batch == 100
    assert ran(packing, Load(in_flight=200)).carries
    full = ran(packing, Load(in_flight=200), most=70.5)
    assert (full.point.batch, full.carries) == (70.5, False)


def test_a_curve_that_falls_again_runs_at_its_top() -> None:
    falling = a_packing(1, a_point(8, 100), a_point(16, 180), a_point(32, 170), a_point(64, 150))
    assert ran(falling, Load(in_flight=64)).point.batch == 16
    assert ran(falling, Load(demand_tok_s=500)).point.batch == 16


def test_a_bound_is_kept_to_a_whole_request_between_two_batches() -> None:
    packing = modelled(1)
    by_itl = ran(packing, Load(in_flight=500), Bounds(itl_s=0.0085)).point
    assert 85 <= by_itl.batch <= 90
    assert by_itl.itl_s <= 0.0085
    by_ttft = ran(packing, Load(in_flight=500), Bounds(ttft_s=0.2)).point
    assert by_ttft.batch == pytest.approx(200, abs=8)
    assert by_ttft.ttft_s is not None
    assert by_ttft.ttft_s <= 0.2
    assert ran(packing, Load(in_flight=500), Bounds(itl_s=0.0085, ttft_s=0.2)).point == by_itl


def test_a_line_that_leads_past_a_bound_is_not_followed() -> None:
    bent = Curve.of_function((8, 16), lambda batch: a_point(batch, 100 * batch, 0.01 if batch == 8 else 0.05))
    packing = Packing(replicas=1, curve=bent, runs=16, most=16)
    assert ran(packing, Load(in_flight=16), Bounds(itl_s=0.03)).point.batch == 8


def test_a_time_to_first_token_that_nobody_measured_keeps_no_bound() -> None:
    unknown = a_packing(1, a_point(8, 100, ttft_s=0.1), a_point(16, 150))
    assert ran(unknown, Load(in_flight=16), Bounds(ttft_s=1)).point.batch == 8


def test_nothing_is_known_of_fewer_requests_than_were_measured() -> None:
    assert operate(a_packing(4, a_point(8, 100)), Load(in_flight=8), NO_BOUNDS, most=8) is None


@pytest.mark.parametrize("demand", [10, 1000, 3000, 9000])
def test_an_open_load_runs_at_the_batch_that_carries_it(demand: float) -> None:
    operating = ran(modelled(1), Load(demand_tok_s=demand))
    assert operating.carries
    assert operating.goodput_tok_s == demand
    assert operating.point.throughput_tok_s == pytest.approx(demand, rel=0.01)


def test_an_open_load_on_a_measured_curve_is_read_between_its_points() -> None:
    measured = a_packing(1, a_point(4, 100), a_point(16, 200))
    assert ran(measured, Load(demand_tok_s=150)).point.batch == 8
    assert ran(measured, Load(demand_tok_s=20)).point.batch == 4


def test_an_open_load_beyond_the_largest_batch_is_not_carried() -> None:
    operating = ran(modelled(1), Load(demand_tok_s=50_000))
    assert not operating.carries
    assert operating.goodput_tok_s == operating.point.throughput_tok_s == pytest.approx(512 / 0.0296)


def test_an_open_load_that_one_replica_carries_needs_no_second() -> None:
    answer = decided(modelled(1), modelled(2), load=Load(demand_tok_s=3000))
    assert answer.operating.replicas == 1
    assert answer.steps[0].gain == Interval.exactly(1.0, Basis.MEASURED)
    assert answer.steps[0].text == "1 replica carries the whole load within the bounds: another does not pay."
    both = decided(modelled(1), modelled(2), modelled(3), load=Load(demand_tok_s=19_500))
    assert both.operating.replicas == 2
    assert both.steps[-1].text == "2 replicas carry the whole load within the bounds: another does not pay."


def test_a_load_that_only_a_batch_would_carry_that_does_not_run_is_not_called_carried() -> None:
    load = Load(demand_tok_s=9000)
    few = replace(modelled(1), runs=32.0)
    answer = decided(few, modelled(2), load=load)
    assert not answer.operating.carries
    assert "9,000 instead of 9,000 output tokens/s" in answer.steps[0].text


def test_a_batch_below_one_is_no_zero() -> None:
    answer = decided(modelled(1), modelled(2), load=Load(demand_tok_s=1.0), rule=a_rule(Objective.LATENCY))
    found = re.match(r"2 replicas at batch (\S+) instead of 1 at its best, (\S+): ", answer.steps[0].text)
    assert found is not None
    assert 0 < float(found[1]) < float(found[2]) < 0.1


def test_latency_wants_the_packing_with_the_lower_itl_that_carries_as_much() -> None:
    load = Load(demand_tok_s=9000)
    answer = decided(modelled(1), modelled(2), load=load, rule=a_rule(Objective.LATENCY))
    assert answer.operating.replicas == 2
    assert "ITL 5.2 instead of 7.3 ms, a gain of 40.9 %" in answer.steps[0].text


def test_latency_adds_replicas_for_load_that_is_not_carried() -> None:
    one, two = a_packing(1, a_point(8, 100, 0.01)), a_packing(2, a_point(8, 180, 0.011))
    answer = decided(one, two, load=Load(in_flight=16), rule=a_rule(Objective.LATENCY))
    assert answer.operating.replicas == 2
    assert "180 instead of 100 output tokens/s" in answer.steps[0].text


def test_energy_wants_the_packing_with_fewer_joules_a_token() -> None:
    one = a_packing(1, a_point(8, 100, energy_j_per_token=1.0))
    two = a_packing(2, a_point(4, 98, energy_j_per_token=0.8))
    answer = decided(one, two, load=Load(in_flight=8), rule=a_rule(Objective.ENERGY))
    assert answer.operating.replicas == 2
    assert "0.8000 instead of 1.0000 J a token, a gain of 25.0 %" in answer.steps[0].text


@pytest.mark.parametrize("objective", [Objective.LATENCY, Objective.ENERGY])
def test_no_objective_gives_throughput_away(objective: Objective) -> None:
    one = a_packing(1, a_point(8, 100, 0.02, energy_j_per_token=1.0))
    two = a_packing(2, a_point(4, 90, 0.01, energy_j_per_token=0.5))
    answer = decided(one, two, load=Load(in_flight=8), rule=a_rule(objective))
    assert answer.operating.replicas == 1
    assert "90 instead of 100 output tokens/s" in answer.steps[0].text


def test_energy_that_nobody_knows_is_judged_by_throughput() -> None:
    one, two = a_packing(1, a_point(8, 100)), a_packing(2, a_point(4, 120))
    answer = decided(one, two, load=Load(in_flight=8), rule=a_rule(Objective.ENERGY))
    assert "120 instead of 100 output tokens/s" in answer.steps[0].text


hosts = st.floats(min_value=0.0005, max_value=0.01)
devices = st.floats(min_value=0.00001, max_value=0.0005)
loads = st.integers(min_value=1, max_value=2000)


@given(host=hosts, device=devices, first=loads, second=loads)
def test_more_requests_in_flight_never_lower_the_goodput(host: float, device: float, first: int, second: int) -> None:
    packing = modelled(2, host=host, device=device)
    few, many = (ran(packing, Load(in_flight=each)) for each in sorted((first, second)))
    assert few.goodput_tok_s <= many.goodput_tok_s * 1.0001


@given(host=hosts, device=devices, in_flight=loads, first=hosts, second=hosts)
def test_a_tighter_bound_never_raises_the_goodput(
    host: float, device: float, in_flight: int, first: float, second: float
) -> None:
    packing = modelled(1, host=host, device=device)
    tight, loose = (
        operate(packing, Load(in_flight=in_flight), Bounds(itl_s=bound), most=512) for bound in sorted((first, second))
    )
    if tight is not None:
        assert loose is not None
        assert tight.goodput_tok_s <= loose.goodput_tok_s * 1.02  # a bound is met to a whole request


@given(host=hosts, device=devices, in_flight=loads, knee=st.sampled_from(GRID))
def test_what_is_chosen_beats_fewer_replicas_at_any_batch(
    host: float, device: float, in_flight: int, knee: int
) -> None:
    packings = [modelled(k, host=host, device=device, runs=knee) for k in (1, 2, 3, 4)]
    answer = decided(*packings, load=Load(in_flight=in_flight))
    for fewer in packings[: answer.operating.replicas - 1]:
        other = ran(fewer, Load(in_flight=in_flight))
        assert answer.operating.goodput_tok_s >= 1.05 * other.goodput_tok_s * 0.9999
