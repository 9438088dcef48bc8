"""`slmpack simulate`: files in, figures of each policy out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from slmpack.cli.manifests import BadFileError, Manifests, read_manifests
from slmpack.cli.world import Question, World, observe_world
from slmpack.simulate.ground import CannotSimulateError, Ground, ground_for
from slmpack.simulate.oracle import Clairvoyant, OracleRule, works_of
from slmpack.simulate.picture import PictureError, Played, write_picture
from slmpack.simulate.placement import PlacementName
from slmpack.simulate.policies.aibrix import AibrixRule
from slmpack.simulate.policies.base import Rule
from slmpack.simulate.policies.catalogue import BASELINES
from slmpack.simulate.policies.dynamo import DynamoRule
from slmpack.simulate.policies.fixed import FixedRule
from slmpack.simulate.policies.hpa import HpaRule
from slmpack.simulate.policies.keda import KedaRule
from slmpack.simulate.policies.kpa import KpaRule
from slmpack.simulate.policies.kubeai import KubeAiRule
from slmpack.simulate.policies.wva import WvaRule
from slmpack.simulate.report import results_table, to_json
from slmpack.simulate.rows import ORACLE, TARGET
from slmpack.simulate.run import OURS, Job, Result, bounds_of, simulate
from slmpack.simulate.scenario import Scenario
from slmpack.simulate.sweep import Stage, best_oracle, fluid_bound
from slmpack.simulate.trace import Trace, TraceError, clone, read_trace

__all__ = ["answer_simulate"]

ORACLE_WINDOW_S = 12.0
"""With --target: the middle of what is swept."""
MODEL_SECONDS = 20.0
"""How long to wait for a model's config.json from the Hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """Everything read."""

    trace: Trace
    ground: Ground
    scenario: Scenario


def answer_simulate(
    files: Sequence[str],
    *,
    policies: Sequence[str],
    target: float | None,
    output: str,
    png: str | None,
    **asked: Any,  # noqa: ANN401
) -> int:
    """Simulate every policy and print the figures. Raises click.ClickException."""
    if target is not None and set(policies) <= {OURS}:
        raise click.UsageError(
            f"--target {target:g} is for the peers: slmpack has none; add --policy hpa, for instance"
        )
    scene = _read(files, asked)
    try:
        jobs = [_job(name, target, scene, asked) for name in dict.fromkeys(policies)]
        with _progress(len(jobs)) as step:
            results = [_play(job, scene, step) for job in jobs]
        if png is not None:
            write_picture(_played(scene, results, Path(asked["trace"]).name, asked), Path(png))
    except (CannotSimulateError, PictureError) as error:
        raise click.ClickException(str(error)) from error
    if output == "json":
        click.echo(json.dumps(to_json(results), indent=2))
    else:
        _print(scene, results, asked)
    return 0


def _read(files: Sequence[str], asked: dict[str, Any]) -> _Scene:
    try:
        manifests = _manifests(files)
        trace = read_trace(Path(asked["trace"]), since=asked["since"], until=asked["until"])
        trace = clone(trace, asked["multiplier"], seed=asked["seed"])
        world = _world(manifests, asked["supervisor_image"])
        trace, ground = ground_for(trace, world.snapshot.deployments, world.snapshot.nodes, world.policy)
    except (BadFileError, TraceError, CannotSimulateError) as error:
        raise click.ClickException(str(error)) from error
    for line in (*manifests.ignored, *world.warnings):
        click.echo(line, err=True)
    warm_up = asked["warm_up"]
    if warm_up is not None and warm_up >= trace.span_s:
        raise click.UsageError(f"--warm-up {warm_up:g} must be less than the {trace.span_s:g} s that are played")
    scenario = Scenario(name="", warm_up_s=Scenario.default_warm_up(trace.span_s) if warm_up is None else warm_up)
    return _Scene(trace=trace, ground=ground, scenario=scenario)


def _manifests(files: Sequence[str]) -> Manifests:
    manifests = read_manifests(files)
    if not manifests.of("Node"):
        raise BadFileError("no node is given; add one with -f, as `kubectl get nodes -o yaml` prints it")
    return manifests


