"""What holds of every decision, whatever is measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import ScaleState
from slmpack.domain.workload import Objective
from tests.support.builders import NOW, mps_node
from tests.support.scaling import Scaled, a_load, scaled

EXAMPLES = settings(max_examples=60, deadline=None)
RATES = st.floats(min_value=0.0, max_value=2000.0)
MAYBE = st.none() | RATES
LOADS = st.builds(
    lambda rate, reporting, age, **changes: replace(
        a_load(rate, reporting=reporting), at=NOW - timedelta(seconds=age), **changes
    ),
    rate=RATES,
    reporting=st.integers(min_value=0, max_value=10),
    age=st.integers(min_value=-120, max_value=120),
    running=MAYBE,
    waiting=MAYBE,
    arrivals_s=MAYBE,
    arrivals_peak_s=MAYBE,
    arrivals_high_s=MAYBE,
    input_tokens=st.none() | st.floats(min_value=1, max_value=8000),
    output_tokens=st.none() | st.floats(min_value=1, max_value=4000),
    generation_tok_s=MAYBE,
    itl_s=st.none() | st.floats(min_value=0.0, max_value=10.0),
    ttft_s=MAYBE,
    kv_usage=st.none() | st.floats(min_value=0.0, max_value=1.0),
    gateway_waiting=MAYBE,
)


@cache
def world(objective: Objective, least: int, most: int, running: int) -> Scaled:
    return scaled(mps_node("a"), mps_node("b"), objective=objective, least=least, most=most).running(running)


Where = tuple[Objective, int, int, int]
WORLDS = st.tuples(st.sampled_from(Objective), st.integers(0, 2), st.integers(2, 12), st.integers(0, 5))
"""What `world` takes: a world's own words are long."""
STATES = st.builds(
    ScaleState,
    desired=st.integers(min_value=0, max_value=12),
    changed=st.none() | st.just(NOW - timedelta(hours=1)),
    lower_since=st.none() | st.just(NOW - timedelta(hours=1)),
    higher_since=st.none() | st.just(NOW - timedelta(hours=1)),
    busy=st.none() | st.just(NOW - timedelta(hours=1)),
    start_s=st.none() | st.floats(min_value=0.1, max_value=600),
)


def at(there: Scaled, state: ScaleState | None) -> Scaled:
    return replace(there, view=replace(there.view, scale=state))


@EXAMPLES
@given(WORLDS, st.none() | STATES, st.none() | LOADS)
def test_between_the_bounds_and_the_same_when_asked_again(where: Where, state: ScaleState | None, load: object) -> None:
    asked = replace(at(world(*where), state), load=load)  # type: ignore[arg-type]
    scaling = asked.demand.scaling
    assert scaling is not None
    first = asked.decide()
    assert scaling.least <= first.desired <= scaling.most
    assert first.state.desired == first.desired
    if state is not None and not scaling.least <= state.desired <= scaling.most:
        first = at(asked, first.state).decide()  # a bound that was moved is obeyed at once, and the load judged next
    again = at(asked, first.state).decide()
    assert again.desired == first.desired


@EXAMPLES
@given(WORLDS, STATES, LOADS)
def test_what_is_not_known_never_lowers(where: Where, state: ScaleState, load: object) -> None:
    decision = replace(at(world(*where), state), load=load).decide()  # type: ignore[arg-type]
    if not decision.known:
        assert decision.desired >= decision.current
    if decision.desired < decision.current:
        assert decision.reason in {Reason.LOAD_FELL, Reason.IDLE, Reason.AT_MAX}


@EXAMPLES
@given(
    st.sampled_from(Objective),
    st.integers(1, 5),
    RATES,
    RATES,
)
def test_more_load_never_wants_fewer(objective: Objective, running: int, one: float, other: float) -> None:
    there = world(objective, 1, 12, running)
    less, more = sorted((one, other))
    assert there.under(less).decide().desired <= there.under(more).decide().desired


@EXAMPLES
@given(WORLDS, st.none() | STATES, st.none() | LOADS)
def test_every_decision_says_what_it_rests_on(where: Where, state: ScaleState | None, load: object) -> None:
    decision = replace(at(world(*where), state), load=load).decide()  # type: ignore[arg-type]
    assert decision.message
    assert not decision.message.endswith(".")
    names = [it.name for it in decision.figures]
    assert len(names) == len(set(names)) <= 32
    assert {"start", "ready"} <= set(names)
