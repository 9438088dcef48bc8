"""Dynamo's easy modes: one up, one down, and nothing while it scales."""

from __future__ import annotations

from slmpack.simulate.policies.base import Bounds, TenantSeen
from slmpack.simulate.policies.dynamo import DynamoRule
from tests.unit.simulate.policies.looks import ANY, ask, replica


def _look(*engines: tuple[float, int], starting: int = 0) -> TenantSeen:
    """Engines with this KV usage and so many prompt tokens waiting, of 1,000 KV tokens."""
    ready = [
        replica(number, kv_usage=kv, kv_tokens=1000, waiting_tokens=tokens)
        for number, (kv, tokens) in enumerate(engines)
    ]
    rest = [replica(len(ready) + number, ready=False) for number in range(starting)]
    return TenantSeen(now=0.0, tenant=0, replicas=(*ready, *rest), gateway_waiting=0, arrived=0)


def test_up_where_any_engine_is_over_all_of_its_cache() -> None:
    dynamo = DynamoRule().scaler((ANY,))

    assert ask(dynamo, _look((0.9, 100), (0.0, 0))) == 2  # exactly 1.0
    assert ask(dynamo, _look((0.9, 101), (0.0, 0))) == 3


def test_it_only_looks_on_while_a_start_is_under_way() -> None:
    dynamo = DynamoRule().scaler((ANY,))
    assert ask(dynamo, _look((0.9, 900))) == 2

    assert ask(dynamo, _look((0.9, 9000), starting=1)) == 2
    assert ask(dynamo, _look((0.9, 9000), (0.0, 0))) == 3


def test_down_where_all_are_below_six_tenths() -> None:
    dynamo = DynamoRule().scaler((ANY,))

    assert ask(dynamo, _look((0.59, 0), (0.6, 0))) == 2
    assert ask(dynamo, _look((0.59, 0), (0.59, 0))) == 1
    assert ask(dynamo, _look((0.0, 0))) == 1


def test_the_latency_mode_is_more_careful() -> None:
    dynamo = DynamoRule(up=0.4, down=0.1).scaler((ANY,))

    assert ask(dynamo, _look((0.3, 101))) == 2
    assert ask(dynamo, _look((0.09, 0), (0.11, 0))) == 2
    assert ask(dynamo, _look((0.09, 0), (0.09, 0))) == 1


def test_bounds_hold_and_it_keeps_one() -> None:
    dynamo = DynamoRule().scaler((Bounds(least=0, most=2),))

    assert ask(dynamo, _look()) == 1
    assert ask(dynamo, _look((1.0, 1))) == 2
    assert ask(dynamo, _look((1.0, 1), (1.0, 1))) == 2
    assert dynamo.period_s == 5.0
