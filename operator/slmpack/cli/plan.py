"""`slmpack plan`: what the operator would do, without doing it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from slmpack.cli.answer import answers, with_names
from slmpack.cli.layout import layouts_to_json, print_layouts
from slmpack.cli.manifests import BadFileError, read_manifests
from slmpack.cli.plan_json import plan_to_json
from slmpack.cli.repack import print_repack, repack_to_json
from slmpack.cli.text import print_plan
from slmpack.cli.world import Question, observe_world
from slmpack.domain.case import World as Planned
from slmpack.domain.mig_proposal import propose_layouts
from slmpack.domain.planner import plan_cluster
from slmpack.domain.repack import advise_repack
from slmpack.ports import PortError

__all__ = ["ALL_PLACED", "SOME_UNPLACED", "answer_plan"]

ALL_PLACED, SOME_UNPLACED = 0, 2


def answer_plan(
    files: Sequence[str],
    *,
    kubeconfig: str | None,
    output: str,
    propose_layout: bool,
    repack: bool,
    **asked: Any,  # noqa: ANN401
) -> int:
    """Print the plan and return the exit code; `asked` are the other fields of Question.

    Raises click.ClickException where there is nothing to plan on.
    """
    if kubeconfig is not None and not Path(kubeconfig).is_file():
        raise click.ClickException(f"--kubeconfig {kubeconfig}: no such file")
    try:
        manifests = read_manifests(files)
        world = asyncio.run(observe_world(Question(manifests=manifests, kubeconfig=kubeconfig, **asked)))
    except BadFileError as error:
        raise click.ClickException(str(error)) from error
    except PortError as error:
        raise click.ClickException(f"the cluster cannot be read: {error}") from error
    for line in (*manifests.ignored, *world.warnings):
        click.echo(line, err=True)
    plan = with_names(plan_cluster(world.snapshot, world.policy))
    proposal = None
    if propose_layout:
        proposal = propose_layouts(Planned.read(world.snapshot, world.policy), asked=world.asked)
    advised = advise_repack(plan, Planned.read(world.snapshot, world.policy)) if repack else None
    if output == "json":
        moves = {"repack": repack_to_json(advised)} if repack else {}
        proposed = {} if proposal is None else {"proposed_layouts": layouts_to_json(proposal)}
        click.echo(json.dumps(plan_to_json(plan, asked=world.asked) | proposed | moves, indent=2))
    else:
        console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
        print_plan(console, plan, world)
        if proposal is not None:
            print_layouts(console, proposal)
        if repack:
            print_repack(console, advised, plan)
    return ALL_PLACED if all(answer.satisfied for answer in answers(plan, asked=world.asked)) else SOME_UNPLACED
