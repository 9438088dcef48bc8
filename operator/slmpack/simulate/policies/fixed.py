"""`fixed`: the same number of replicas for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmpack.simulate.policies.base import Bounds, Scaler, Seen

__all__ = ["FixedRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRule:
    """`replicas` of every tenant, or as near as its bounds allow."""

    replicas: int
    period_s: float = 60.0

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """The same answer at every look."""
        return _Fixed(self, tuple(bounds))


class _Fixed:
    """Answers with the rule's number."""

    def __init__(self, rule: FixedRule, bounds: tuple[Bounds, ...]) -> None:
        self._rule = rule
        self._bounds = bounds

    @property
    def period_s(self) -> float:
        return self._rule.period_s

    def decide(self, seen: Seen) -> dict[int, int]:
        return {one.tenant: self._bounds[one.tenant].clamp(self._rule.replicas) for one in seen.tenants}
