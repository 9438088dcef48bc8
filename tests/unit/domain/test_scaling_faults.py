"""What a fault of the measurement does to the number: the adapter's part of each is in tests/unit/adapters."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import inf, nan

import pytest

from slmpack.domain.load import LoadSample
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScaleState
from tests.support.builders import NOW
from tests.support.scaling import Scaled, a_load, scaled

SCALED = scaled()
IDLE = a_load(0.001, reporting=6)
"""With six replicas, four would end."""
BUSY = a_load(1000.0, reporting=6)


def six() -> Scaled:
    """Six replicas, two of which carry what comes, and which were about to be fewer."""
    return SCALED.running(6).with_state(6, lower_since=NOW - timedelta(hours=1), busy=NOW)


def blind(why: str) -> Scaled:
    return replace(six(), blind=Problem(reason=Reason.METRICS_UNKNOWN, message=why))


def seen(load: LoadSample | None) -> Scaled:
    return replace(six(), load=load)


RESET = replace(
    IDLE,
    arrivals_s=None,
    arrivals_peak_s=None,
    arrivals_high_s=None,
    arrivals_mean_s=None,
    trouble=("counters were reset",),
)

FAULTS = {
    # a fault: what the adapter makes of it, the number that follows, a word of the message
    "Prometheus is down at start": (blind("no answer from http://prometheus:9090"), 6, "no answer from"),
    "nothing is configured": (blind("no source of metrics is configured"), 6, "no source"),
    "down in mid-flight: the last sample ages": (seen(replace(IDLE, at=NOW - timedelta(seconds=61))), 6, "61 s old"),
    "slow: past its deadline, nothing new": (seen(None), 6, "nothing is measured"),
    "500s: no answer": (blind("HTTP 500 from Prometheus"), 6, "HTTP 500"),
    "HTML instead of JSON": (blind("Prometheus answered with HTML: is there a proxy in between?"), 6, "HTML"),
    "counters reset: rates unknown for a window": (
        seen(RESET),
        6,
        "counters were reset",
    ),
    "clock skew: scrapes of the future": (seen(replace(IDLE, at=NOW + timedelta(seconds=90))), 6, "a clock is wrong"),
    "duplicate series that contradict each other": (
        seen(replace(IDLE, running=None, trouble=("two values of running for one engine",))),
        6,
        "two values of running",
    ),
    "NaN": (seen(replace(IDLE, arrivals_s=nan)), 6, "arrivals unknown"),
    "an infinite rate": (seen(replace(IDLE, arrivals_high_s=inf)), 6, "99th percentile unknown"),
    "a negative rate": (seen(replace(IDLE, waiting=-1.0)), 6, "waiting unknown"),
    "half of the replicas report": (seen(replace(IDLE, reporting=3)), 6, "3 of 6 ready replicas report"),
    "half of them report, and queues grow there": (seen(replace(BUSY, reporting=3)), 8, "are to be carried"),
    "rates unknown, and queues grow": (seen(replace(RESET, waiting=15_000.0)), 8, "14994 wait"),
    "lengths unknown while requests end": (seen(replace(IDLE, output_tokens=None)), 6, "lengths"),
    "a histogram that contradicts itself": (
        seen(replace(IDLE, trouble=("inter-token latency: a sum without a count",))),
        6,
        "the inter-token latency unknown",
    ),
    "missing DCGM: power is predicted": (seen(BUSY), 8, "are to be carried"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_decision_under_a_fault(fault: str) -> None:
    world, desired, word = FAULTS[fault]
    decision = world.decide()
    assert decision.desired == desired, decision.message
    assert word in decision.message
    assert decision.state.lower_since is None, "what is not known counts as no time of little load"
    if desired == 6:
        assert (decision.reason, decision.known) == (Reason.METRICS_UNKNOWN, False)


def test_without_a_fault_they_would_be_fewer() -> None:
    assert seen(IDLE).decide().desired == 1


def test_a_sample_within_the_limits_counts() -> None:
    for age in (60, -60):
        assert seen(replace(IDLE, at=NOW - timedelta(seconds=age))).decide().desired == 1


def test_a_wait_begins_anew_after_the_fault() -> None:
    held = blind("down").decide()
    again = seen(IDLE).after(15, held).decide()
    assert (again.desired, again.reason) == (6, Reason.HELD)
    assert again.state.lower_since == NOW + timedelta(seconds=15)


def test_what_is_known_of_most_still_calls_for_more() -> None:
    """A floor of the load is enough to grow."""
    decision = seen(replace(BUSY, reporting=5)).decide()
    assert (decision.desired, decision.known) == (8, False)


def test_while_all_start_a_gateway_may_tell_of_more() -> None:
    world = SCALED.running(2, ready=0)
    waits = world.under(0.0, reporting=0, gateway_waiting=20_000.0).decide()
    assert waits.desired > 2
    quiet = world.under(0.0, reporting=0).decide()
    assert (quiet.desired, quiet.reason) == (2, Reason.METRICS_UNKNOWN)
    assert "no replica is ready" in quiet.message


ZERO = scaled(least=0)


def zero(load: LoadSample | None, busy_ago: float = 601.0, *, running: int = 1) -> Scaled:
    state = ScaleState(desired=running, busy=NOW - timedelta(seconds=busy_ago))
    world = ZERO.running(running) if running else ZERO
    return replace(world, load=load, view=replace(world.view, scale=state))


QUIET = a_load(0.0)


@pytest.mark.parametrize(
    ("load", "busy_ago", "desired"),
    [
        (QUIET, 601.0, 0),
        (QUIET, 599.0, 1),
        (replace(QUIET, running=1.0), 601.0, 1),
        (replace(QUIET, completions_s=0.01), 601.0, 1),
        (replace(QUIET, gateway_waiting=1.0), 601.0, 1),
        (replace(QUIET, gateway_waiting=None), 601.0, 1),
        (replace(QUIET, running=None), 601.0, 1),
        (replace(QUIET, reporting=0), 601.0, 1),
        (replace(QUIET, at=NOW - timedelta(minutes=2)), 601.0, 1),
        (None, 601.0, 1),
    ],
)
def test_to_zero_only_what_is_known_to_be_idle(load: LoadSample | None, busy_ago: float, desired: int) -> None:
    decision = zero(load, busy_ago).decide()
    assert decision.desired == desired
    assert (decision.reason is Reason.IDLE) == (desired == 0)
    seen_busy = load is None or load != QUIET
    assert decision.state.busy == (NOW if seen_busy else NOW - timedelta(seconds=busy_ago))


def test_not_to_zero_where_the_user_keeps_one() -> None:
    world = replace(scaled(least=1).running(1), load=QUIET).with_state(1, busy=NOW - timedelta(days=1))
    assert world.decide().desired == 1


def test_from_zero_by_what_a_gateway_holds() -> None:
    asleep = zero(a_load(0.0, reporting=0), running=0)
    still = asleep.decide()
    assert (still.desired, still.reason, still.known) == (0, Reason.IDLE, True)
    knock = replace(asleep, load=a_load(0.0, reporting=0, gateway_waiting=3.0)).decide()
    assert (knock.desired, knock.reason) == (1, Reason.WOKEN)
    assert knock.state.busy == NOW
    crowd = replace(asleep, load=a_load(0.0, reporting=0, gateway_waiting=3000.0)).decide()
    assert crowd.desired > 1


def test_at_zero_nobody_can_tell_without_a_gateway() -> None:
    decision = zero(a_load(0.0, reporting=0, gateway_waiting=None), running=0).decide()
    assert (decision.desired, decision.reason) == (0, Reason.METRICS_UNKNOWN)
    assert "at a gateway" in decision.message
