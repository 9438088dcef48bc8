"""Sweeps: every setting of a policy over seeds, the Pareto front, and the cheapest setting that keeps a bar.

The worst decile of the seeds counts, for latency and for cost alike: with fewer than ten seeds, the worst one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context

from slmpack.simulate.ground import Ground
from slmpack.simulate.oracle import ORACLE_RULES, Clairvoyant, OracleRule, fluid_gpu_hours, works_of
from slmpack.simulate.placement import PlacementName
from slmpack.simulate.policies.base import Rule
from slmpack.simulate.policies.catalogue import BASELINES
from slmpack.simulate.results import Figures
from slmpack.simulate.run import OURS, Job, bounds_of, simulate
from slmpack.simulate.scenario import Scenario
from slmpack.simulate.trace import Trace

__all__ = [
    "ORACLE",
    "TARGET",
    "Bar",
    "Row",
    "Setting",
    "Split",
    "Stage",
    "best_oracle",
    "cheapest",
    "fluid_bound",
    "front",
    "run_settings",
    "settings_of",
    "split",
    "worst",
]

ORACLE = "oracle"
_DECILE = 0.1
_CLEARLY = 0.03
"""Screening: dearer by this part, and no better, is given up after the first seed."""
_ALIKE = 0.003
"""Screening: parts of the requests by which one seed may flatter a setting."""
_HOPELESS, _FAR = 0.985, 0.01
"""Screening: a bar is 99.5 % in time, or what ours keeps where that is less; what misses it by a percent with the first
seed will not keep it in the worst decile."""


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
class Stage:
    """What all settings share: a scenario with its ground, the seeds, and the trace of each."""

    scenario: Scenario
    ground: Ground
    trace_of: Callable[[int], Trace]
    """By seed: copies of a trace are shifted by it."""
    seeds: tuple[int, ...]


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


def settings_of(
    policies: Iterable[str], *, placements: Sequence[PlacementName], starts: Sequence[str]
) -> list[Setting]:
    """Every point of these policies; ours and the oracle are placed one way only."""
    found = []
    for policy in policies:
        points: list[tuple[str, Rule | OracleRule | None]]
        if policy == OURS:
            points = [("", None)]
        elif policy == ORACLE:
            points = [(rule.label, rule) for rule in ORACLE_RULES]
        else:
            points = [(point.label, point.rule) for point in BASELINES[policy].points]
        ways: Sequence[PlacementName] = ("slmpack",) if policy in {OURS, ORACLE} else placements
        found += [
            Setting(policy=policy, point=label, rule=rule, placement=way, start=start)
            for label, rule in points
            for way in ways
            for start in starts
        ]
    return found


def run_settings(  # noqa: PLR0913 - how to play, and where what was played is kept
    settings: Sequence[Setting],
    stage: Stage,
    *,
    workers: int = 1,
    screen: bool = True,
    progress: Callable[[float], None] = lambda _: None,
    recall: Callable[[Setting, int], Figures | None] = lambda _setting, _seed: None,
    remember: Callable[[Setting, int, Figures], None] = lambda _setting, _seed, _figures: None,
) -> list[Row]:
    """Play every setting; with `screen`, further seeds only for those that the first one does not clearly rule out.

    A setting that was ruled out keeps its row of one seed. More than one worker forks processes. What `recall` knows of
    an earlier run is not played again; all else is told to `remember` as soon as it is played.
    """
    rows = [Row(setting=setting, seeds=(), figures=()) for setting in settings]
    rounds = (stage.seeds[:1], stage.seeds[1:]) if screen else (stage.seeds,)
    _adopt(stage)
    with _workers(workers, stage) as play_all:
        for index, seeds in enumerate(rounds):
            chosen = [place for place, row in enumerate(rows) if index == 0 or not _ruled_out(row, rows)]
            jobs = [(place, seed) for place in chosen for seed in seeds]
            known = {(place, seed): recall(rows[place].setting, seed) for place, seed in jobs}
            unknown = [job for job in jobs if known[job] is None]
            played = play_all(_play, [(rows[place].setting, seed) for place, seed in unknown])
            for done, (place, seed) in enumerate(jobs, start=1):
                row = rows[place]
                figures = known[place, seed]
                if figures is None:
                    figures = next(played)
                    remember(row.setting, seed, figures)
                rows[place] = replace(row, seeds=(*row.seeds, seed), figures=(*row.figures, figures))
                progress((index + done / len(jobs)) / len(rounds))
    return rows


_Map = Callable[[Callable[[tuple[Setting, int]], Figures], Iterable[tuple[Setting, int]]], Iterator[Figures]]


@contextmanager
def _workers(count: int, stage: Stage) -> Iterator[_Map]:
    """A `map`, of this process or of forked ones."""
    if count <= 1:
        yield map
        return
    with ProcessPoolExecutor(count, mp_context=get_context("fork"), initializer=_adopt, initargs=(stage,)) as pool:
        yield pool.map


_STAGE: list[Stage] = []
"""Of this process; forked workers have it from their parent."""


def _adopt(stage: Stage) -> None:
    _STAGE[:] = [stage]


def _play(asked: tuple[Setting, int]) -> Figures:
    """One simulation."""
    setting, seed = asked
    stage = _STAGE[0]
    trace = stage.trace_of(seed)
    rule = setting.rule
    if isinstance(rule, OracleRule):
        bounds = bounds_of(trace, stage.ground, stage.scenario)[1].tolist()
        works = works_of(trace, stage.ground, seed=seed, tpot_s=bounds)
        rule = Clairvoyant(rule=rule, works=works, until_s=trace.span_s, start=setting.start, seed=seed)
    job = Job(name=setting.policy, rule=rule, placement=setting.placement, start=setting.start, seed=seed)
    return simulate(job, stage.scenario, trace=trace, ground=stage.ground).figures


def _ruled_out(row: Row, rows: Sequence[Row]) -> bool:
    """Whether it is far from any bar, or another of its kind is clearly cheaper and keeps at least as much."""
    ours = [each.slo for each in rows if each.setting.policy == OURS and each.setting.start == row.setting.start]
    if ours and row.slo < min(_HOPELESS, min(ours) - _FAR):
        return True
    return any(
        _same_kind(other.setting, row.setting)
        and other.gpu_hours < row.gpu_hours * (1 - _CLEARLY)
        and other.j_per_token < row.j_per_token * (1 - _CLEARLY)
        and other.slo >= min(1.0, row.slo + _ALIKE)
        and other.worst_tenant >= min(1.0, row.worst_tenant + _ALIKE)
        for other in rows
    )


def _same_kind(one: Setting, other: Setting) -> bool:
    """Whether settings compete: oracles with oracles, baselines of one placement with each other."""
    kinds = [
        (OURS if each.policy == OURS else ORACLE if each.policy == ORACLE else "", each.placement, each.start)
        for each in (one, other)
    ]
    return kinds[0] == kinds[1]


def worst(values: Sequence[float], *, high: bool) -> float:
    """The worst decile by nearest rank; `high` says that more is better."""
    ordered = sorted(values, reverse=not high)
    return ordered[max(0, math.ceil(_DECILE * len(ordered)) - 1)]


def front(rows: Iterable[Row]) -> list[Row]:
    """The rows that no other beats in SLO attainment and GPU-hours both, by rising GPU-hours."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda each: (each.gpu_hours, -each.slo)):
        if not found or row.slo > found[-1].slo:
            found.append(row)
    return found


