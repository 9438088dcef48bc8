"""What settings come to over seeds: rows, bars to keep, the cheapest row that keeps one, and what each step saves.

The worst decile of the seeds counts, for latency and for cost alike: with fewer than ten seeds, the worst one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slmpack.simulate.oracle import OracleRule
from slmpack.simulate.placement import PlacementName
from slmpack.simulate.policies.base import Rule
from slmpack.simulate.results import Figures
from slmpack.simulate.run import OURS

__all__ = ["ORACLE", "TARGET", "Bar", "Row", "Setting", "Split", "bar_beside", "cheapest", "split", "worst"]

ORACLE = "oracle"
_DECILE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One point of a sweep."""

    policy: str
    """Of the catalogue, `slmpack` or `oracle`."""
    point: str
    """The swept values, in words; empty for ours, which has none."""
    rule: Rule | OracleRule | None
    placement: PlacementName
    start: str
    """One of starts.PRESETS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting's figures, by seed."""

    setting: Setting
    seeds: tuple[int, ...]
    figures: tuple[Figures, ...]

    @property
    def slo(self) -> float:
        """Part of the requests in time, at the worst decile of the seeds."""
        return worst([one.slo_attainment for one in self.figures], high=True)

    @property
    def worst_tenant(self) -> float:
        """The same of the worst tenant."""
        return worst([one.worst_tenant_slo for one in self.figures], high=True)

    @property
    def gpu_hours(self) -> float:
        """At the worst decile of the seeds."""
        return worst([one.gpu_hours for one in self.figures], high=False)

    @property
    def j_per_token(self) -> float:
        """At the worst decile of the seeds."""
        return worst([one.j_per_token for one in self.figures], high=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What has to be kept, parts of the requests."""

    slo: float
    worst_tenant: float = 0.0

    def kept_by(self, row: Row) -> bool:
        """Whether a setting keeps it in the worst decile of the seeds."""
        return row.slo >= self.slo and row.worst_tenant >= self.worst_tenant


TARGET = Bar(slo=0.995, worst_tenant=0.985)
"""What every policy is to keep."""


def bar_beside(ours: Row) -> Bar:
    """What baselines and the oracle have to keep beside ours: the target, or less where ours keeps less."""
    return Bar(slo=min(TARGET.slo, ours.slo), worst_tenant=min(TARGET.worst_tenant, ours.worst_tenant))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """GPU-hours at one bar, from the baseline as Kubernetes runs it to ours: what each step saves. None: not kept."""

    baseline: Row | None
    """The cheapest of all baselines, placed by Kubernetes."""
    placed: Row | None
    """The cheapest of all baselines with our placement and victims."""
    ours: Row | None
    """Ours."""
    ours_awake: Row | None
    """Ours where replicas wake in 2 s."""

    @property
    def placement(self) -> float | None:
        """Part of the baseline's GPU-hours that our placement saves."""
        return _saved(self.baseline, self.placed)

    @property
    def policy(self) -> float | None:
        """Part of what is left that our decisions save."""
        return _saved(self.placed, self.ours)

    @property
    def wake_up(self) -> float | None:
        """Part of what is left that fast starts save."""
        return _saved(self.ours, self.ours_awake)


def worst(values: Sequence[float], *, high: bool, of: int | None = None) -> float:
    """The worst decile by nearest rank; `high` says that more is better.

    `of`: so many values there will be. The worst decile of all of them is then no better than what is returned.
    """
    rank = max(0, math.ceil(_DECILE * (len(values) if of is None else of)) - 1)
    ordered = sorted(values, reverse=not high)
    if rank < len(ordered):
        return ordered[rank]
    return math.inf if high else -math.inf


def cheapest(rows: Iterable[Row], bar: Bar, *, by: Callable[[Row], float] = lambda row: row.gpu_hours) -> Row | None:
    """The cheapest row that keeps the bar; None where none does."""
    return min((row for row in rows if bar.kept_by(row)), key=by, default=None)


def split(rows: Sequence[Row], bar: Bar) -> Split:
    """What placement, policy and wake-up each save at one bar, cold starts first."""

    def best(start: str, *, ours: bool, placement: PlacementName = "slmpack") -> Row | None:
        chosen = [
            row
            for row in rows
            if row.setting.start == start
            and row.setting.placement == placement
            and row.setting.policy != ORACLE
            and (row.setting.policy == OURS) == ours
        ]
        return cheapest(chosen, bar)

    return Split(
        baseline=best("cold", ours=False, placement="kubernetes"),
        placed=best("cold", ours=False),
        ours=best("cold", ours=True),
        ours_awake=best("wake", ours=True),
    )


def _saved(before: Row | None, after: Row | None) -> float | None:
    """Part of the GPU-hours that a step saves; negative where it costs."""
    if before is None or after is None:
        return None
    return 1.0 - after.gpu_hours / before.gpu_hours
