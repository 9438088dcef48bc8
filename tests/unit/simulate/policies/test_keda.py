"""KEDA: its polls, its cool-down and the HPA in between."""

from __future__ import annotations

from slmpack.simulate.policies.base import Bounds
from slmpack.simulate.policies.keda import KedaRule
from tests.unit.simulate.policies.looks import ANY, ask, look

ZERO = Bounds(least=0, most=8)


def test_zero_to_one_only_at_a_poll() -> None:
    keda = KedaRule(target=5.0).scaler((ZERO,))

    assert ask(keda, look(0.0)) == 0  # a poll: nothing is there
    assert ask(keda, look(15.0, gateway=3)) == 0  # no poll
    assert ask(keda, look(30.0, gateway=3)) == 1
    assert keda.period_s == 15.0


def test_one_to_zero_after_the_cool_down_since_the_last_activity() -> None:
    keda = KedaRule(target=5.0).scaler((ZERO,))
    ask(keda, look(0.0, [1]))

    for now in range(15, 301, 15):
        assert ask(keda, look(float(now), [0])) == 1
    assert ask(keda, look(315.0, [0])) == 1  # 300 s are past, but no poll
    assert ask(keda, look(330.0, [0])) == 0


def test_activity_starts_the_cool_down_anew() -> None:
    keda = KedaRule(target=5.0).scaler((ZERO,))
    ask(keda, look(0.0, [1]))
    for now in range(15, 270, 15):
        ask(keda, look(float(now), [0]))
    ask(keda, look(270.0, [2]))

    for now in range(285, 586, 15):
        assert ask(keda, look(float(now), [0])) == 1
    assert ask(keda, look(600.0, [0])) == 0


def test_between_it_is_the_hpa_on_waiting_requests_of_all_engines() -> None:
    keda = KedaRule(target=5.0).scaler((ANY,))

    assert ask(keda, look(0.0, [30], gateway=12)) == 1  # running ones do not count
    assert ask(keda, look(15.0, [30])) == 3  # 12/5 = 2.4, of the look before
    assert ask(keda, look(30.0, [30], starting=2)) == 3  # no pod waits now: 0, held for 300 s


def test_in_flight_counts_running_ones_too() -> None:
    keda = KedaRule(target=10.0, metric="in_flight").scaler((ANY,))
    ask(keda, look(0.0, [30], gateway=5))

    assert ask(keda, look(15.0, [30])) == 4


def test_a_least_of_one_never_goes_to_zero() -> None:
    keda = KedaRule(target=5.0).scaler((ANY,))
    ask(keda, look(0.0, [0]))

    assert {ask(keda, look(float(now), [0])) for now in range(15, 900, 15)} == {1}
