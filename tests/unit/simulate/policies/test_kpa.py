"""Knative's autoscaler: windows, panic and the way to zero, tick by tick."""

from __future__ import annotations

from slmpack.simulate.policies.base import Bounds, Scaler
from slmpack.simulate.policies.kpa import KpaRule
from tests.unit.simulate.policies.looks import ANY, ask, look

ZERO = Bounds(least=0, most=32)


def _run(kpa: Scaler, since: int, until: int, loads: list[int], *, starting: int = 0) -> list[int]:
    """One look a second; what each answered."""
    return [ask(kpa, look(float(now), loads, starting=starting, arrived=1)) for now in range(since, until)]


def test_it_decides_every_two_seconds() -> None:
    kpa = KpaRule(target=10.0).scaler((ANY,))

    assert ask(kpa, look(0.0, [10])) == 1
    assert ask(kpa, look(1.0, [100])) == 1  # no tick
    assert ask(kpa, look(2.0, [100])) == 7  # (10 + 100 + 100) / 3 = 70
    assert kpa.period_s == 1.0


def test_panic_begins_at_twice_what_is_ready_on_the_six_second_mean() -> None:
    kpa = KpaRule(target=10.0).scaler((ANY,))
    assert set(_run(kpa, 0, 60, [10])) == {1}

    # At 60: panic (5 x 10 + 70) / 6 = 20 -> 2 = twice 1; stable (59 x 10 + 70) / 60 = 11 -> 2.
    assert ask(kpa, look(60.0, [70])) == 2
    # At 62: panic (3 x 10 + 3 x 70) / 6 = 40 -> 4; stable (57 x 10 + 3 x 70) / 60 = 13 -> 2: the panic window rules.
    ask(kpa, look(61.0, [70], starting=1))
    assert ask(kpa, look(62.0, [70], starting=1)) == 4


def test_twice_what_is_ready_is_enough_for_panic() -> None:
    kpa = KpaRule(target=10.0).scaler((ANY,))
    assert set(_run(kpa, 0, 60, [5])) == {1}

    # Panic (5 x 5 + 95) / 6 = 20 -> 2; stable (59 x 5 + 95) / 60 = 6.5 -> 1.
    assert ask(kpa, look(60.0, [95])) == 2


def test_in_panic_it_never_goes_down_and_leaves_after_sixty_quiet_seconds() -> None:
    kpa = KpaRule(target=10.0).scaler((ANY,))
    _run(kpa, 0, 60, [10])
    assert ask(kpa, look(60.0, [130])) == 3  # panic (50 + 130) / 6 = 30
    # Three pods are ready and next to nothing comes. The panic window still reads over the threshold at 62 with one
    # ready pod; with three ready pods it does not. Panic was last extended at 60: it ends at the first tick after 120.
    assert set(_run(kpa, 61, 121, [1, 1, 1])) == {3}
    # At 120 exactly 60 s are past, which is not "before": still in panic. At 122 it is out: stable mean 3 -> 1.
    assert ask(kpa, look(121.0, [1, 1, 1])) == 3
    assert ask(kpa, look(122.0, [1, 1, 1])) == 1


def test_down_to_half_at_most_in_one_tick() -> None:
    kpa = KpaRule(target=10.0).scaler((ANY,))
    six = [1, 0, 0, 0, 0, 0]
    # More than one pod at the start: it begins in panic and keeps them for 60 s.
    assert set(_run(kpa, 0, 61, six)) == {6}
    ask(kpa, look(61.0, six))
    assert ask(kpa, look(62.0, six)) == 3  # stable 1/10 -> 1, but floor(6/2)


def test_to_zero_after_a_stable_window_and_thirty_seconds_of_grace() -> None:
    kpa = KpaRule(target=10.0).scaler((ZERO,))
    _run(kpa, 0, 11, [1])
    said = [ask(kpa, look(float(now), [0], arrived=1)) for now in range(11, 130)]

    # The last bucket with a request is that of second 10: from 70 on the stable mean is 0, for 30 s more it stays.
    assert said.index(0) + 11 == 100
    assert set(said[: said.index(0)]) == {1}
    assert set(said[said.index(0) :]) == {0}


def test_a_request_in_the_grace_begins_it_anew() -> None:
    kpa = KpaRule(target=10.0).scaler((ZERO,))
    loads = [1] * 11 + [0] * 79 + [1] + [0] * 109  # in grace from 70 on, a request at 90, idle again until 200
    said = [ask(kpa, look(float(now), [load], arrived=1)) for now, load in enumerate(loads)]

    assert said.index(0) == 180  # the window is empty from 150 on, and then 30 s


def test_from_zero_at_the_first_request() -> None:
    kpa = KpaRule(target=10.0).scaler((ZERO,))
    assert ask(kpa, look(0.0)) == 0

    assert ask(kpa, look(1.0, gateway=1, arrived=1)) == 1  # no tick is due: the activator pokes it


def test_a_request_within_one_second_keeps_the_last_replica() -> None:
    kpa = KpaRule(target=10.0).scaler((ZERO,))
    said = [ask(kpa, look(float(now), [0], arrived=now // 50)) for now in range(400)]

    assert set(said) == {1}


def test_requests_at_the_activator_count() -> None:
    kpa = KpaRule(target=10.0).scaler((ZERO,))
    ask(kpa, look(0.0, gateway=50, starting=1))

    assert ask(kpa, look(2.0, gateway=50, starting=1)) == 5


def test_bounds_hold() -> None:
    kpa = KpaRule(target=10.0).scaler((Bounds(least=2, most=5),))

    assert ask(kpa, look(0.0, [500])) == 5
    assert ask(KpaRule(target=10.0).scaler((Bounds(least=2, most=5),)), look(0.0, [0])) == 2
