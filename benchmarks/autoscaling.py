"""Autoscaling: our operator, every peer swept, and an oracle, on the frozen scenarios; the bars, and what misses them.

It takes hours. What was played is kept as JSON lines in the folder of --cache, so that it can be stopped and taken up
again; another version of the code needs another folder. `python -m benchmarks autoscaling --quick` takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from benchmarks.autoscaling_bars import (
    STEP_HEAD,
    Compared,
    compare,
    seed_lines,
    step_line,
    table_lines,
    verdicts,
)
from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.simulate.ground import Ground, ground_for
from slmpack.simulate.placement import PlacementName
from slmpack.simulate.policies.catalogue import BASELINES
from slmpack.simulate.results import Figures
from slmpack.simulate.rows import ORACLE, Row, Setting
from slmpack.simulate.run import OURS
from slmpack.simulate.scenario import Scenario, read_scenario
from slmpack.simulate.sweep import Stage, fluid_bound, run_settings, settings_of
from slmpack.simulate.trace import Trace, clone, read_trace

__all__ = ["PlayedBefore", "main", "plan_of", "thinned"]

FOLDER = Path(__file__).parent
SCENARIOS, TRACES = FOLDER / "scenarios", FOLDER / "data" / "traces"
STARTS = ("cold", "wake")
PLACEMENTS: tuple[PlacementName, ...] = ("kubernetes", "slmpack")
SEEDS = 5
QUICK_HOUR_S, QUICK_DAY_S = 1800.0, 3 * 3600.0
"""Of a trace of an hour, and of a day."""
QUICK_POINTS = 3
"""Every third point of a sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked."""

    scenarios: tuple[str, ...]
    policies: tuple[str, ...]
    starts: tuple[str, ...]
    seeds: tuple[int, ...]
    workers: int
    quick: bool
    cache: Path | None
    again: frozenset[str]
    """Policies that are played again, whatever is kept of them."""
    traces: Path


def main(words: Sequence[str] = ()) -> int:
    plan = plan_of(words)
    found: list[Compared] = []
    steps: list[str] = []
    for name in plan.scenarios:
        rows, compared = _scenario(name, plan)
        found += compared
        steps.append(step_line(name, rows, compared[0].bar))
    print()
    if plan.policies == (OURS,):
        print("\n".join(seed_lines(found)))
        return 0
    for it in found:
        print(f"{it.scenario}, {it.start} starts, {len(it.ours.seeds)} seeds, worst decile of them")
        for verdict in verdicts(it):
            word = {True: "pass", False: "MISS", None: "-"}[verdict.passed]
            print(f"  {word:4}  {verdict.name}: {verdict.why}")
    print()
    print("\n".join([*table_lines(found), "", *STEP_HEAD, *steps]))
    return 0


def plan_of(words: Sequence[str]) -> Plan:
    names = sorted(path.name.removesuffix(".scenario.yaml") for path in SCENARIOS.glob("*.scenario.yaml"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks autoscaling", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--policy", action="append", choices=list(BASELINES), help="only this peer; may be repeated")
    parser.add_argument("--alone", action="store_true", help="slmpack only: its figures by seed, and no bar")
    parser.add_argument("--start", action="append", choices=STARTS, help="only these starts; may be repeated")
    parser.add_argument("--seeds", type=int, default=None, help=f"how many; default {SEEDS}, 1 with --quick")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="one seed, a cut of each trace, every third point")
    parser.add_argument("--cache", type=Path, help="folder that keeps what was played")
    parser.add_argument("--again", action="append", default=[], metavar="POLICY", help="do not use what is kept of it")
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of the traces")
    options = parser.parse_args(words)
    if options.seeds is not None and options.seeds < 1:
        parser.error("--seeds must be at least 1")
    count = options.seeds or (1 if options.quick else SEEDS)
    return Plan(
        scenarios=tuple(options.scenario or names),
        policies=(OURS,) if options.alone else (OURS, ORACLE, *(options.policy or BASELINES)),
        starts=tuple(options.start or STARTS),
        seeds=tuple(range(1, count + 1)),
        workers=options.workers,
        quick=options.quick,
        cache=options.cache,
        again=frozenset(options.again),
        traces=options.traces,
    )


def _scenario(name: str, plan: Plan) -> tuple[list[Row], list[Compared]]:
    scenario, ground, traces = _read(name, plan)
    settings = settings_of(plan.policies, placements=PLACEMENTS, starts=plan.starts)
    settings = thinned(settings) if plan.quick else settings
    stage = Stage(scenario=scenario, ground=ground, trace_of=traces, seeds=plan.seeds)
    cache = PlayedBefore(plan, name)
    rows = run_settings(
        settings,
        stage,
        workers=plan.workers,
        progress=partial(_progress, f"{name}: {len(settings)} settings"),
        recall=cache.recall,
        remember=cache.remember,
    )
    fluid = max(fluid_bound(scenario, ground, traces(seed), seed=seed) for seed in plan.seeds)
    return rows, [compare(rows, scenario=name, kind=scenario.kind, start=start, fluid=fluid) for start in plan.starts]


def thinned(settings: Sequence[Setting]) -> list[Setting]:
    """Every third point of each policy."""
    points: dict[str, list[str]] = {}
    for one in settings:
        if one.point not in points.setdefault(one.policy, []):
            points[one.policy].append(one.point)
    return [one for one in settings if points[one.policy].index(one.point) % QUICK_POINTS == 0]


def _read(name: str, plan: Plan) -> tuple[Scenario, Ground, _Traces]:
    scenario = read_scenario(SCENARIOS / f"{name}.scenario.yaml")
    manifests = read_manifests([str(path) for path in scenario.objects])
    world = asyncio.run(observe_world(Question(manifests=manifests, cluster=False, kubeconfig=None, model_seconds=0.0)))
    path = plan.traces / scenario.trace
    trace = read_trace(path, since=scenario.since_s, until=scenario.until_s)
    if plan.quick:
        cut = QUICK_DAY_S if trace.span_s > 6 * 3600 else QUICK_HOUR_S
        trace = read_trace(path, since=scenario.since_s, until=scenario.since_s + min(cut, trace.span_s))
        scenario = replace(scenario, warm_up_s=min(scenario.warm_up_s, trace.span_s / 3))
    trace, ground = ground_for(trace, world.snapshot.deployments, world.snapshot.nodes, world.policy)
    return scenario, ground, _Traces(trace, scenario.multiplier)


class _Traces:
    """The trace of a seed; workers ask for the same one again and again."""

    def __init__(self, trace: Trace, times: int) -> None:
        self._of = lru_cache(maxsize=2)(lambda seed: clone(trace, times, seed=seed))

    def __call__(self, seed: int) -> Trace:
        """With its copies, shifted."""
        return self._of(seed)


class PlayedBefore:
    """What was played: a line of JSON for each setting and seed."""

    def __init__(self, plan: Plan, scenario: str) -> None:
        self._path = None if plan.cache is None else plan.cache / f"{scenario}{'-quick' if plan.quick else ''}.jsonl"
        self._known: dict[tuple[str, ...], Figures] = {}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            entry = json.loads(line)
            if entry["of"][0] not in plan.again:
                self._known[tuple(entry["of"])] = Figures.read(entry["figures"])

    def recall(self, setting: Setting, seed: int) -> Figures | None:
        """What it came to, if it is kept."""
        return self._known.get(_name(setting, seed))

    def remember(self, setting: Setting, seed: int, figures: Figures) -> None:
        """Keep it."""
        if self._path is not None:
            line = json.dumps({"of": _name(setting, seed), "figures": figures.to_json()})
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def _name(setting: Setting, seed: int) -> tuple[str, ...]:
    return setting.policy, setting.point, setting.placement, setting.start, str(seed)


def _progress(what: str, part: float) -> None:
    if sys.stderr.isatty():
        print(f"\r  {what}, {part * 100:3.0f} %", end="" if part < 1 else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