def cheapest(rows: Iterable[Row], bar: Bar, *, by: Callable[[Row], float] = lambda row: row.gpu_hours) -> Row | None:
    """The cheapest row that keeps the bar; None where none does."""
    return min((row for row in rows if bar.kept_by(row)), key=by, default=None)


def best_oracle(
    stage: Stage,
    bar: Bar,
    *,
    start: str,
    rules: Sequence[OracleRule] = ORACLE_RULES,
    progress: Callable[[float], None] = lambda _: None,
) -> OracleRule:
    """The oracle's cheapest setting that keeps the bar; where none does, the one that keeps most."""
    settings = [Setting(policy=ORACLE, point=rule.label, rule=rule, placement="slmpack", start=start) for rule in rules]
    rows = run_settings(settings, stage, progress=progress)
    full = [(row, rule) for row, rule in zip(rows, rules, strict=True) if len(row.seeds) == len(stage.seeds)]
    kept = [(row.gpu_hours, place) for place, (row, _) in enumerate(full) if bar.kept_by(row)]
    if kept:
        return full[min(kept)[1]][1]
    return max(full, key=lambda each: (each[0].slo, each[0].worst_tenant))[1]


def fluid_bound(scenario: Scenario, ground: Ground, trace: Trace, *, seed: int) -> float:
    """GPU-hours that nobody can do without: all work after the warm-up at perfect packing; not attainable."""
    tpot = tuple(bounds_of(trace, ground, scenario)[1].tolist())
    works = works_of(trace, ground, seed=seed, tpot_s=tpot)
    least = 1 if any(ground.scaling(tenant).least for tenant in range(len(ground.views))) else 0
    return fluid_gpu_hours(works, since_s=scenario.warm_up_s, until_s=trace.span_s, least=least)


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
