"""`slmpack explain NAME`: the straight line of one SLMDeployment, from what a replica needs to how many are wanted."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Sequence
from typing import Any

import click

from slmpack.adapters.measuring import MetricsSettings
from slmpack.cli.cluster_flags import require_kubeconfig
from slmpack.cli.explain_text import print_explanation
from slmpack.cli.manifests import BadFileError, read_manifests
from slmpack.cli.plan_json import figures_to_json, plan_to_json, scale_to_json
from slmpack.cli.printing import printer
from slmpack.cli.world import Question, World, observe_world
from slmpack.domain.answer import answers, with_names
from slmpack.domain.conditions import judge
from slmpack.domain.explanation import Explanation
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.snapshot import Demand, DeploymentView, Key
from slmpack.ports import PortError

__all__ = ["answer_explain", "explain"]

Json = dict[str, Any]


def answer_explain(  # noqa: PLR0913 - the command's options
    name: str,
    *,
    namespace: str,
    files: Sequence[str],
    kubeconfig: str | None,
    metrics: MetricsSettings | None,
    output: str,
    **asked: Any,  # noqa: ANN401
) -> int:
    """Print the explanation; `asked` are the other fields of Question. Raises click.ClickException."""
    require_kubeconfig(kubeconfig)
    try:
        question = Question(
            manifests=read_manifests(files), cluster=not files, kubeconfig=kubeconfig, metrics=metrics, **asked
        )
        world = asyncio.run(observe_world(question))
    except BadFileError as error:
        raise click.ClickException(str(error)) from error
    except PortError as error:
        raise click.ClickException(f"the cluster cannot be read: {error}") from error
    for line in world.warnings:
        click.echo(line, err=True)
    found = explain(world, Key(namespace, name), decide=metrics is not None or question.loads is not None)
    if output == "json":
        click.echo(json.dumps(_to_json(found), indent=2))
    else:
        console = printer()
        print_explanation(console, found)
    return 0


def explain(world: World, key: Key, *, decide: bool) -> Explanation:
    """The explanation; with `decide`, with a decision of now beside that of status.

    Raises click.ClickException where there is no such SLMDeployment.
    """
    views = {view.key: view for view in world.snapshot.deployments}
    if key not in views:
        raise click.ClickException(f"there is no SLMDeployment {key}{_meant(key, views)}")
    plan = with_names(plan_cluster(world.snapshot, world.policy))
    (answer,) = answers(plan, asked={key})
    verdict = judge(answer.plan, outcomes=(), now=world.snapshot.now)
    return Explanation(
        answer=answer,
        view=views[key],
        source=world.sources.get(key),
        ready=verdict.ready,
        reason=verdict.reason,
        message=verdict.message,
        decided=answer.plan.scale if decide else None,
    )


def _meant(key: Key, there: Sequence[Key] | dict[Key, DeploymentView]) -> str:
    names = [str(other) for other in there]
    elsewhere = [str(other) for other in there if other.name == key.name]
    near = elsewhere or difflib.get_close_matches(str(key), names, n=1) or sorted(names)[:5]
    return f"; there is {', '.join(near)}" if near else "; there are none"


def _to_json(found: Explanation) -> Json:
    """The plan's entry of this SLMDeployment, and what status and the present say of scaling."""
    plan = ClusterPlan(deployments=(found.answer.plan,), actions=(), bars=(), next_wake_seconds=None)
    (deployment,) = plan_to_json(plan, asked={found.view.key})["deployments"]
    demand = found.view.demand
    return {
        "deployment": {key: value for key, value in deployment.items() if key != "scale"},
        "ready": {"replicas": found.ready, "reason": found.reason.value, "message": found.message},
        "placements": [
            {
                "pod": state.pod.name,
                "engine": state.engine,
                "node": state.node or None,
                "share": state.share,
                "ready": state.ready,
                "reason": None if state.problem is None else state.problem.reason.value,
            }
            for state in found.answer.plan.states
            if state.counts
        ],
        "scaling": None if not isinstance(demand, Demand) or demand.scaling is None else _scaling(found),
        "would_change": list(found.changes),
    }


def _scaling(found: Explanation) -> Json:
    note, state = found.note, found.view.scale
    status = None
    if note is not None and state is not None:
        status = {
            "desired": state.desired,
            "wished": note.wished,
            "known": note.known,
            "reason": note.reason.value,
            "message": note.message,
            "limited_by": None if note.refused is None else note.refused.value,
            "power": note.power or None,
            "decided_at": note.at.isoformat(),
            "figures": figures_to_json(note.figures),
        }
    return {"status": status, "now": None if found.decided is None else scale_to_json(found.decided)}
