"""From a plan, and what it was made of, to everything that the page shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from slmpack.domain.answer import Answer, answers, with_names
from slmpack.domain.interval import Interval, describe_expected, describe_spread, sum_of
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.plan_words import ASSUMED_INDICES, NO_NODES, WHAT_IF_NOTE, ends_of
from slmpack.domain.quantity import format_bytes
from slmpack.domain.snapshot import Key, Policy, Snapshot
from slmpack.page import values
from slmpack.page.gather_deployments import gather_deployment
from slmpack.page.gather_nodes import gather_nodes, is_failing, state_name

__all__ = ["MOST_BARS", "MOST_DEPLOYMENTS", "MOST_TROUBLES", "gather_sheet"]

MOST_BARS = 600
"""GPUs and slices that are drawn; nodes beyond are counted in the totals only."""
MOST_DEPLOYMENTS = 100
MOST_TROUBLES = 100
MOST_UNREAD = 20
"""Nodes that cannot be read and are named."""
_NOTHING: Mapping[Key, str] = {}


def gather_sheet(  # noqa: PLR0913 - the plan, its world, and who asks
    plan: ClusterPlan,
    snapshot: Snapshot,
    policy: Policy,
    *,
    asked: Collection[Key] | None = None,
    sources: Mapping[Key, str] = _NOTHING,
    what_if: bool = False,
) -> values.Sheet:
    """The page's values.

    `asked`: whose SLMDeployments are told of, all by default; `what_if`: the nodes are made up.
    """
    keys = {part.deployment.key for part in plan.deployments} if asked is None else asked
    plan = with_names(plan)
    given = answers(plan, asked=keys)
    colours = {part.deployment.key: number for number, part in enumerate(plan.deployments)}
    nodes = gather_nodes(plan, snapshot, policy, colours=colours)
    shown = tuple(node for node in nodes if node.used_bytes) if what_if else nodes
    drawn = _first(shown)
    alone = len({answer.plan.deployment.key.namespace for answer in given}) <= 1
    told = tuple(
        gather_deployment(
            answer, number=colours[answer.plan.deployment.key], alone=alone, now=snapshot.now, sources=sources
        )
        for answer in given[:MOST_DEPLOYMENTS]
    )
    troubles = _troubles(given, anchors={deployment.full: deployment.anchor for deployment in told})
    return values.Sheet(
        nodes=drawn,
        deployments=told,
        troubles=troubles[:MOST_TROUBLES],
        totals=_totals(given, nodes),
        notes=tuple(_notes(drawn, nodes, snapshot, what_if=what_if)),
        ends=tuple(ends_of(plan, frozenset(keys))),
        longest_bytes=max((bar.usable_bytes for node in drawn for bar in node.bars), default=0),
        left_out=tuple(_left_out(len(shown) - len(drawn), len(given) - len(told), len(troubles) - MOST_TROUBLES)),
    )


def _first(nodes: Sequence[values.Node]) -> tuple[values.Node, ...]:
    """As many nodes as the page has room for; the first in any case."""
    drawn: list[values.Node] = []
    bars = 0
    for node in nodes:
        bars += len(node.bars)
        if drawn and bars > MOST_BARS:
            break
        drawn.append(node)
    return tuple(drawn)


def _troubles(given: Sequence[Answer], *, anchors: Mapping[str, str]) -> tuple[values.Trouble, ...]:
    """What has no place, then what fails."""
    unplaced = [
        values.Trouble(
            who=str(answer.plan.deployment.key),
            anchor=anchors.get(str(answer.plan.deployment.key), ""),
            count=count,
            reason=problem.reason.value,
            message=message,
        )
        for answer in given
        for problem, message, count in answer.reasons
    ]
    failing = [
        values.Trouble(
            who=state_name(state),
            anchor=anchors.get(str(answer.plan.deployment.key), ""),
            count=0,
            reason=state.problem.reason.value,
            message=state.problem.message,
        )
        for answer in given
        for state in answer.plan.states
        if state.problem is not None and is_failing(state)
    ]
    return (*unplaced, *failing)


def _totals(given: Sequence[Answer], nodes: Sequence[values.Node]) -> tuple[values.Total, ...]:
    """The figures above everything."""
    placed, wanted = sum(answer.placed for answer in given), sum(answer.wanted or 0 for answer in given)
    unplaced = sum(answer.unplaced for answer in given)
    units, used = sum(node.units for node in nodes), sum(node.units_used for node in nodes)
    kept = sum(node.units_held for node in nodes)
    held, usable = sum(node.used_bytes for node in nodes), sum(node.usable_bytes for node in nodes)
    rows = [
        values.Total(
            name="Replicas placed",
            value=f"{placed} of {wanted}",
            note=f"{unplaced} without a place" if unplaced else "",
            is_wrong=unplaced > 0,
        ),
        values.Total(name="GPUs and slices in use", value=f"{used} of {units}", note=f"{kept} held" if kept else ""),
        values.Total(name="Memory held", value=f"{format_bytes(held)} of {format_bytes(usable)}"),
    ]
    power = sum_of([node.power_w for node in nodes if node.power_w is not None])
    if power is not None:
        rows.append(_power(power, sum(node.power_of for node in nodes), units))
    measured = [gpu.power_w for node in nodes for gpu in node.gpus if gpu.power_w is not None]
    if measured:
        rows.append(
            values.Total(
                name="Power, measured",
                value=f"{sum(measured):,.0f} W",
                note="1 GPU" if len(measured) == 1 else f"{len(measured)} GPUs",
            )
        )
    return tuple(rows)


def _power(power: Interval, count: int, units: int) -> values.Total:
    of = "" if count == units else f", for {count} of {units}"
    return values.Total(
        name="Power, predicted",
        value=describe_expected(power, unit="W"),
        note=f"{describe_spread(power)} W, {power.basis.value}{of}",
    )


def _notes(
    drawn: Sequence[values.Node], nodes: Sequence[values.Node], snapshot: Snapshot, *, what_if: bool
) -> list[str]:
    notes = []
    if what_if:
        notes.append(WHAT_IF_NOTE)
        others = len(nodes) - sum(bool(node.used_bytes) for node in nodes)
        notes.append(f"{others} {'other ' if drawn else ''}kinds of GPU in the catalogue stay empty")
    if not nodes:
        notes.append(NO_NODES)
    if any(bar.assumed for node in drawn for bar in node.bars):
        notes.append(ASSUMED_INDICES)
    notes.extend(f"Left out, as it cannot be read: {node}" for node in snapshot.unread[:MOST_UNREAD])
    if len(snapshot.unread) > MOST_UNREAD:
        notes.append(f"{len(snapshot.unread) - MOST_UNREAD} more nodes cannot be read; the operator's log has them")
    if snapshot.blind is not None:
        notes.append(f"Nothing is measured: {snapshot.blind.message}")
    return notes


def _left_out(nodes: int, deployments: int, troubles: int) -> list[str]:
    """In sentences, with where the rest is."""
    words = []
    if nodes:
        words.append(f"{nodes} more nodes are counted above, but not drawn")
    if deployments:
        words.append(f"{deployments} more SLMDeployments are not told of")
    if troubles > 0:
        words.append(f"{troubles} more reasons are not listed")
    return [f"{one}; slmpack plan --cluster -o json has them all." for one in words]
