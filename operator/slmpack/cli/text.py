"""`slmpack plan` for people: the answer, the picture, the reasons, then the account of memory and of what pays."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slmpack.cli.draw import draw_bars, glyphs_of
from slmpack.cli.one_line import one_line
from slmpack.cli.world import World
from slmpack.domain.answer import Answer, answers
from slmpack.domain.choice import Choice
from slmpack.domain.fragmentation import slice_notes
from slmpack.domain.inventory import read_nodes
from slmpack.domain.need_words import engine_words, memory_rows, weights_warning
from slmpack.domain.plan import ClusterPlan, GpuBar, UsedFit
from slmpack.domain.plan_words import (
    ASSUMED_INDICES,
    NO_NODES,
    NOT_CARRIED,
    WHAT_IF_NOTE,
    describe_prediction,
    ends_of,
    gib,
    offers_of,
    unknown_model,
)
from slmpack.domain.scale_words import scale_line
from slmpack.domain.snapshot import Demand
from slmpack.render.engine_args import flags_line

__all__ = ["print_decision", "print_footprint", "print_plan", "print_unknown_model"]


def print_plan(console: Console, plan: ClusterPlan, world: World) -> None:
    """What becomes of everything that was asked about, the picture, what has no place and why; the account last."""
    if world.what_if:
        console.print(Text(WHAT_IF_NOTE, style="yellow"))
        console.print()
    given = answers(plan, asked=world.asked)
    for answer in given:
        _print_answer(console, answer)
    if given:
        console.print()
    _print_picture(console, plan.bars, what_if=world.what_if)
    for note in slice_notes(read_nodes(world.snapshot.nodes, world.policy.gpus), plan.bars):
        console.print(Text(one_line(note), style="dim"))
    _print_reasons(console, given)
    for line in ends_of(plan, world.asked):
        console.print(Text(f"\n{one_line(line)}"))
    for answer in given:
        _print_account(console, answer, source=world.sources.get(answer.plan.deployment.key))


def _print_answer(console: Console, answer: Answer) -> None:
    """What there is to know at once."""
    view = answer.plan.deployment
    title = Text(one_line(str(view.key)), style="bold")
    if answer.wanted is not None:
        title.append(f"  {answer.placed} of {answer.wanted} replicas placed")
    else:
        title.append("  rejected", style="red")
    console.print(title)
    if answer.wanted is None:
        _print_rejection(console, answer)
    for line in offers_of(answer):
        console.print(_indented(line))
    demand, scale = view.demand, answer.plan.scale
    if scale is not None and isinstance(demand, Demand) and demand.scaling is not None:
        console.print(_indented(scale_line(scale, demand.scaling)))
    print_unknown_model(console, answer)


def print_unknown_model(console: Console, answer: Answer) -> None:
    """What the rest does not say, and why."""
    missing = unknown_model(answer)
    if missing:
        _warn(console, missing)


def _print_account(console: Console, answer: Answer, *, source: str | None) -> None:
    """The memory of a replica, and what pays on the GPUs in use."""
    if answer.plan.footprint is None:
        return
    head = f"\n{one_line(str(answer.plan.deployment.key))}: what a replica needs, and what pays"
    console.print(Text(head, style="bold"))
    print_footprint(console, answer, source=source)
    if answer.placed:
        for used in answer.plan.fits:
            print_decision(console, used)


def _print_rejection(console: Console, answer: Answer) -> None:
    """Nothing of it is in the picture: what is wrong stands with its name."""
    for problem, message, _ in answer.reasons:
        line = Text(f"{problem.reason.value}: ", style="red")
        line.append(one_line(message), style="not red")
        console.print(Padding(line, (0, 0, 0, 2), expand=False))


def print_footprint(console: Console, answer: Answer, *, source: str | None) -> None:
    """Device memory of one replica, term by term."""
    plan = answer.plan
    if plan.footprint is None:
        return
    what = engine_words(plan, source=source)
    console.print(_indented(f"one replica of {what} (estimate, {plan.footprint.basis})"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    *rows, needed = memory_rows(plan)
    for row in rows:
        table.add_row(f"    {row.name}", gib(row.size), row.note)
    table.add_row(f"    {needed.name}", gib(needed.size), needed.note, style="bold")
    console.print(table)
    if warning := weights_warning(plan):
        _warn(console, warning)


def _warn(console: Console, what: str) -> None:
    console.print(Padding(Text(f"warning: {one_line(what)}", style="yellow"), (0, 0, 0, 2), expand=False))


def _indented(line: str) -> Padding:
    return Padding(Text(one_line(line)), (0, 0, 0, 2), expand=False)


def print_decision(console: Console, used: UsedFit) -> None:
    """What pays on a GPU of a kind in use, by prediction, and why."""
    fit = used.fit
    console.print(_indented(f"on {used.product}, {used.share}: {flags_line(fit.settings)}"))
    if isinstance(fit.choice, Choice):
        console.print(_indented(describe_prediction(fit.choice)))
    if fit.carries is False:
        _warn(console, NOT_CARRIED)
    for reason in fit.reasons:
        console.print(_indented(f"  {reason}"))


def _print_picture(console: Console, bars: Sequence[GpuBar], *, what_if: bool) -> None:
    shown = [bar for bar in bars if bar.blocks] if what_if else list(bars)
    if not bars:
        console.print(Text(NO_NODES, style="yellow"))
    elif shown:
        console.print(draw_bars(shown, width=console.width, glyphs=glyphs_of(console)))
    if len(shown) < len(bars):
        others = f"{len(bars) - len(shown)} {'other ' if shown else ''}kinds of GPU in the catalogue stay empty"
        console.print(Text(others, style="dim"))
    if any(bar.index_basis == "assumed" for bar in shown):
        console.print(Text(ASSUMED_INDICES, style="dim"))


def _print_reasons(console: Console, given: Sequence[Answer]) -> None:
    for answer in given:
        if answer.wanted is None:
            continue
        key = str(answer.plan.deployment.key)
        for problem, message, count in answer.reasons:
            line = Text(f"\n{one_line(key)}: ", style="bold")
            if count:
                line.append(f"{count} unplaced, ", style="red")
            line.append(f"{problem.reason.value}: ", style="red")
            line.append(one_line(message), style="not bold")
            console.print(line)
