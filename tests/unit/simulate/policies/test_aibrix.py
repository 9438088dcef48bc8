"""AIBrix's APA: tolerances, the bounds of one step, the guard for pending replicas, the cool-down."""

from __future__ import annotations

from slmpack.simulate.policies.aibrix import AibrixRule
from slmpack.simulate.policies.base import Bounds
from tests.unit.simulate.policies.looks import ANY, ask, look

QUICK = AibrixRule(target=10.0, window_s=10.0, cooldown_s=10.0)
"""Windows of one look."""


def test_within_a_tenth_nothing_changes() -> None:
    apa = QUICK.scaler((ANY,))

    assert ask(apa, look(0.0, [11, 11])) == 2
    assert ask(apa, look(10.0, [9, 9])) == 2
    assert ask(apa, look(20.0, [12, 11])) == 3  # 1.15 x 2 = 2.3


def test_at_most_twice_and_at_least_half_in_one_step() -> None:
    apa = QUICK.scaler((ANY,))

    assert ask(apa, look(0.0, [90, 90])) == 4  # 18 wished
    assert ask(apa, look(10.0, [0] * 4)) == 2
    assert ask(apa, look(20.0, [0] * 2)) == 1
    assert ask(apa, look(30.0, [0])) == 1  # floor(1/2) = 0, but a pod stays


def test_the_mean_of_the_window_decides() -> None:
    apa = AibrixRule(target=10.0).scaler((ANY,))

    assert ask(apa, look(0.0, [10])) == 1
    assert ask(apa, look(10.0, [10])) == 1
    assert ask(apa, look(20.0, [16])) == 2  # (10 + 10 + 16) / 3 = 12
    apa = AibrixRule(target=10.0, window_s=20.0).scaler((ANY,))
    said = [ask(apa, look(10.0 * tick, [load])) for tick, load in enumerate((10, 10, 12, 12))]
    assert said == [1, 1, 1, 2]  # (10 + 12) / 2 = 11 is within the tolerance, 12 is not


def test_pending_replicas_hold_a_step_up_back() -> None:
    apa = QUICK.scaler((ANY,))
    assert ask(apa, look(0.0, [20])) == 2

    # Wished 4 (twice); with the starting one as 0: 20 x 1 / 10 = 2 = what is set.
    assert ask(apa, look(10.0, [20], starting=1)) == 2
    # 34 x 1 / 10 = 3.4 -> 4, not more than the wish.
    assert ask(apa, look(20.0, [34], starting=1)) == 4


def test_what_is_ready_counts_in_a_step_up() -> None:
    apa = QUICK.scaler((ANY,))
    assert ask(apa, look(0.0, [15, 15])) == 3

    # Wished 6 (twice); the starting one as 0: 20 x 2 / 10 = 4.
    assert ask(apa, look(10.0, [20, 20], starting=1)) == 4


def test_pending_replicas_hold_a_step_down_back() -> None:
    apa = QUICK.scaler((ANY,))
    assert ask(apa, look(0.0, [20, 20])) == 4

    # Wished 2 (half); with the two starting ones at the target: (1 x 2 + 10 x 2) / 10 = 2.2 -> 3.
    assert ask(apa, look(10.0, [1, 1], starting=2)) == 3


def test_down_waits_for_the_highest_wish_of_five_minutes() -> None:
    apa = AibrixRule(target=10.0, window_s=10.0).scaler((ANY,))
    assert ask(apa, look(0.0, [40, 40])) == 4

    said = [ask(apa, look(10.0 * tick, [1] * 4)) for tick in range(1, 31)]
    assert said[:29] == [4] * 29
    assert said[29] == 2  # at 300 s the first wish is out of the window


def test_as_coded_down_takes_the_lowest_wish_at_once() -> None:
    apa = AibrixRule(target=10.0, window_s=10.0, as_coded=True).scaler((ANY,))
    assert ask(apa, look(0.0, [10])) == 1  # the wish of 1 stays in the history
    assert ask(apa, look(10.0, [40])) == 2
    assert ask(apa, look(20.0, [40, 40])) == 4

    assert ask(apa, look(30.0, [7] * 4)) == 1  # wished .7 x 4 = 2.8 -> 3, but the lowest so far is 1


def test_without_a_ready_pod_nothing_is_known() -> None:
    apa = QUICK.scaler((Bounds(least=0, most=4),))

    assert ask(apa, look(0.0)) == 1
    assert ask(apa, look(10.0, starting=1, gateway=99)) == 1
    assert apa.period_s == 10.0
