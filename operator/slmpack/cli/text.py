"""`slmpack plan` for people: the footprint, need against offer, the picture, the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slmpack.cli.draw import draw_bars, glyphs_of
from slmpack.cli.one_line import one_line
from slmpack.cli.world import World
from slmpack.domain.answer import Answer, answers
from slmpack.domain.choice import Choice
from slmpack.domain.footprint import explain
from slmpack.domain.fragmentation import slice_notes
from slmpack.domain.inventory import read_nodes
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
)
from slmpack.domain.quantity import format_bytes
from slmpack.domain.scale_words import scale_line
from slmpack.domain.snapshot import Demand, Key, ModelUnknown
from slmpack.render.engine_args import plan_flags

__all__ = ["print_decision", "print_footprint", "print_plan"]


def print_plan(console: Console, plan: ClusterPlan, world: World) -> None:
    """Everything that was asked about, then the picture, then what has no place and why."""
    if world.what_if:
        console.print(Text(WHAT_IF_NOTE, style="yellow"))
        console.print()
    given = answers(plan, asked=world.asked)
    for answer in given:
        _print_answer(console, answer, sources=world.sources)
    _print_picture(console, plan.bars, what_if=world.what_if)
    for note in slice_notes(read_nodes(world.snapshot.nodes, world.policy.gpus), plan.bars):
        console.print(Text(one_line(note), style="dim"))
    _print_reasons(console, given)
    for line in ends_of(plan, world.asked):
        console.print(Text(f"\n{one_line(line)}"))


def _print_answer(console: Console, answer: Answer, *, sources: Mapping[Key, str]) -> None:
    view = answer.plan.deployment
    title = Text(one_line(str(view.key)), style="bold")
    if answer.wanted is not None:
        title.append(f"  {answer.placed} of {answer.wanted} replicas placed")
    else:
        title.append("  rejected", style="red")
    console.print(title)
    print_footprint(console, answer, source=sources.get(view.key))
    for line in offers_of(answer):
        console.print(_indented(line))
    if answer.placed:
        for used in answer.plan.fits:
            print_decision(console, used)
    demand, scale = view.demand, answer.plan.scale
    if scale is not None and isinstance(demand, Demand) and demand.scaling is not None:
        console.print(_indented(scale_line(scale, demand.scaling)))
    console.print()


def print_footprint(console: Console, answer: Answer, *, source: str | None) -> None:
    """Device memory of one replica, term by term."""
    plan = answer.plan
    footprint, demand = plan.footprint, plan.deployment.demand
    if footprint is None:
        return
    what = f"{source or demand.model_source} on vLLM {demand.engine_version}" if isinstance(demand, Demand) else ""
    console.print(
        _indented(f"one replica of {what}, {plan.max_model_len:,} tokens at most (estimate, {footprint.basis})")
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    rows = explain(footprint)
    for label, size, note in rows[:-1]:
        table.add_row(f"    {label}", gib(size), note)
    per_token = f"{plan.kv_tokens:,} tokens of {format_bytes(footprint.kv_bytes_per_token)} (exact)"
    table.add_row("    KV cache", gib(footprint.kv_bytes(plan.kv_tokens)), per_token)
    note = "the least that a share must hold" if plan.fit is None else f"with {plan.fit.need.max_num_seqs} sequences"
    table.add_row("    needed", gib(plan.needed_bytes), note, style="bold")
    console.print(table)
    if isinstance(demand, Demand) and not isinstance(demand.model, ModelUnknown) and demand.model.weights_note:
        _warn(console, demand.model.weights_note)


def _warn(console: Console, what: str) -> None:
    console.print(Padding(Text(f"warning: {one_line(what)}", style="yellow"), (0, 0, 0, 2), expand=False))


def _indented(line: str) -> Padding:
    return Padding(Text(one_line(line)), (0, 0, 0, 2), expand=False)


def print_decision(console: Console, used: UsedFit) -> None:
    """What pays on a GPU of a kind in use, by prediction, and why."""
    fit = used.fit
    flags = " ".join(f"{flag}={value}" for flag, value in plan_flags(fit.settings).items())
    console.print(_indented(f"on {used.product}, {used.share}: {flags}"))
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
        key = str(answer.plan.deployment.key)
        for problem, message, count in answer.reasons:
            line = Text(f"\n{one_line(key)}: ", style="bold")
            if count:
                line.append(f"{count} unplaced, ", style="red")
            line.append(f"{problem.reason.value}: ", style="red")
            line.append(one_line(message), style="not bold")
            console.print(line)
