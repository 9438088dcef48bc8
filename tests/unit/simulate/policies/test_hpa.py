"""The HPA's arithmetic, step by step, from replica_calculator.go and horizontal.go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.simulate.policies.base import Bounds, Seen
from slmpack.simulate.policies.horizontal import (
    BEHAVIOUR,
    Behaviour,
    Governor,
    PodSamples,
    Rate,
    from_external,
    from_pods,
)
from slmpack.simulate.policies.hpa import HpaRule
from tests.unit.simulate.policies.looks import ANY, ask, look


@pytest.mark.parametrize(
    ("measured", "missing", "unready", "replicas", "expected"),
    [
        ([11.0, 11.0], 0, 0, 2, 2),  # ratio 1.1: within the tolerance, whose edge belongs to it
        ([9.0, 9.0], 0, 0, 2, 2),  # ratio .9
        ([11.1, 11.1], 0, 0, 2, 3),  # 1.11 x 2 = 2.22
        ([8.0, 8.0, 8.0], 0, 0, 3, 3),  # .8 x 3 = 2.4
        ([6.0, 6.0, 6.0], 0, 0, 3, 2),  # .6 x 3 = 1.8
        ([30.0], 0, 0, 1, 3),
        ([0.0, 0.0], 0, 0, 2, 0),  # the bounds are the governor's
        # up, one pod without a sample counts as 0: 40/2/10 = 2, 2 x 2 = 4 pods instead of 4 x 1 + ...
        ([40.0], 1, 0, 2, 4),
        # up, (12+0)/2/10 = .6 turns the direction: keep
        ([12.0], 1, 0, 2, 2),
        # up, (21+0)/2/10 = 1.05 is within the tolerance: keep
        ([21.0], 1, 0, 2, 2),
        # down, a missing pod counts as the target: (2+10)/2/10 = .6 -> 2 x .6 = 1.2
        ([2.0], 1, 0, 2, 2),
        ([2.0, 2.0], 1, 0, 3, 2),  # (2+2+10)/3/10 = .467 -> 1.4
        # pending pods count as 0 upwards: 60/3/10 = 2 -> 6
        ([60.0], 0, 2, 3, 6),
        # and not at all downwards: .4 x 2 = .8
        ([4.0, 4.0], 0, 2, 4, 1),
        # never against the direction: (24+0+0)/2 pods = 1.2 -> 3 of 2 counted, but 5 are there: keep
        ([24.0], 1, 0, 5, 5),
        ([12.0], 1, 0, 5, 5),  # the direction turns: keep, however many there are
        ([8.0, 8.0, 8.0], 2, 0, 3, 3),  # (24 + 20)/5/10 = .88 -> 4.4: more pods than there should be, never up
        ([9.5, 9.5], 0, 2, 4, 4),  # pending pods are not looked at downwards: .95 is within the tolerance
        ([], 3, 0, 3, 3),  # no sample at all: an error, nothing changes
    ],
)
def test_a_pods_metric(measured: list[float], missing: int, unready: int, replicas: int, expected: int) -> None:
    pods = PodSamples(measured=measured, missing=missing, unready=unready)

    assert from_pods(pods, target=10.0, replicas=replicas) == expected


@pytest.mark.parametrize(
    ("usage", "replicas", "expected"),
    [(11.0, 1, 1), (11.5, 1, 2), (20.0, 2, 2), (8.0, 1, 1), (0.0, 3, 0), (95.0, 4, 10)],
)
def test_an_external_metric(usage: float, replicas: int, expected: int) -> None:
    assert from_external(usage=usage, target=10.0, replicas=replicas) == expected


def test_without_behaviour_up_to_twice_or_four_and_down_after_five_minutes() -> None:
    governor = Governor(behaviour=None, bounds=ANY)

    assert governor.settle(now=0.0, current=1, wish=20) == 4  # the least limit
    assert governor.settle(now=15.0, current=4, wish=20) == 8  # twice
    assert governor.settle(now=30.0, current=8, wish=2) == 16  # the highest of the last 300 s is still 20
    assert governor.settle(now=45.0, current=16, wish=2) == 20
    assert governor.settle(now=300.0, current=20, wish=3) == 20  # 15 s + 300 s is not past
    assert governor.settle(now=315.0, current=20, wish=2) == 3  # now the highest is what was wished at 300 s


def test_the_first_recommendation_is_what_is_there() -> None:
    governor = Governor(behaviour=None, bounds=ANY)

    assert governor.settle(now=0.0, current=6, wish=1) == 6
    assert governor.settle(now=299.0, current=6, wish=1) == 6
    assert governor.settle(now=300.0, current=6, wish=1) == 1


def test_the_default_behaviour_lets_four_or_twice_in_fifteen_seconds() -> None:
    governor = Governor(behaviour=BEHAVIOUR, bounds=ANY)

    assert governor.settle(now=0.0, current=2, wish=30) == 6  # 2 + 4
    assert governor.settle(now=5.0, current=6, wish=30) == 6  # still the period of those 4: start is 2
    assert governor.settle(now=15.0, current=6, wish=30) == 12  # twice 6
    assert governor.settle(now=30.0, current=12, wish=30) == 24
    assert governor.settle(now=45.0, current=24, wish=30) == 30


def test_windows_of_both_directions() -> None:
    calm = Behaviour(up_window_s=60.0, down_window_s=60.0)
    governor = Governor(behaviour=calm, bounds=ANY)

    assert governor.settle(now=0.0, current=2, wish=6) == 2  # the lowest of the window is the 2 it began with
    assert governor.settle(now=15.0, current=2, wish=6) == 2
    assert governor.settle(now=60.0, current=2, wish=5) == 5  # of 6 and 5 the lower
    assert governor.settle(now=75.0, current=5, wish=1) == 5  # the highest of the window is 5
    assert governor.settle(now=120.0, current=5, wish=1) == 1


def test_a_slow_rate_down_takes_one_pod_a_minute() -> None:
    slow = Behaviour(down_window_s=0.0, down=(Rate(pods=1, per_s=60.0),))
    governor = Governor(behaviour=slow, bounds=ANY)

    assert governor.settle(now=0.0, current=4, wish=1) == 3
    assert governor.settle(now=30.0, current=3, wish=1) == 3
    assert governor.settle(now=60.0, current=3, wish=1) == 2


def test_what_was_taken_in_the_period_comes_back_freely() -> None:
    rules = Behaviour(down_window_s=0.0, up=(Rate(pods=1, per_s=60.0),))
    governor = Governor(behaviour=rules, bounds=ANY)

    assert governor.settle(now=0.0, current=6, wish=3) == 3
    assert governor.settle(now=15.0, current=3, wish=9) == 7  # the period began with 6


def test_bounds_hold() -> None:
    governor = Governor(behaviour=BEHAVIOUR, bounds=Bounds(least=2, most=5))

    assert governor.settle(now=0.0, current=3, wish=30) == 5
    assert governor.settle(now=299.0, current=5, wish=0) == 5
    assert governor.settle(now=300.0, current=5, wish=0) == 2


def test_it_acts_on_the_sample_of_the_look_before() -> None:
    hpa = HpaRule(target=10.0).scaler((ANY,))

    assert ask(hpa, look(0.0, [40])) == 1  # no sample yet
    assert ask(hpa, look(15.0, [0])) == 4  # the 40 of before
    assert ask(hpa, look(30.0, [0], starting=3)) == 4  # 0, three without a sample at the target: .75 -> 3, held 300 s


def test_starting_pods_hold_it_back_and_unplaced_ones_too() -> None:
    hpa = HpaRule(target=10.0).scaler((ANY,))
    ask(hpa, look(0.0, [24]))

    assert ask(hpa, look(15.0, [24])) == 3  # 2.4
    assert ask(hpa, look(30.0, [24], starting=1)) == 3  # (24 + 0 + 0)/3 = 8 turns the direction: keep


def test_pods_without_a_sample_and_pods_without_room_keep_it_within_the_tolerance() -> None:
    hpa = HpaRule(target=10.0).scaler((ANY,))
    ask(hpa, look(0.0, [31]))
    assert ask(hpa, look(15.0, [41])) == 4

    assert ask(hpa, look(30.0, [41], starting=3)) == 4  # 41/4/10 = 1.025; by the one sample alone it were 5
    assert ask(hpa, look(45.0, [41])) == 4  # the same with three that no node has room for


def test_below_its_least_it_goes_there_first() -> None:
    hpa = HpaRule(target=10.0).scaler((Bounds(least=0, most=4),))

    assert hpa.period_s == 15.0
    assert ask(hpa, look(0.0)) == 1  # never to zero without the gate


def test_every_tenant_has_an_hpa_of_its_own() -> None:
    hpa = HpaRule(target=10.0).scaler((ANY, ANY))
    one, second = look(0.0, [30]), replace(look(0.0, [1]), tenant=1)
    hpa.decide(Seen(now=0.0, tenants=(one, second)))

    assert hpa.decide(Seen(now=15.0, tenants=(replace(one, now=15.0), replace(second, now=15.0)))) == {0: 3, 1: 1}
