"""What a breaker found in scaling, once each: status that was tampered with, clocks, outages, halves of a measurement."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, isfinite

import pytest

from slmpack.domain.load import Latencies, LoadSample
from slmpack.domain.reasons import Reason
from slmpack.domain.rollout import keep_book
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import PodView
from tests.support.builders import (
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    creates,
    mps_node,
    plan,
    whole_node,
)
from tests.support.scaling import Scaled, scaled

LATER = NOW + timedelta(days=365)
LONG_AGO = NOW - timedelta(days=1)


def world(running: int = 5, *, least: int = 1) -> Scaled:
    return scaled(mps_node("a"), mps_node("b"), least=least, most=8).running(running)


@pytest.mark.parametrize("value", [-1.0, 1e300, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(
    "name", ["arrivals_mean_s", "input_tokens", "output_tokens", "completions_s", "waiting", "itl_s"]
)
def test_a_value_that_cannot_be_is_as_good_as_none(name: str, value: float) -> None:
    asked = (
        world().under(8.0, generation_tok_s=2000.0, itl_s=0.01).with_state(5, lower_since=LONG_AGO, changed=LONG_AGO)
    )
    assert isinstance(asked.load, LoadSample)
    odd = replace(asked, load=replace(asked.load, **{name: value})).decide()  # type: ignore[arg-type]
    none = replace(asked, load=replace(asked.load, **{name: None})).decide()  # type: ignore[arg-type]
    assert odd == none


@pytest.mark.parametrize("lacks", [{"input_tokens": None}, {"output_tokens": None, "completions_s": None}])
def test_fewer_are_not_wanted_on_lengths_that_nobody_measured(lacks: dict[str, None]) -> None:
    asked = world().under(8.0).with_state(5, lower_since=LONG_AGO, changed=LONG_AGO)
    assert asked.decide().reason is Reason.LOAD_FELL
    decision = replace(asked, load=replace(asked.load, **lacks)).decide()  # type: ignore[type-var]
    assert (decision.desired, decision.reason, decision.known) == (5, Reason.METRICS_UNKNOWN, False)


def test_fewer_are_not_wanted_while_the_latency_that_corrects_the_model_is_unknown() -> None:
    asked = world().under(8.0, generation_tok_s=2000.0).with_state(5, lower_since=LONG_AGO, changed=LONG_AGO)
    assert isinstance(asked.load, LoadSample)
    decision = replace(asked, load=replace(asked.load, trouble=("itl_s: no answer",))).decide()
    assert (decision.desired, decision.reason) == (5, Reason.METRICS_UNKNOWN)
    assert "itl_s: no answer" in decision.message
    assert asked.decide().desired < 5  # of requests with one token each there is none to know


@pytest.mark.parametrize("ahead", [LATER, datetime.max.replace(tzinfo=UTC)])
def test_after_a_clock_was_set_back_fewer_are_wanted_in_the_usual_time(ahead: datetime) -> None:
    asked = world().under(8.0).with_state(5, lower_since=ahead, changed=ahead, went_up=True, busy=ahead)
    first = asked.decide()
    assert (first.desired, first.reason) == (5, Reason.HELD)
    assert first.state.changed == first.state.lower_since == first.state.busy == NOW
    assert asked.after(3600, first).decide().desired < 5


@pytest.mark.parametrize("value", [1e300, 0.0, -1.0, float("nan"), float("inf")])
def test_a_correction_that_somebody_wrote_is_kept_within_what_a_model_may_be_off(value: float) -> None:
    asked = world().under(8.0)
    learned = {"correction": value, "corrected": NOW, "corrected_of": asked.demand.spec_hash}
    decision = asked.with_state(5, changed=LONG_AGO, **learned).decide()
    assert decision.state.correction is None or 0.75 <= decision.state.correction <= 2.0
    assert decision.state.correction is not None or not isfinite(value)


@pytest.mark.parametrize("part", [-1.0, float("nan"), 1e300])
def test_a_histogram_that_cannot_be_is_as_good_as_none(part: float) -> None:
    asked = world().under(8.0)
    assert asked.load is not None
    odd = Latencies(at_most=((0.01, 0.0), (0.1, part), (inf, 1000.0)))
    none = replace(asked, load=replace(asked.load, ttft_of=None, tpot_of=None)).decide()
    assert replace(asked, load=replace(asked.load, ttft_of=odd, tpot_of=odd)).decide() == none


@pytest.mark.parametrize("field", ["hold_s", "start_s"])
def test_nonsense_in_status_does_not_break_the_decision(field: str) -> None:
    asked = world().under(8.0, kv_usage=0.99)
    pods = tuple(replace(pod, restarts=1) for pod in asked.pods)
    tampered = replace(asked, pods=pods).with_state(5, changed=LONG_AGO, **{field: 1e300})
    decision = tampered.decide()
    assert decision.desired == 5
    assert (getattr(decision.state, field) or 0.0) <= max(86_400, POLICY.scale.hold_s)


def test_a_request_while_no_operator_was_there_keeps_the_last_replica() -> None:
    asked = world(1, least=0).under(0.0, arrivals_peak_s=3.0).with_state(1, busy=NOW - timedelta(hours=1))
    assert asked.decide().desired == 1
    quiet = world(1, least=0).under(0.0).with_state(1, busy=NOW - timedelta(hours=1))
    assert quiet.decide().desired == 0


def test_a_quiet_time_that_an_operator_saw_is_not_longer_for_the_peak() -> None:
    asked = world(1, least=0).under(0.0, arrivals_peak_s=3.0).with_state(1, busy=NOW - timedelta(minutes=10))
    assert asked.decide().desired == 0


@pytest.mark.parametrize(("wanted", "ready", "live"), [(4, 2, 5), (3, 2, 4), (2, 2, 3), (1, 1, 2)])
def test_fewer_amid_a_rollout_end_no_replica_that_answers_for_one_that_never_did(
    wanted: int, ready: int, live: int
) -> None:
    book = keep_book(replace(a_demand(spec_hash="spec-b"), replicas=wanted), _amid_a_rollout(), POLICY, now=NOW)
    assert (sum(pod.ready for pod in book.live), book.replicas) == (ready, live)


def _amid_a_rollout() -> tuple[PodView, ...]:
    """Two of the old spec answer, three of the new one start, as more were wanted at the same time."""
    nodes = tuple(whole_node(f"n{number}") for number in range(6))
    new = a_demand(replicas=5, mode=Mode.EXCLUSIVE, spec_hash="spec-b")
    pods: tuple[PodView, ...] = ()
    for demand, ready in ((replace(new, spec_hash="spec-a", replicas=2), True), (new, False)):
        while made := creates(plan(a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=nodes, pods=pods))):
            pods += tuple(a_pod(one, ready=ready, created=NOW - timedelta(hours=ready)) for one in made)
    assert [(pod.ready, pod.record and pod.record.spec_hash) for pod in pods] == [(True, "spec-a")] * 2 + [
        (False, "spec-b")
    ] * 3
    return pods
