"""Every baseline by its name, with the points at which it is swept; the peer's default is the one meant by the name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmpack.simulate.policies.aibrix import AibrixRule
from slmpack.simulate.policies.base import Rule
from slmpack.simulate.policies.dynamo import DynamoRule
from slmpack.simulate.policies.fixed import FixedRule
from slmpack.simulate.policies.hpa import HpaRule
from slmpack.simulate.policies.keda import KedaRule
from slmpack.simulate.policies.kpa import KpaRule
from slmpack.simulate.policies.kubeai import KubeAiRule
from slmpack.simulate.policies.wva import WvaRule

__all__ = ["BASELINES", "Baseline", "Point"]

_TARGETS = (1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0)
"""Requests in flight for a replica: from hardly any to past the knee of the models here."""
_QUEUES = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)
_KV = (0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
_UPS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_REPLICAS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a policy: what was swept, in words, and the rule."""

    label: str
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A policy: the setting that its name alone means, and all that are swept."""

    name: str
    usual: Point
    points: tuple[Point, ...]


def _baseline(name: str, usual: int, points: list[Point]) -> Baseline:
    return Baseline(name=name, usual=points[usual], points=tuple(points))


_ALL = (
    _baseline("fixed", 0, [Point(f"N={count}", FixedRule(replicas=count)) for count in _REPLICAS]),
    _baseline("hpa", 6, [Point(f"target={target:g}", HpaRule(target=target)) for target in _TARGETS]),
    _baseline(
        "keda",
        2,
        [Point(f"waiting={target:g}", KedaRule(target=target)) for target in _QUEUES]
        + [Point(f"in flight={target:g}", KedaRule(target=target, metric="in_flight")) for target in _TARGETS[2:]],
    ),
    _baseline("kpa", 6, [Point(f"target={target:g}", KpaRule(target=target)) for target in _TARGETS]),
    _baseline("kubeai", 6, [Point(f"targetRequests={target:g}", KubeAiRule(target=target)) for target in _TARGETS]),
    _baseline("aibrix", 6, [Point(f"target={target:g}", AibrixRule(target=target)) for target in _TARGETS]),
    _baseline(
        "wva",
        5,
        [Point(f"kv={kv:g}", WvaRule(kv_threshold=kv)) for kv in _KV]
        + [Point(f"kv={kv:g} hpa", WvaRule(kv_threshold=kv, charted=True)) for kv in _KV],
    ),
    _baseline(
        "dynamo",
        5,
        [Point(f"up={up:g} down={0.6 * up:g}", DynamoRule(up=up, down=0.6 * up)) for up in _UPS]
        + [Point(f"up={up:g} down={0.25 * up:g}", DynamoRule(up=up, down=0.25 * up)) for up in _UPS],
    ),
)

BASELINES: Mapping[str, Baseline] = {one.name: one for one in _ALL}
"""By name. Ours and the oracle are not among them: the one is the operator itself, the other has to know the trace."""
