"""What of a scale decision status says anew: changes at once, figures seldom, nothing twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from slmpack.domain.interval import Basis, Interval
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.scale_news import Told, frozen, headlines, scaling_facts, tell
from slmpack.domain.snapshot import DeploymentView
from tests.support.builders import NOW, a_deployment

SPEC = ScalingSpec(least=1, most=8)
TO_ZERO = replace(SPEC, least=0)
STATE = ScaleState(desired=2, changed=NOW - timedelta(hours=1), went_up=True)
SECOND = timedelta(seconds=1)


def figure(name: str = "demand", value: float = 10.0) -> Figure:
    return Figure(name=name, value=value, unit="requests/s", basis="measured")


def decision(*, state: ScaleState = STATE, **changes: Any) -> ScaleDecision:
    steady = ScaleDecision(
        desired=2,
        current=2,
        wished=2,
        reason=Reason.STEADY,
        message="10 requests/s",
        state=state,
        known=True,
        figures=(figure(),),
    )
    return replace(steady, **changes)


def view(told: Told | None = None) -> DeploymentView:
    """The deployment as the next cycle sees it."""
    if told is None:
        return a_deployment()
    return replace(a_deployment(), scale=told.state, scale_note=told.note)


SAID = tell(view(), decision(), SPEC, now=NOW)


def after(found: ScaleDecision, *, seconds: float = 15, spec: ScalingSpec = SPEC, said: Told = SAID) -> Told:
    return tell(view(said), found, spec, now=NOW + timedelta(seconds=seconds))


def test_the_first_decision_is_told_to_the_second_and_to_three_digits() -> None:
    found = tell(
        view(),
        decision(
            state=ScaleState(desired=2, changed=NOW + timedelta(milliseconds=5), busy=NOW + timedelta(microseconds=1)),
            figures=(figure(value=12.3456), figure(value=float("nan"))),
            power_w=Interval(low=300.0, expected=350.0, high=400.0, basis=Basis.MODELLED),
        ),
        SPEC,
        now=NOW + timedelta(milliseconds=700),
    )
    assert found.state == ScaleState(desired=2, changed=NOW, busy=NOW)
    assert (found.note.at, found.note.message) == (NOW, "10 requests/s")
    assert found.note.figures == (figure(value=12.3),), "what is no number is no figure"
    assert "W (" in found.note.power


@pytest.mark.parametrize("seconds", [0, 15, 3600])
def test_an_unchanged_decision_is_no_news_at_any_time(seconds: float) -> None:
    assert after(decision(), seconds=seconds) == SAID


@pytest.mark.parametrize(
    "changed",
    [
        {"known": False},
        {"reason": Reason.HELD},
        {"refused": Reason.POWER_CEILING},
        {"desired": 3, "state": replace(STATE, desired=3, changed=NOW)},
        {"state": replace(STATE, lower_since=NOW)},
        {"state": replace(STATE, went_up=False)},
    ],
    ids=["known", "reason", "refused", "desired", "lower since", "direction"],
)
def test_a_changed_decision_is_told_at_once(changed: dict[str, Any]) -> None:
    found = decision(message="new words", **changed)
    told = after(found, seconds=1)
    assert told.state == found.state
    assert (told.note.message, told.note.at) == ("new words", NOW + SECOND)


@pytest.mark.parametrize(
    "moved",
    [
        {"figures": (figure(value=11.2),)},
        {"figures": (figure(value=8.9),)},
        {"figures": ()},
        {"figures": (figure("capacity"),)},
        {"wished": 3},
        {"state": replace(STATE, start_s=40.0)},
        {},
    ],
    ids=["risen", "fallen", "gone", "another", "wished", "start", "words alone"],
)
def test_moved_figures_are_told_once_a_minute(moved: dict[str, Any]) -> None:
    found = decision(message="new words", **moved)
    assert after(found, seconds=59) == SAID
    told = after(found, seconds=60)
    assert (told.note.message, told.state) == ("new words", found.state)
    assert after(found, seconds=75, said=told) == told


@pytest.mark.parametrize("value", [10.9, 9.1])
def test_a_figure_that_moved_by_less_than_a_tenth_is_not_told(value: float) -> None:
    assert after(decision(figures=(figure(value=value),), message=f"{value} requests/s"), seconds=3600) == SAID


@pytest.mark.parametrize(
    ("spec", "before", "seen", "remembered"),
    [
        (TO_ZERO, None, 0, 0),
        (TO_ZERO, 0, 59, 0),
        (TO_ZERO, 0, 60, 60),
        (replace(TO_ZERO, idle=timedelta(seconds=100)), 0, 10, 10),
        (replace(TO_ZERO, idle=timedelta(seconds=100)), 0, 9, 0),
        (TO_ZERO, 0, None, 0),
        (SPEC, 0, 600, 0),
    ],
    ids=["first", "too soon", "a minute", "a tenth", "less", "unknown now", "never to zero"],
)
def test_when_a_request_was_seen_is_remembered_coarsely_and_only_where_it_matters(
    spec: ScalingSpec, before: int | None, seen: int | None, remembered: int
) -> None:
    def at(seconds: int | None) -> datetime | None:
        return None if seconds is None else NOW + seconds * SECOND

    said = tell(view(), decision(state=replace(STATE, busy=at(before))), spec, now=NOW)
    found = after(decision(state=replace(STATE, busy=at(seen))), spec=spec, said=said)
    assert found.state.busy == at(remembered)
    assert found.note == said.note


def test_a_rejected_spec_forgets_no_number() -> None:
    assert frozen(view()) is None
    kept = frozen(view(SAID))
    assert kept is not None
    assert (kept.state, kept.note.reason, kept.note.known) == (SAID.state, Reason.FROZEN, False)
    assert frozen(view(kept)) == kept, "no news the next time"
    without_note = frozen(replace(view(SAID), scale_note=None))
    assert without_note is not None
    assert without_note.state == SAID.state


@pytest.mark.parametrize(
    ("changes", "active", "limited"),
    [
        ({}, ("True", Reason.STEADY), ("False", Reason.STEADY)),
        ({"known": False, "reason": Reason.METRICS_UNKNOWN}, ("False", Reason.METRICS_UNKNOWN), ("False", None)),
        ({"refused": Reason.AT_MAX}, ("True", Reason.STEADY), ("True", Reason.AT_MAX)),
        ({"refused": Reason.DOES_NOT_PAY}, ("True", Reason.STEADY), ("True", Reason.DOES_NOT_PAY)),
        ({"reason": Reason.AT_MIN}, ("True", Reason.AT_MIN), ("True", Reason.AT_MIN)),
        ({"reason": Reason.FROZEN}, ("Unknown", Reason.FROZEN), ("Unknown", Reason.FROZEN)),
    ],
)
def test_conditions_as_users_of_autoscalers_know_them(
    changes: dict[str, Any], active: tuple[str, Reason], limited: tuple[str, Reason | None]
) -> None:
    facts = {kind: (status, reason) for kind, status, reason, _ in scaling_facts(replace(SAID.note, **changes))}
    assert facts["ScalingActive"] == active
    assert facts["ScalingLimited"] == (limited[0], limited[1] or active[1])


def said_of(before: DeploymentView, found: ScaleDecision) -> list[Reason]:
    return [reason for reason, _ in headlines(before, tell(before, found, SPEC, now=NOW), found)]


UP = decision(desired=3, current=2, reason=Reason.LOAD_ROSE, state=replace(STATE, desired=3))
UNKNOWN = decision(known=False, reason=Reason.METRICS_UNKNOWN)
REFUSED = decision(refused=Reason.POWER_CEILING)


def test_another_number_is_an_event_with_both_and_the_reason() -> None:
    told = tell(view(SAID), UP, SPEC, now=NOW)
    assert headlines(view(SAID), told, UP) == ((Reason.LOAD_ROSE, "from 2 to 3 replicas: 10 requests/s"),)
    assert said_of(view(told), replace(UP, current=3)) == []


def test_what_is_not_known_or_is_refused_is_an_event_once() -> None:
    assert said_of(view(SAID), decision()) == []
    assert said_of(view(), decision()) == []
    assert said_of(view(), UP) == [Reason.LOAD_ROSE]
    for found, reason in ((UNKNOWN, Reason.METRICS_UNKNOWN), (REFUSED, Reason.POWER_CEILING)):
        assert said_of(view(), found) == [reason]
        assert said_of(view(SAID), found) == [reason]
        told = tell(view(SAID), found, SPEC, now=NOW)
        assert said_of(view(told), found) == []
    lowered = decision(desired=1, current=2, reason=Reason.AT_MAX, refused=Reason.AT_MAX)
    assert said_of(view(SAID), lowered) == [Reason.AT_MAX], "one reason is one event"
    held = tell(view(SAID), UNKNOWN, SPEC, now=NOW)
    assert said_of(view(held), replace(UNKNOWN, message="11 requests/s")) == []
    later = replace(held.note, message="something else")
    other = Told(state=held.state, note=later)
    assert headlines(view(held), other, UNKNOWN) == ((Reason.METRICS_UNKNOWN, "something else"),)
    refused = tell(view(SAID), REFUSED, SPEC, now=NOW)
    assert said_of(view(refused), decision(refused=Reason.AT_MAX)) == [Reason.AT_MAX]
