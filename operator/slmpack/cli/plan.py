"""`slmpack plan`: what the operator would do, without doing it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from slmpack.cli.cluster_flags import require_kubeconfig
from slmpack.cli.layout import layouts_to_json, print_layouts
from slmpack.cli.manifests import BadFileError, read_manifests
from slmpack.cli.plan_json import plan_to_json
from slmpack.cli.plan_page import STDOUT, check_place, write_page
from slmpack.cli.printing import printer
from slmpack.cli.repack import print_repack, repack_to_json
from slmpack.cli.text import print_plan
from slmpack.cli.world import Question, World, observe_world
from slmpack.domain.answer import answers, with_names
from slmpack.domain.case import World as Planned
from slmpack.domain.mig_proposal import Proposal, propose_layouts
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.repack import advise_repack
from slmpack.ports import PortError

__all__ = ["ALL_PLACED", "SOME_UNPLACED", "answer_plan"]

ALL_PLACED, SOME_UNPLACED = 0, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wishes:
    """What beside the plan itself is asked for."""

    propose_layout: bool
    repack: bool


def answer_plan(  # noqa: PLR0913 - the command's options
    files: Sequence[str],
    *,
    kubeconfig: str | None,
    output: str,
    propose_layout: bool,
    repack: bool,
    html: str | None,
    **asked: Any,  # noqa: ANN401
) -> int:
    """Print the plan and return the exit code; `asked` are the other fields of Question.

    Raises click.ClickException where there is nothing to plan on.
    """
    if html is not None:
        check_place(html)
    world = _observe(files, kubeconfig=kubeconfig, **asked)
    plan = with_names(plan_cluster(world.snapshot, world.policy))
    wishes = _Wishes(propose_layout=propose_layout, repack=repack)
    if html is not None:
        write_page(html, plan, world)
    if html != STDOUT:
        show = _print_json if output == "json" else _print_text
        show(plan, world, wishes)
    return ALL_PLACED if all(answer.satisfied for answer in answers(plan, asked=world.asked)) else SOME_UNPLACED


def _observe(files: Sequence[str], *, kubeconfig: str | None, **asked: Any) -> World:  # noqa: ANN401
    """What to plan on, and on standard error what is not read."""
    require_kubeconfig(kubeconfig)
    try:
        manifests = read_manifests(files)
        world = asyncio.run(observe_world(Question(manifests=manifests, kubeconfig=kubeconfig, **asked)))
    except BadFileError as error:
        raise click.ClickException(str(error)) from error
    except PortError as error:
        raise click.ClickException(f"the cluster cannot be read: {error}") from error
    for line in (*manifests.ignored, *world.warnings):
        click.echo(line, err=True)
    return world


def _proposal(world: World) -> Proposal:
    return propose_layouts(Planned.read(world.snapshot, world.policy), asked=world.asked)


def _print_json(plan: ClusterPlan, world: World, wishes: _Wishes) -> None:
    found = plan_to_json(plan, asked=world.asked)
    if wishes.propose_layout:
        found["proposed_layouts"] = layouts_to_json(_proposal(world))
    if wishes.repack:
        found["repack"] = repack_to_json(advise_repack(plan, Planned.read(world.snapshot, world.policy)))
    click.echo(json.dumps(found, indent=2))


def _print_text(plan: ClusterPlan, world: World, wishes: _Wishes) -> None:
    console = printer()
    print_plan(console, plan, world)
    if wishes.propose_layout:
        print_layouts(console, _proposal(world))
    if wishes.repack:
        print_repack(console, advise_repack(plan, Planned.read(world.snapshot, world.policy)), plan)
