"""KubeAI: the ten-minute mean, and down only on the fourth lower tick in a row."""

from __future__ import annotations

from slmpack.simulate.policies.base import Bounds
from slmpack.simulate.policies.kubeai import KubeAiRule
from tests.unit.simulate.policies.looks import ANY, ask, look


def test_the_ring_begins_with_zeros() -> None:
    kubeai = KubeAiRule(target=1.0).scaler((ANY,))

    assert ask(kubeai, look(0.0, [60])) == 1  # 60 / 60
    assert ask(kubeai, look(10.0, [60])) == 2
    assert ask(kubeai, look(20.0, [66])) == 4  # 186 / 60 = 3.1
    assert kubeai.period_s == 10.0


def test_down_on_the_fourth_lower_tick_and_then_every_tick() -> None:
    kubeai = KubeAiRule(target=10.0, window_s=10.0).scaler((ANY,))
    assert ask(kubeai, look(0.0, [40])) == 4

    assert [ask(kubeai, look(10.0 * tick, [20, 0, 0, 0])) for tick in (1, 2, 3)] == [4, 4, 4]
    assert ask(kubeai, look(40.0, [20, 0, 0, 0])) == 2
    # scale.go does not set the count back when it scales down: the next lower tick acts at once.
    assert ask(kubeai, look(50.0, [5, 0])) == 1


def test_a_tick_that_is_not_lower_begins_the_count_anew() -> None:
    kubeai = KubeAiRule(target=10.0, window_s=10.0).scaler((ANY,))
    ask(kubeai, look(0.0, [40]))
    loads = [20, 20, 20, 40, 20, 20, 20, 20]

    said = [ask(kubeai, look(10.0 * tick, [load, 0, 0, 0])) for tick, load in enumerate(loads, start=1)]
    assert said == [4, 4, 4, 4, 4, 4, 4, 2]


def test_from_zero_the_proxy_does_not_wait_for_a_tick() -> None:
    kubeai = KubeAiRule(target=10.0).scaler((Bounds(least=0, most=8),))
    assert kubeai.period_s == 1.0
    assert ask(kubeai, look(0.0)) == 0

    assert ask(kubeai, look(1.0, gateway=1)) == 1
    assert ask(kubeai, look(2.0, starting=1, gateway=1)) == 1


def test_to_zero_when_the_mean_is() -> None:
    kubeai = KubeAiRule(target=10.0, window_s=20.0).scaler((Bounds(least=0, most=8),))
    ask(kubeai, look(0.0, [5]))

    assert [ask(kubeai, look(10.0 * tick, [0])) for tick in range(1, 6)] == [1, 1, 1, 1, 0]


def test_bounds_hold() -> None:
    kubeai = KubeAiRule(target=1.0, window_s=10.0).scaler((Bounds(least=2, most=5),))

    assert ask(kubeai, look(0.0, [500, 0])) == 5
    assert [ask(kubeai, look(10.0 * tick, [0] * 5)) for tick in range(1, 5)] == [5, 5, 5, 2]