def _world(manifests: Manifests, supervisor_image: str | None) -> World:
    question = Question(
        manifests=manifests,
        cluster=False,
        kubeconfig=None,
        model_seconds=MODEL_SECONDS,
        supervisor_image=supervisor_image,
    )
    return asyncio.run(observe_world(question))


def _job(name: str, target: float | None, scene: _Scene, asked: dict[str, Any]) -> Job:
    placement: PlacementName = "slmpack" if asked["placement"] == "ours" else "kubernetes"
    rule: Rule | None = None
    if name == ORACLE:
        rule = _oracle(target, scene, asked)
        placement = "slmpack"  # it is a bound, not a peer
    elif name != OURS:
        rule = BASELINES[name].usual.rule if target is None else _at(BASELINES[name].usual.rule, target)
    return Job(name=name, rule=rule, placement=placement, start=asked["start"], seed=asked["seed"])


def _at(rule: Rule, target: float) -> Rule:
    """A peer's algorithm with another target."""
    match rule:
        case FixedRule():
            if target != int(target):
                raise click.UsageError(f"--target {target:g}: fixed takes a whole number of replicas")
            return replace(rule, replicas=int(target))
        case WvaRule():
            return replace(rule, kv_threshold=target)
        case DynamoRule():
            return replace(rule, up=target, down=target * rule.down / rule.up)
        case HpaRule() | KedaRule() | KpaRule() | KubeAiRule() | AibrixRule():
            return replace(rule, target=target)
        case _:
            raise AssertionError(rule)


def _oracle(target: float | None, scene: _Scene, asked: dict[str, Any]) -> Rule:
    """Swept, and the cheapest that keeps the target, where no headroom is given."""
    _, tpot = bounds_of(scene.trace, scene.ground, scene.scenario)
    seed, start = asked["seed"], asked["start"]
    if target is None:
        stage = Stage(scenario=scene.scenario, ground=scene.ground, trace_of=lambda _: scene.trace, seeds=(seed,))
        rule = best_oracle(stage, TARGET, start=start)
    else:
        rule = OracleRule(load=target, window_s=ORACLE_WINDOW_S)
    return Clairvoyant(
        rule=rule,
        works=works_of(scene.trace, scene.ground, seed=seed, tpot_s=tuple(tpot.tolist())),
        until_s=scene.trace.span_s,
        start=start,
        seed=seed,
    )


def _play(job: Job, scene: _Scene, step: Callable[[str, float], None]) -> Result:
    return simulate(
        job,
        scene.scenario,
        trace=scene.trace,
        ground=scene.ground,
        progress=lambda done: step(job.name, done),
    )


@contextmanager
def _progress(jobs: int) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, where that is a terminal."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda _name, _done: None
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=jobs)
        finished: dict[str, float] = {}

        def step(name: str, done: float) -> None:
            finished[name] = done
            progress.update(task, description=name, completed=sum(finished.values()))

        yield step


def _played(scene: _Scene, results: Sequence[Result], name: str, asked: dict[str, Any]) -> Played:
    ttft, _ = bounds_of(scene.trace, scene.ground, scene.scenario)
    times = f" x{asked['multiplier']}" if asked["multiplier"] > 1 else ""
    title = f"{name}{times}, {asked['start']} starts, seed {asked['seed']} (simulated)"
    return Played(title=title, trace=scene.trace, results=results, ttft_s=float(ttft.min()))


def _print(scene: _Scene, results: Sequence[Result], asked: dict[str, Any]) -> None:
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    trace, gpus = scene.trace, sum(offer.gpus for node in scene.ground.read for offer in node.offers)
    tenants = len(trace.tenants)
    console.print(
        f"{len(trace):,} requests of {tenants} tenant{'s' if tenants > 1 else ''} in {trace.span_s / 3600:.2f} h on"
        f" {gpus} GPU{'s' if gpus > 1 else ''}; {asked['start']} starts, seed {asked['seed']}; the first"
        f" {scene.scenario.warm_up_s:,.0f} s count in no figure. Simulated: nothing ran on a GPU."
    )
    console.print()
    console.print(results_table(results))
    if ORACLE in {result.job.name for result in results}:
        bound = fluid_bound(scene.scenario, scene.ground, trace, seed=asked["seed"])
        console.print(f"\nAll work at perfect packing, which nobody attains: {bound:.2f} GPU hours.")
