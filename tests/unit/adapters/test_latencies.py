"""Latencies of single requests from buckets, and the questions that are asked for them."""

from __future__ import annotations

from math import inf

import pytest

from slmpack.adapters.latencies import IMPOSSIBLE, latencies_of
from slmpack.adapters.metric_names import EngineNames, MetricNames
from slmpack.adapters.promql import EngineQueries
from slmpack.domain.load import Latencies
from slmpack.domain.snapshot import Key


def test_buckets_are_sorted_as_numbers() -> None:
    found = latencies_of([("+Inf", 30.0), ("10.0", 29.0), ("0.05", 3.0), ("2.5", 17.5)])
    assert found == Latencies(at_most=((0.05, 3.0), (2.5, 17.5), (10.0, 29.0), (inf, 30.0)))


def test_without_a_request_there_are_none() -> None:
    found = latencies_of([("0.1", 0.0), ("+Inf", 0.0)])
    assert isinstance(found, Latencies)
    assert (found.requests, found.over(0.05)) == (0, None)


@pytest.mark.parametrize("buckets", [[], [("+Inf", 5.0)]], ids=["too old", "no bounds"])
def test_what_is_not_there_is_nothing(buckets: list[tuple[str, float]]) -> None:
    assert latencies_of(buckets) is None


def test_rounding_is_levelled() -> None:
    found = latencies_of([("0.1", 1000.0004), ("0.2", 1000.0), ("+Inf", 1000.0)])
    assert found == Latencies(at_most=((0.1, 1000.0004), (0.2, 1000.0004), (inf, 1000.0004)))


@pytest.mark.parametrize(
    "buckets",
    [
        [("0.1", 1000.01), ("0.2", 1000.0), ("+Inf", 1001.0)],
        [("0.1", 1.0), ("+Inf", 0.0)],
        [("0.1", 1.0), ("0.2", 2.0)],
        [("0.1", 1.0), ("0.10", 1.0), ("+Inf", 2.0)],
        [("+Inf", 2.0), ("inf", 2.0), ("0.1", 1.0)],
        [("0.1", float("nan")), ("+Inf", 2.0)],
        [("0.1", 1.0), ("+Inf", inf)],
        [("0.1", -1.0), ("+Inf", 2.0)],
        [("soon", 1.0), ("+Inf", 2.0)],
        [("", 1.0), ("+Inf", 2.0)],
        [("NaN", 1.0), ("+Inf", 2.0)],
        [("-1", 1.0), ("+Inf", 2.0)],
    ],
)
def test_what_cannot_be_is_unknown(buckets: list[tuple[str, float]]) -> None:
    assert latencies_of(buckets) == IMPOSSIBLE


ENGINE = "namespace, pod, instance, engine"
CHOSEN = '{namespace=~"team",pod=~"(?:chat)-[0-9]+"}[120s]'


def _asked(**names: object) -> EngineQueries:
    return EngineQueries(names=MetricNames.model_validate(names), deployments=(Key("team", "chat"),))


def test_the_questions_are_of_two_minutes_and_count_an_engine_once() -> None:
    def text(name: str) -> str:
        of_engine = f"max by ({ENGINE}, le) (rate({name}_bucket{CHOSEN}))"
        named = f'label_replace({of_engine}, "slmdeployment", "$1", "pod", "(.+)-[0-9]+")'
        return f"sum by (namespace, slmdeployment, le) ({named}) * 120"

    assert _asked().ttft_buckets() == text("vllm:time_to_first_token_seconds")
    assert _asked().tpot_buckets() == text("vllm:request_time_per_output_token_seconds")


def test_of_an_engine_with_several_names_the_first_counts() -> None:
    asked = _asked(engine={"tpot": ["new", "old"]}, labels={"deployment": "of"})
    chosen = '{namespace=~"team",of=~"chat"}[120s]'
    either = " or ".join(f"max by ({ENGINE}, of, le) (rate({name}_bucket{chosen}))" for name in ("new", "old"))
    named = f'label_replace({either}, "slmdeployment", "$1", "of", "(.+)")'
    assert asked.tpot_buckets() == f"sum by (namespace, slmdeployment, le) ({named}) * 120"


def test_the_older_histogram_of_tokens_is_not_taken_for_one_of_requests() -> None:
    assert set(EngineNames().tpot) & set(EngineNames().itl) == set()
