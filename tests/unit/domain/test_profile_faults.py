"""What spoils a point: each rule at its limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slmpack.domain.profile_faults import EngineSample, Evidence, Fault, Sighting, find_faults

BEFORE = EngineSample(
    started_at=1.0,
    running=0,
    waiting=0,
    kv_usage=0.0,
    preemptions=10,
    prefix_queries=1000,
    prefix_hits=500,
    generated_tokens=100,
    itl_sum_s=1.0,
    itl_count=100,
)


def under_load(step: int, **other: Any) -> Sighting:
    """The engine after so many looks: 4 running, 1,000 tokens and 1,000 gaps of 10 ms more at each."""
    engine = replace(
        BEFORE,
        running=4,
        kv_usage=0.3,
        prefix_queries=1000 + 10_000 * step,
        generated_tokens=100 + 1000 * step,
        itl_sum_s=1.0 + 10.0 * step,
        itl_count=100 + 1000 * step,
    )
    return Sighting(engine=replace(engine, **other), received_tokens=1000 * step)


def evidence(**other: Any) -> Evidence:
    found = Evidence(
        concurrency=4,
        max_num_seqs=None,
        before=BEFORE,
        sightings=tuple(under_load(step) for step in range(5)),
        itl_s=0.010,
        client_busy=0.2,
        client_lag_s=0.0001,
        errors=0,
    )
    return replace(found, **other)


def looks(change: Callable[[int], dict[str, Any]]) -> tuple[Sighting, ...]:
    return tuple(under_load(step, **change(step)) for step in range(5))


def only(found: Evidence) -> tuple[Fault, str]:
    faults = find_faults(found)
    assert len(faults) == 1, faults
    return faults[0].fault, faults[0].message


def test_a_clean_point_has_no_fault() -> None:
    assert find_faults(evidence()) == ()


@pytest.mark.parametrize(("count", "text"), [(1, "1 request failed"), (3, "3 requests failed")])
def test_errors(count: int, text: str) -> None:
    fault, message = only(evidence(errors=count, last_error="503 queue is full"))
    assert fault is Fault.ERRORS
    assert message.startswith(f"{text}, the last with: 503 queue is full")


def test_a_busy_client() -> None:
    assert find_faults(evidence(client_busy=0.8)) == ()
    fault, message = only(evidence(client_busy=0.93))
    assert fault is Fault.CLIENT
    assert "busy 93% of the time" in message


def test_a_client_that_wakes_up_late() -> None:
    assert find_faults(evidence(client_lag_s=0.005)) == ()
    fault, message = only(evidence(client_lag_s=0.0051))
    assert fault is Fault.CLIENT
    assert "woke up 5.1 ms late on average, against an inter-token latency of 10.0 ms" in message
    assert find_faults(evidence(client_lag_s=0.0049, itl_s=0.002)) == ()


def test_a_client_that_sees_more_latency_than_the_engine() -> None:
    assert find_faults(evidence(itl_s=0.0125)) == ()
    fault, message = only(evidence(itl_s=0.0126))
    assert fault is Fault.CLIENT
    assert "is 12.6 ms here and 10.0 ms in the engine" in message


def test_without_the_engine_s_histogram_the_client_is_believed() -> None:
    assert find_faults(evidence(itl_s=0.1, sightings=looks(lambda _: {"itl_count": None}))) == ()
    assert find_faults(evidence(itl_s=0.1, sightings=looks(lambda _: {"itl_count": 100}))) == ()


@pytest.mark.parametrize(
    "blind",
    [
        {"before": None, "sightings": ()},
        {"sightings": ()},
        {"before": None},
        {"sightings": looks(lambda _: {"running": None, "waiting": None})},
    ],
)
def test_metrics_that_cannot_be_read(blind: dict[str, Any]) -> None:
    fault, message = only(evidence(**blind))
    assert fault is Fault.UNSEEN
    assert "vllm:num_requests_running" in message


def test_metrics_that_often_fail() -> None:
    """5 looks were answered."""
    assert find_faults(evidence(missed=1)) == ()
    fault, message = only(evidence(missed=2))
    assert fault is Fault.UNSEEN
    assert message.startswith("the server did not answer 2 of 7 looks at its /metrics, so a cap")


def test_counters_that_begin_anew_count_nothing() -> None:
    found = evidence(sightings=looks(lambda step: {"preemptions": 10 - step, "started_at": 1.0 + step}))
    assert found.preemptions is None
    assert only(found)[0] is Fault.SWITCHED


def test_two_processes_behind_one_address() -> None:
    fault, message = only(evidence(sightings=looks(lambda step: {"started_at": 1.0 + step % 2})))
    assert fault is Fault.SWITCHED
    assert message.startswith("/metrics came from 2 processes")
    assert find_faults(evidence(sightings=looks(lambda _: {"started_at": None}))) == ()


def test_requests_of_others() -> None:
    assert find_faults(evidence(sightings=looks(lambda step: {"waiting": 1 if step == 2 else 0}))) == ()
    fault, message = only(evidence(sightings=looks(lambda step: {"waiting": 2 if step in {1, 3} else 0})))
    assert fault is Fault.CO_TENANT
    assert message.startswith("up to 2 requests of other clients were in flight beside our 4")


def test_tokens_for_others() -> None:
    received, allowed = 4000, 4000 * 1.05 + 4 * 4
    ok = looks(lambda step: {"generated_tokens": 100 + allowed * step / 4})
    assert find_faults(evidence(sightings=ok)) == ()
    more = looks(lambda step: {"generated_tokens": 100 + (allowed + 1) * step / 4})
    fault, message = only(evidence(sightings=more))
    assert fault is Fault.CO_TENANT
    assert f"made 4217 tokens while we received {received}" in message


def test_tokens_that_a_slow_client_has_not_read_are_no_co_tenant_s() -> None:
    more = looks(lambda step: {"generated_tokens": 100 + 2000 * step})
    assert only(evidence(sightings=more, client_busy=0.99))[0] is Fault.CLIENT


def test_an_engine_that_does_not_count_tokens_is_believed() -> None:
    assert find_faults(evidence(sightings=looks(lambda _: {"generated_tokens": None}))) == ()


def test_hits_in_the_prefix_cache() -> None:
    assert find_faults(evidence(sightings=looks(lambda step: {"prefix_hits": 500 + 100 * step}))) == ()
    fault, message = only(evidence(sightings=looks(lambda step: {"prefix_hits": 500 + 150 * step})))
    assert fault is Fault.CACHE_HITS
    assert message.startswith("1.5% of the prompt tokens were found in the prefix cache (over 1%)")
    assert find_faults(evidence(sightings=looks(lambda _: {"prefix_hits": None}))) == ()
    assert find_faults(evidence(sightings=looks(lambda _: {"prefix_queries": 1000}))) == ()


def test_preemptions() -> None:
    found = evidence(sightings=looks(lambda step: {"preemptions": 10 + step}))
    assert only(found)[0] is Fault.PREEMPTION
    assert found.preemptions == 4
    assert find_faults(found)[0].message.startswith("4 requests were preempted")
    assert evidence(before=None).preemptions is None


def test_more_in_flight_than_the_engine_was_started_for() -> None:
    assert find_faults(evidence(max_num_seqs=4)) == ()
    fault, message = only(evidence(max_num_seqs=3))
    assert fault is Fault.CAP
    assert "4 in flight are more than the engine's max-num-seqs of 3" in message


def test_a_cap_shows_as_a_plateau_with_a_queue() -> None:
    fault, message = only(evidence(sightings=looks(lambda _: {"running": 3, "waiting": 1})))
    assert fault is Fault.CAP
    assert (
        message
        == "at most 3 of 4 requests ran at once; the others wait: start the engine with --max-num-seqs 4 or more"
    )


def test_waiting_for_prefill_now_and_then_is_no_cap() -> None:
    assert find_faults(evidence(sightings=looks(lambda step: {"running": 3, "waiting": step % 2}))) == ()
    assert find_faults(evidence(sightings=looks(lambda step: {"running": 3 - step % 2, "waiting": 1 + step % 2}))) == ()


def test_the_first_and_the_last_look_come_when_a_request_has_just_ended() -> None:
    """They see too few running; the inner ones decide."""
    edges = looks(lambda step: {"running": 3 if step in {0, 4} else 4, "waiting": 1 if step in {0, 4} else 0})
    found = evidence(sightings=edges)
    assert find_faults(found) == ()
    assert found.running == 4


def test_a_full_kv_cache_is_a_cap_that_moves() -> None:
    full = looks(lambda step: {"running": 3 - step % 2, "waiting": 1 + step % 2, "kv_usage": 0.97})
    fault, message = only(evidence(sightings=full))
    assert fault is Fault.CAP
    assert message == (
        "at most 3 of 4 requests ran at once; the KV cache is full: give the engine more, or measure shorter requests"
    )


def test_a_limit_on_the_way_to_the_engine() -> None:
    fault, message = only(evidence(concurrency=40, sightings=looks(lambda _: {"running": 34})))
    assert fault is Fault.CAP
    assert message.startswith("34.0 of 40 requests ran at a time on average; the others are not in the engine")
    assert find_faults(evidence(concurrency=40, sightings=looks(lambda _: {"running": 35}))) == ()


def test_two_looks_are_both_counted() -> None:
    found = evidence(sightings=(under_load(0, running=2), under_load(1, running=4)))
    assert found.running == 3


def test_running_is_unknown_where_nothing_is_seen() -> None:
    assert evidence(sightings=()).running is None


def test_what_measuring_again_can_mend() -> None:
    assert {fault for fault in Fault if not fault.transient} == {Fault.CAP, Fault.PREEMPTION}
