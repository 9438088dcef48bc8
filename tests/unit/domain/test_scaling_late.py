"""Late requests: what they say at once, and what is learned from them and from latencies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import inf

import pytest

from slmpack.domain.load import LATE, Latencies
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Pacing, ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.scale_memory import Missed, learned, missed
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.workload import Bounds
from tests.support.builders import NOW
from tests.support.scaling import Scaled, a_load, scaled

POLICY = ScalePolicy()
STEP = POLICY.mix_step
LONG_AGO = NOW - timedelta(hours=1)
OF = scaled().demand.spec_hash


def of(part: float, *, above: float, requests: float = 1000.0) -> Latencies:
    """So many of the requests above a bound, and none far above."""
    within = requests * (1 - part)
    return Latencies(at_most=((above / 2, within / 2), (above, within), (above * 4, requests), (inf, requests)))


def late(part: float, requests: float = 1000.0) -> Missed:
    return Missed(part=part, requests=requests, words="")


def world(replicas: int = 2) -> Scaled:
    spec = ScalingSpec(least=1, most=16, ttft_s=1.0, itl_s=0.05)
    return scaled(spec=spec).running(replicas).with_state(replicas, changed=LONG_AGO, went_up=True, busy=NOW)


def capacity(there: Scaled) -> float:
    return next(it.value for it in there.under(1.0).decide().figures if it.name == "capacity")


def under(there: Scaled, rate: float, **histograms: Latencies | None) -> Scaled:
    asked = there.under(rate)
    assert asked.load is not None
    return replace(asked, load=replace(asked.load, **histograms))  # type: ignore[arg-type]


def figure(decision: ScaleDecision, name: str) -> float | None:
    return next((it.value for it in decision.figures if it.name == name), None)


def test_the_bound_that_most_requests_miss_counts() -> None:
    bounds = Bounds(ttft_s=1.0, itl_s=0.05)
    sample = replace(a_load(8.0), ttft_of=of(0.02, above=1.0), tpot_of=of(0.03, above=0.05, requests=500.0))
    found = missed(sample, bounds, POLICY)
    assert found is not None
    assert found.part == pytest.approx(0.03)
    assert found.requests == 500.0
    assert found.words == "0.05 s a token"
    other = missed(replace(sample, tpot_of=None), bounds, POLICY)
    assert other is not None
    assert other.words == "a first token after 1 s"
    assert missed(sample, Bounds(), POLICY) is None
    assert missed(a_load(8.0), bounds, POLICY) is None
    tight = Bounds(ttft_s=0.1)
    assert missed(replace(sample, ttft_of=of(0.5, above=1.0)), tight, POLICY) is None, "within the first bucket"
    chance = replace(sample, ttft_of=of(0.02, above=1.0, requests=100.0), tpot_of=of(0.015, above=0.05))
    alarming = missed(chance, bounds, POLICY)
    assert alarming is not None
    assert alarming.words == "0.05 s a token", "two of a hundred are chance, 15 of a thousand are not"


@pytest.mark.parametrize(
    "histograms",
    [{"ttft_of": of(0.02, above=1.0)}, {"tpot_of": of(0.02, above=0.05)}],
)
def test_one_in_a_hundred_late_calls_for_one_more(histograms: dict[str, Latencies]) -> None:
    room = capacity(world())
    decision = under(world(), 0.6 * room, **histograms).decide()
    assert (decision.desired, decision.reason) == (3, Reason.LOAD_ROSE)
    assert "2.0% of the requests of 120 s were late" in decision.message
    assert figure(decision, "late") == pytest.approx(0.02)
    assert under(world(), 0.4 * room, **histograms).decide().desired == 2, "little load is not the cause"


@pytest.mark.parametrize(
    ("part", "requests", "age_s"),
    [(0.009, 1000.0, 3600), (0.02, 100.0, 3600), (0.02, 1000.0, 119)],
    ids=["few", "two of a hundred are chance", "the last change does not show yet"],
)
def test_what_calls_for_none(part: float, requests: float, age_s: float) -> None:
    room = capacity(world())
    there = world().with_state(2, changed=NOW - timedelta(seconds=age_s), busy=NOW)
    decision = under(there, 0.6 * room, tpot_of=of(part, above=0.05, requests=requests)).decide()
    assert (decision.desired, decision.state.correction) == (2, None)


def test_late_requests_teach_that_replicas_are_slower() -> None:
    room = capacity(world())
    first = under(world(), 0.3 * room, tpot_of=of(0.02, above=0.05)).decide()
    assert first.desired == 2
    assert first.state.correction == pytest.approx(STEP**2, abs=1e-3)
    assert first.state.corrected == NOW
    assert figure(first, "correction") == first.state.correction
    smaller = figure(first, "capacity")
    assert smaller is not None
    assert smaller < 0.95 * room
    soon = under(world(), 0.3 * room, tpot_of=of(0.02, above=0.05)).after(60, first).decide()
    assert soon.state.correction == first.state.correction, "the window still holds requests from before"
    later = under(world(), 0.3 * room, tpot_of=of(0.02, above=0.05)).after(120, first).decide()
    assert later.state.correction == pytest.approx(STEP**4, abs=1e-3)


def test_what_is_unknown_teaches_nothing() -> None:
    there = under(world(), 5.0, tpot_of=of(0.02, above=0.05))
    assert there.load is not None
    blind = replace(there, load=replace(there.load, waiting=None)).decide()
    assert (blind.known, blind.state.correction) == (False, None)


def test_more_load_than_they_carry_says_nothing_of_how_fast_they_are() -> None:
    """Nor do the late ones of it let what was learned be forgotten."""
    room, slow = capacity(world()), {"tpot_of": of(0.02, above=0.05)}
    assert under(world(), 1.1 * room, **slow).decide().state.correction is None
    learned = world().with_state(2, correction=1.5, corrected=LONG_AGO, corrected_of=OF)
    assert under(learned, 0.9 * room, **slow).decide().state.correction == 1.5, "as fast as they are believed to be"
    queued = under(world().with_state(2, start_s=2.0), 0.6 * room, **slow)
    assert queued.load is not None
    assert queued.decide().state.correction == pytest.approx(STEP**2, abs=1e-3)
    assert replace(queued, load=replace(queued.load, waiting=60 * room)).decide().state.correction is None


def told(
    state: ScaleState, measured: float | None, late: Missed | None = None, *, overloaded: bool = False
) -> ScaleState:
    return learned(state, measured, late, overloaded=overloaded, now=NOW, policy=POLICY)


def knowing(correction: float, age: timedelta = timedelta(hours=1)) -> ScaleState:
    return ScaleState(desired=2, correction=correction, corrected=NOW - age)


def test_the_first_latency_is_believed_and_a_higher_one_step_by_step() -> None:
    first = told(ScaleState(desired=2), 1.3)
    assert first.correction == pytest.approx(STEP**5, abs=1e-3)
    assert told(knowing(1.0), 1.5).correction == pytest.approx(STEP, abs=1e-3)
    assert told(knowing(1.0, timedelta(seconds=10)), 1.5).correction == 1.0, "not more than once a scrape"
    assert told(knowing(1.0), 1.0) == knowing(1.0), "nothing to write"


def test_what_was_learned_is_forgotten_slowly_and_not_while_requests_are_late() -> None:
    slow = round(STEP**6, 4)
    assert told(knowing(slow), 1.0).correction == pytest.approx(STEP**5, abs=1e-3)
    assert told(knowing(slow, timedelta(seconds=119)), 1.0).correction == slow
    assert told(knowing(slow), None).correction == slow, "a lull says nothing"
    assert told(knowing(slow), None, late(0.0)).correction == pytest.approx(STEP**5, abs=1e-3), "many in time do"
    assert told(knowing(slow), None, late(0.0, requests=200.0)).correction == slow
    assert told(knowing(0.8), None, late(0.0)).correction == 0.8
    assert told(knowing(slow), 1.0, late(0.002)).correction == pytest.approx(STEP**5, abs=1e-3)
    assert told(knowing(slow), 1.0, late(0.004)).correction == slow


def test_late_requests_are_followed_once_for_each_window_and_only_so_far() -> None:
    assert told(knowing(1.0), None, late(0.02)).correction == pytest.approx(STEP**2, abs=1e-3)
    soon = knowing(1.0, LATE - timedelta(seconds=1))
    assert told(soon, None, late(0.02)).correction == 1.0
    assert told(soon, 1.5, late(0.02)).correction == pytest.approx(STEP, abs=1e-3), "a latency is not waited for"
    assert told(ScaleState(desired=2), 1.5, late(0.02)).correction == pytest.approx(1.65, rel=0.03)
    assert told(ScaleState(desired=2), 0.8, late(0.02)).correction == pytest.approx(1.1, rel=0.03)
    assert told(knowing(1.98), None, late(0.5)).correction == pytest.approx(2.0, rel=0.03)
    top = told(knowing(1.98), None, late(0.5)).correction
    assert top is not None
    assert told(knowing(top), None, late(0.5)).correction == top


def test_what_is_remembered_holds_in_a_lull() -> None:
    """Between two bursts nothing is measured; the replicas are as slow as they were."""
    room = capacity(world())
    slow = world().with_state(2, correction=1.6, corrected=LONG_AGO, corrected_of=OF, busy=NOW)
    quiet = slow.under(1.0).decide()
    found = figure(quiet, "capacity")
    assert found is not None
    assert found < 0.75 * room
    assert quiet.state.correction == 1.6


def test_of_another_spec_nothing_is_remembered() -> None:
    there = world().with_state(2, correction=1.6, corrected=LONG_AGO, corrected_of="another", busy=NOW)
    state = there.under(1.0).decide().state
    assert (state.correction, state.corrected, state.corrected_of) == (None, None, None)
    fresh = under(there, 5.0, tpot_of=of(0.02, above=0.05)).decide().state
    assert fresh.correction == pytest.approx(STEP**2, abs=1e-3)
    assert fresh.corrected_of == OF


def test_a_replica_that_was_away_teaches_nothing() -> None:
    """One of two is back for less than the window: the other was overloaded meanwhile."""
    there = under(world(), 0.6 * capacity(world()), tpot_of=of(0.05, above=0.05))
    first, second = there.pods
    back = replace(there, pods=(first, replace(second, ready_since=NOW - timedelta(seconds=100))))
    assert (back.decide().desired, back.decide().state.correction) == (2, None)
    long = replace(there, pods=(first, replace(second, ready_since=NOW - timedelta(seconds=130))))
    assert long.decide().desired == 3


def test_near_a_tight_bound_a_correction_makes_not_next_to_nothing_of_a_replica() -> None:
    tight = scaled(spec=ScalingSpec(least=1, most=16, itl_s=0.0085)).running(2)
    plain = tight.under(1.0).decide()
    slow = tight.with_state(2, correction=1.6, corrected=LONG_AGO, corrected_of=OF, busy=NOW).under(1.0).decide()
    usual, corrected = figure(plain, "capacity"), figure(slow, "capacity")
    assert usual is not None
    assert corrected is not None
    assert corrected >= 0.999 * usual / 1.65**2


def test_before_replicas_end_a_model_that_nothing_measures_is_doubted_beside_what_is_remembered() -> None:
    """Of four, two would carry what is to be kept by the model, but not with the doubt."""
    room = capacity(world())
    state = {"lower_since": LONG_AGO, "start_s": 45.0, "corrected_of": OF, "corrected": LONG_AGO}
    there = world(4).with_state(4, correction=1.0, **state).under(0.8 * room)
    assert there.decide().desired == 4
    assert there.with_state(4, correction=1.0, **state).under(0.4 * room).decide().desired == 2


def test_a_step_that_holds_back_an_end_is_told() -> None:
    spec = ScalingSpec(least=1, most=16, down=Pacing(stabilisation=timedelta(seconds=120), most_step=1))
    there = scaled(spec=spec).running(6).with_state(6, lower_since=LONG_AGO, busy=NOW).under(0.1)
    decision = there.decide()
    assert decision.desired == 5
    assert decision.message.endswith("5 wanted, as no more may end at once")
