"""`slmpack explain` for people: one heading for each step of the line."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slmpack.cli.one_line import one_line
from slmpack.cli.text import print_decision, print_footprint, print_unknown_model
from slmpack.domain.explanation import Explanation
from slmpack.domain.interval import describe_interval
from slmpack.domain.memory_limit import replica_name
from slmpack.domain.plan_words import offers_of
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, ScaleDecision, ScaleNote, ScalingSpec
from slmpack.domain.scale_words import figure_rows
from slmpack.domain.snapshot import Demand
from slmpack.domain.wording import FIGURES, number_of

__all__ = ["print_explanation"]


def print_explanation(console: Console, found: Explanation) -> None:
    """The answer in short; then need, what pays, placement, scaling, what would change it."""
    answer, plan = found.answer, found.answer.plan
    wanted = "?" if answer.wanted is None else str(answer.wanted)
    title = Text(one_line(str(found.view.key)), style="bold")
    title.append(f"  {found.ready} of {wanted} replicas Ready, {found.reason.value}: ", style="not bold")
    title.append(one_line(found.message), style="not bold")
    console.print(title)
    short = _in_short(found)
    if short:
        _line(console, short)
    print_unknown_model(console, answer)
    if plan.footprint is not None:
        _head(console, "What a replica needs")
        print_footprint(console, answer, source=found.source)
    if plan.fits:
        _head(console, "What pays")
        for used in plan.fits:
            print_decision(console, used)
    _head(console, "Where replicas are")
    _print_places(console, found)
    demand = found.view.demand
    if isinstance(demand, Demand) and demand.scaling is not None:
        _head(console, "How many are wanted")
        _print_scaling(console, found, demand.scaling)
    _head(console, "What would change it")
    for line in _not_said(found):
        _line(console, line)


def _in_short(found: Explanation) -> str:
    """What its replicas have of GPUs, and how many are wanted."""
    said, demand = found.decided or found.note, found.view.demand
    lines = offers_of(found.answer)
    if said is not None and isinstance(demand, Demand) and demand.scaling is not None:
        bounds = f"{demand.scaling.least} to {demand.scaling.most}"
        lines.append(f"{number_of(found.answer.wanted or 0)} wanted of {bounds}, {said.reason.value}")
    return "; ".join(lines)


def _not_said(found: Explanation) -> list[str]:
    """What would change it, without what stands under the replicas' places."""
    said = {message for _, message, _ in found.answer.reasons}
    lines = [line for line in found.changes if line not in said]
    return ["what is said under Where replicas are", *lines] if len(lines) < len(found.changes) else lines


def _head(console: Console, words: str) -> None:
    console.print()
    console.print(Text(words, style="bold"))


def _line(console: Console, words: str) -> None:
    console.print(Padding(Text(one_line(words)), (0, 0, 0, 2), expand=False))


def _print_places(console: Console, found: Explanation) -> None:
    states = [state for state in found.answer.plan.states if state.counts]
    for state in states:
        why = "Ready" if state.problem is None else f"{state.problem.reason.value}: {state.problem.message}"
        _line(console, f"{replica_name(state)} on {state.node or 'no node yet'}, {state.share}: {why}")
    if not states:
        for line in offers_of(found.answer):
            _line(console, f"planned: {line}")
    for problem, message, count in found.answer.reasons:
        whom = f"{number_of(count)} without a place: " if count else ""
        why = "as said above" if found.message and message.endswith(found.message) else message
        _line(console, f"{whom}{problem.reason.value}: {why}")
    if not states and not found.answer.placed and not found.answer.reasons:
        _line(console, "nowhere: no replica is wanted")


def _print_scaling(console: Console, found: Explanation, scaling: ScalingSpec) -> None:
    note, state = found.note, found.view.scale
    if note is not None and state is not None:
        told = f"{number_of(state.desired)} by the last decision, told at {note.at:%Y-%m-%d %H:%M:%S %Z}"
        _line(console, f"{told} (spec.scaling: {scaling.least} to {scaling.most})")
        if state.changed is not None:
            way = "more" if state.went_up else "fewer"
            _line(console, f"last change: to {way}, at {state.changed:%Y-%m-%d %H:%M:%S %Z}")
        _print_decision(console, note, note.reason, note.refused, power=note.power)
    elif found.decided is None:
        _line(console, f"status says nothing yet (spec.scaling: {scaling.least} to {scaling.most})")
    if found.decided is not None:
        decided = found.decided
        change = f", {decided.current} so far" if decided.current != decided.desired else ""
        _line(console, f"now: {number_of(decided.desired)}{change} (spec.scaling: {scaling.least} to {scaling.most})")
        power = "" if decided.power_w is None else describe_interval(decided.power_w, unit="W")
        _print_decision(console, decided, decided.reason, decided.refused, power=power)


def _print_decision(
    console: Console, said: ScaleNote | ScaleDecision, reason: Reason, refused: Reason | None, *, power: str
) -> None:
    _line(console, f"{reason.value}: {said.message}")
    _line(console, f"the load alone asks for {said.wished}; {'all is known' if said.known else 'not all is known'}")
    if refused is not None and refused is not reason:
        _line(console, f"limited by {refused.value}")
    if power:
        _line(console, f"hottest GPU, an estimate: {power}")
    _print_figures(console, said.figures)


def _print_figures(console: Console, figures: Iterable[Figure]) -> None:
    rows = figure_rows(figures)
    if not rows:
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value, basis in rows:
        table.add_row(f"    {one_line(name)}", one_line(value), one_line(basis), FIGURES.get(name, ""))
    console.print(table)
