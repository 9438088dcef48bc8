"""Which settings are worth a further seed: those that may still be the cheapest of their kind to keep a bar.

Costs only rise, and attainment only falls, as seeds are added to the worst decile. So a row's figures so far are
bounds, and the search is exact: of each kind the row with the lowest bound is played on until it is whole, as
best-first search does. What it leaves is dearer, or misses the bar, whatever its further seeds would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from slmpack.simulate.results import Figures
from slmpack.simulate.rows import ORACLE, TARGET, Bar, Row, bar_beside, worst
from slmpack.simulate.run import OURS

__all__ = ["closed_part", "open_places"]

_COSTS: tuple[Callable[[Figures], float], ...] = (lambda one: one.gpu_hours, lambda one: one.j_per_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """For the cheapest of some rows that keeps a bar."""

    places: tuple[int, ...]
    bar: Bar
    cost: Callable[[Figures], float]

    def next_place(self, rows: Sequence[Row], seeds: int) -> int | None:
        """Of the row that has to be played on; None: the search is over."""
        hopeful = [place for place in self.places if _may_keep(rows[place], self.bar, seeds)]
        if not hopeful:
            return None
        best = min(hopeful, key=lambda place: _least(rows[place], self.cost, seeds))
        return None if len(rows[best].seeds) == seeds else best


def open_places(rows: Sequence[Row], seeds: int) -> set[int]:
    """Places of the rows that need one more seed; all rows have one, ours all. Empty: nothing is left to find."""
    found = {search.next_place(rows, seeds) for search in _searches(rows)}
    return {place for place in found if place is not None}


def closed_part(rows: Sequence[Row], seeds: int) -> float:
    """Part of the searches that are over."""
    searches = list(_searches(rows))
    return sum(each.next_place(rows, seeds) is None for each in searches) / len(searches)


def _searches(rows: Sequence[Row]) -> Iterator[_Search]:
    """Of each start: baselines by placement, and oracles, by each cost; whether any oracle keeps the target, too."""
    for start in sorted({row.setting.start for row in rows}):
        here = [place for place, row in enumerate(rows) if row.setting.start == start]
        ours = next((rows[place] for place in here if rows[place].setting.policy == OURS), None)
        bar = TARGET if ours is None else bar_beside(ours)
        kinds: dict[tuple[bool, str], list[int]] = {}
        for place in here:
            setting = rows[place].setting
            if setting.policy != OURS:
                kinds.setdefault((setting.policy == ORACLE, setting.placement), []).append(place)
        for (oracle, _), places in kinds.items():
            for cost in _COSTS:
                yield _Search(places=tuple(places), bar=bar, cost=cost)
            if oracle and bar != TARGET:
                yield _Search(places=tuple(places), bar=TARGET, cost=_COSTS[0])


def _may_keep(row: Row, bar: Bar, seeds: int) -> bool:
    slo = worst([one.slo_attainment for one in row.figures], high=True, of=seeds)
    tenant = worst([one.worst_tenant_slo for one in row.figures], high=True, of=seeds)
    return slo >= bar.slo and tenant >= bar.worst_tenant


def _least(row: Row, cost: Callable[[Figures], float], seeds: int) -> float:
    """What it costs at least; seconds or joules as `cost`."""
    return worst([cost(one) for one in row.figures], high=False, of=seeds)
