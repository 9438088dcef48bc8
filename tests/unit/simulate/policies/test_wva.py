"""WVA's saturation analyser v1: spare capacity, N/(N-1), transition, retention, and the chart's HPA."""

from __future__ import annotations

from slmpack.simulate.policies.base import Bounds, Scaler, TenantSeen
from slmpack.simulate.policies.wva import WvaRule
from tests.unit.simulate.policies.looks import ANY, ask, replica

ZERO = Bounds(least=0, most=8)


def _look(
    now: float, engines: list[tuple[float, int]], *, starting: int = 0, gateway: int = 0, arrived: int = 0
) -> TenantSeen:
    """Ready replicas with this KV usage and queue."""
    ready = [replica(number, kv_usage=kv, waiting=queue) for number, (kv, queue) in enumerate(engines)]
    rest = [replica(len(ready) + number, ready=False) for number in range(starting)]
    return TenantSeen(now=now, tenant=0, replicas=(*ready, *rest), gateway_waiting=gateway, arrived=arrived)


def _minute(wva: Scaler, minute: int, engines: list[tuple[float, int]]) -> int:
    """Four scrapes; the answer of the last, at which it decides."""
    return [ask(wva, _look(60.0 * minute + second, engines)) for second in (15.0, 30.0, 45.0, 60.0)][-1]


def _wva(engines: list[tuple[float, int]], **more: bool) -> Scaler:
    """Begun at 0 with these engines."""
    wva = WvaRule(**more).scaler((ANY,))
    assert ask(wva, _look(0.0, engines)) == len(engines)
    return wva


def test_one_more_when_the_mean_spare_is_below_a_trigger() -> None:
    engines = [(0.72, 0), (0.72, 0)]  # spare .08 < .1
    assert _minute(_wva(engines), 0, engines) == 3
    engines = [(0.1, 3), (0.1, 2)]  # spare 2 and 3: mean 2.5 < 3
    assert _minute(_wva(engines), 0, engines) == 3
    engines = [(0.65, 2), (0.65, 2)]  # .15 and 3: neither up nor, at twice the load, down
    assert _minute(_wva(engines), 0, engines) == 2


def test_saturated_pods_are_left_out_of_the_mean() -> None:
    engines = [(0.95, 0), (0.40, 0), (0.40, 0)]  # of the two others spare .4; load .4 x 2 on one: spare 0 -> keep
    assert _minute(_wva(engines), 0, engines) == 3


def test_when_all_are_saturated_the_spare_is_zero() -> None:
    engines = [(0.1, 9), (0.85, 0)]
    assert _minute(_wva(engines), 0, engines) == 3


def test_down_when_n_minus_one_carry_the_load() -> None:
    engines = [(0.35, 0), (0.35, 0)]  # .35 x 2/1 = .7: spare .1 is just enough
    assert _minute(_wva(engines), 0, engines) == 1
    engines = [(0.36, 0), (0.36, 0)]
    assert _minute(_wva(engines), 0, engines) == 2
    engines = [(0.46, 0)] * 3  # .46 x 3/2 = .69: spare .11
    assert _minute(_wva(engines), 0, engines) == 2
    engines = [(0.1, 1), (0.1, 1)]  # a queue of 1 x 2 leaves 3
    assert _minute(_wva(engines), 0, engines) == 1
    engines = [(0.1, 2), (0.1, 1)]  # 1.5 x 2 = 3 leaves 2
    assert _minute(_wva(engines), 0, engines) == 2
    assert _minute(_wva([(0.0, 0)]), 0, [(0.0, 0)]) == 1


def test_the_highest_of_the_last_minute_counts() -> None:
    wva = _wva([(0.0, 0)])
    ask(wva, _look(15.0, [(0.9, 0)]))
    ask(wva, _look(30.0, [(0.0, 0)]))
    ask(wva, _look(45.0, [(0.0, 0)]))

    assert ask(wva, _look(60.0, [(0.0, 0)])) == 2


def test_in_transition_nothing_moves() -> None:
    wva = _wva([(0.9, 0)])
    assert _minute(wva, 0, [(0.9, 0)]) == 2
    for second in (75.0, 90.0, 105.0):
        ask(wva, _look(second, [(0.9, 0)], starting=1))

    assert ask(wva, _look(120.0, [(0.9, 0)], starting=1)) == 2
    assert _minute(wva, 2, [(0.9, 0), (0.9, 0)]) == 3


def test_to_zero_after_ten_minutes_without_a_request_and_back_at_one() -> None:
    wva = WvaRule().scaler((ZERO,))
    assert wva.period_s == 1.0
    said = [ask(wva, _look(float(now), [(0.0, 0)], arrived=1)) for now in range(0, 721, 15)]
    assert said == [1] * 44 + [0] * 5  # the first decision after 600 s is that of 660 s

    assert ask(wva, _look(735.0, [], gateway=1, arrived=2)) == 1


def test_the_charts_hpa_waits_four_minutes_both_ways() -> None:
    wva = _wva([(0.9, 0)], charted=True)
    said = [ask(wva, _look(15.0 * tick, [(0.9, 0)])) for tick in range(1, 24)]

    # The analyser says 2 at 60 s; until 240 s after the 1 it saw last (at 45 s) the lowest of the window is 1.
    assert said.index(2) + 1 == 285 // 15
    assert set(said[: said.index(2)]) == {1}


def test_the_charts_hpa_comes_back_from_zero() -> None:
    wva = WvaRule(charted=True).scaler((ZERO,))
    ask(wva, _look(0.0, []))

    assert ask(wva, _look(1.0, [], gateway=2, arrived=2)) == 1
