"""Statistics of the load and the comparison with the prediction."""

from __future__ import annotations

import pytest

from tests.gpu.figures import LoadError, compare, latencies, percentile, read_counter, throughput

METRICS = """# HELP vllm:generation_tokens_total x
vllm:generation_tokens_total{engine="0",model_name="m"} 100.0
vllm:generation_tokens_total{engine="1",model_name="m {x}"} 2.5e1
vllm:generation_tokens_total_created{engine="0"} 1e9
vllm:request_generation_tokens_sum{engine="0"} 7.0
"""


def test_a_counter_is_summed_over_its_series() -> None:
    assert read_counter(METRICS) == 125.0
    assert read_counter("a_total 3\n", "a_total") == 3.0
    with pytest.raises(LoadError, match="has no b_total"):
        read_counter(METRICS, "b_total")


def test_throughput_is_by_the_counters() -> None:
    assert throughput([100, 50], [400, 250], seconds=10) == 50
    with pytest.raises(LoadError, match="went back"):
        throughput([100, 50], [400, 10], seconds=10)
    with pytest.raises(LoadError, match="went back"):
        throughput([100], [400, 10], seconds=10)


@pytest.mark.parametrize(("part", "value"), [(0.0, 1), (0.2, 1), (0.5, 3), (0.6, 3), (0.61, 4), (0.99, 5), (1.0, 5)])
def test_percentiles_are_values_that_were_seen(part: float, value: float) -> None:
    assert percentile([5, 1, 4, 2, 3], part) == value
    with pytest.raises(LoadError):
        percentile([], part)


def test_latencies_of_whole_completions_in_the_window() -> None:
    done = [
        [0.0, 0.5, 10.5, 101],  # ITL 100 ms, TTFT 500 ms
        [1.0, 1.1, 21.1, 101],  # ITL 200 ms, TTFT 100 ms
        [0.0, 0.5, 1.5, 11],  # the shorter first round
        [0.0, 0.5, 9.9, 101],  # ended before
        [0.0, 0.5, 22.1, 101],  # ended after
    ]
    found = latencies(done, began=10.0, ended=22.0, output=101)
    assert found == {
        "completions": 2,
        "itl_ms": 150.0,
        "itl_of_a_request_p50_ms": 100.0,
        "itl_of_a_request_p99_ms": 200.0,
        "ttft_ms": 300.0,
        "ttft_p99_ms": 500.0,
    }
    with pytest.raises(LoadError, match="no completion of full length"):
        latencies(done, began=30.0, ended=40.0, output=101)


def test_measured_beside_predicted() -> None:
    predicted = {
        "throughput_tok_s": {"value": 1000.0, "low": 800.0, "high": 1200.0, "basis": "modelled"},
        "itl_ms": {"value": 4.0, "low": 3.0, "high": 5.0, "basis": "modelled"},
        "ttft_ms": None,
        "power_w": {"value": 300.0, "low": 100.0, "high": 700.0, "basis": "assumed"},
    }
    rows = compare({"throughput_tok_s": 1100.0, "itl_ms": 6.0, "ttft_ms": 9.0, "power_w": None}, predicted)
    assert [(row["figure"], row["inside"], row["ratio"]) for row in rows] == [
        ("throughput_tok_s", True, 1.1),
        ("itl_ms", False, 1.5),
    ]
    assert compare({"itl_ms": 1.0}, {"error": "no"}) == []
