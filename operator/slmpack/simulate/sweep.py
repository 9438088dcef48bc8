"""Sweeps: every setting of a policy over seeds, and the cheapest setting that keeps a bar.

The worst decile of the seeds counts, for latency and for cost alike: with fewer than ten seeds, the worst one.
"""

from __future__ import annotations

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
from slmpack.simulate.race import closed_part, open_places
from slmpack.simulate.results import Figures
from slmpack.simulate.rows import ORACLE, Bar, Row, Setting
from slmpack.simulate.run import OURS, Job, bounds_of, simulate
from slmpack.simulate.scenario import Scenario
from slmpack.simulate.trace import Trace

__all__ = ["Stage", "best_oracle", "fluid_bound", "run_settings", "settings_of"]

_FIRST_PART = 0.5
"""Of the progress: the first seed of every setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What all settings share: a scenario with its ground, the seeds, and the trace of each."""

    scenario: Scenario
    ground: Ground
    trace_of: Callable[[int], Trace]
    """By seed: copies of a trace are shifted by it."""
    seeds: tuple[int, ...]


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
    search: bool = True,
    progress: Callable[[float], None] = lambda _: None,
    recall: Callable[[Setting, int], Figures | None] = lambda _setting, _seed: None,
    remember: Callable[[Setting, int, Figures], None] = lambda _setting, _seed, _figures: None,
) -> list[Row]:
    """Play every setting; with `search`, further seeds only for those that may still be the cheapest to keep a bar.

    Ours is played with every seed. A row with fewer seeds than the stage is not the cheapest of its kind, whatever its
    further seeds would be. More than one worker forks processes. What `recall` knows of an earlier run is not played
    again; all else is told to `remember` as soon as it is played.
    """
    rows = [Row(setting=setting, seeds=(), figures=()) for setting in settings]
    _adopt(stage)
    with _workers(workers, stage) as play_all:

        def play(jobs: Sequence[tuple[int, int]], step: Callable[[float], None]) -> None:
            """Of a row each, a seed each, in order."""
            known = {(place, seed): recall(rows[place].setting, seed) for place, seed in jobs}
            played = play_all(
                _play, [(rows[place].setting, seed) for place, seed in jobs if known[place, seed] is None]
            )
            for done, (place, seed) in enumerate(jobs, start=1):
                figures = known[place, seed]
                if figures is None:
                    figures = next(played)
                    remember(rows[place].setting, seed, figures)
                row = rows[place]
                rows[place] = replace(row, seeds=(*row.seeds, seed), figures=(*row.figures, figures))
                step(done / len(jobs))

        first = [
            (place, seed)
            for place, setting in enumerate(settings)
            for seed in (stage.seeds[:1] if search and setting.policy != OURS else stage.seeds)
        ]
        play(first, lambda part: progress(part * _FIRST_PART))
        count = len(stage.seeds)
        while search and (chosen := sorted(open_places(rows, count))):
            play([(place, stage.seeds[len(rows[place].seeds)]) for place in chosen], lambda _: None)
            progress(_FIRST_PART + (1 - _FIRST_PART) * closed_part(rows, count))
    progress(1.0)
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
    rows = run_settings(settings, stage, search=False, progress=progress)
    kept = [(row.gpu_hours, place) for place, row in enumerate(rows) if bar.kept_by(row)]
    if kept:
        return rules[min(kept)[1]]
    return max(zip(rows, rules, strict=True), key=lambda each: (each[0].slo, each[0].worst_tenant))[1]


def fluid_bound(scenario: Scenario, ground: Ground, trace: Trace, *, seed: int) -> float:
    """GPU-hours that nobody can do without: all work after the warm-up at perfect packing; not attainable."""
    tpot = tuple(bounds_of(trace, ground, scenario)[1].tolist())
    works = works_of(trace, ground, seed=seed, tpot_s=tpot)
    least = 1 if any(ground.scaling(tenant).least for tenant in range(len(ground.views))) else 0
    return fluid_gpu_hours(works, since_s=scenario.warm_up_s, until_s=trace.span_s, least=least)
