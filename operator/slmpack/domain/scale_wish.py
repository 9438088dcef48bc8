"""How many replicas the load asks for: the fewest that carry it, those that cost nothing more, those that may end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from slmpack.domain.goodput import Goodput
from slmpack.domain.headroom import Load
from slmpack.domain.performance import Unpredictable
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.stacks import Layout
from slmpack.domain.workload import Objective

__all__ = ["Wish", "wish_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Numbers of replicas, without a bound of the user's but the least and the most."""

    wished: int
    """The fewest whose capacity carries the demand; more than the most where that does not."""
    up: int
    """As many as that, or as fill the GPUs that they open; at least the present number."""
    down: int
    """What would do, and save a GPU, or watts with room to spare; at most the present number."""
    down_for: float
    """Requests a second that so many have to carry."""
    certain: int
    """What would do even if that were `surely_less` times as much."""
    capacity_s: float
    """Requests a second of the present number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the numbers keep to."""

    least: int
    most: int
    reserve: int
    """Free shares of a GPU that are left to other deployments."""


def wish_for(  # noqa: PLR0913 - what the numbers depend on
    layout: Layout,
    goodput: Goodput,
    careful: Goodput,
    load: Load,
    limits: Limits,
    *,
    objective: Objective,
    crowded: bool,
    policy: ScalePolicy,
) -> Wish | Unpredictable:
    """What the load asks for, of a layout with the present number of replicas (of 1 where there is none).

    `careful`: what the rest is believed to carry before any ends. `crowded`: other deployments want shares of the GPUs
    in use, and none is free.
    """
    each = goodput.each(layout)
    if isinstance(each, Unpredictable):
        return each
    current, capacity = layout.replicas, goodput.of(layout)
    if capacity >= load.up:
        least = _least(layout, goodput, load.up, 1)
        wished, grown = least.replicas, layout
    else:
        grown = _grown(layout, goodput, load.up, limits.most)
        wished = max(grown.replicas, _extrapolated(goodput, grown, load.up))
    if objective is not Objective.ENERGY:
        grown = _filled(grown, goodput, load.room, limits)

    def spare(factor: float) -> tuple[int, float]:
        """What would do, and the requests a second that decide it."""
        demand, room = load.keep * factor, load.room * policy.slack * factor
        keep = _least(layout, careful, demand, max(1, limits.least))
        if objective is Objective.ENERGY or crowded:
            return keep.replicas, demand
        saving = _saving(layout, keep).replicas
        roomy = _least(layout, careful, room, max(1, limits.least)).replicas
        return (roomy, room) if roomy < saving else (saving, demand)

    down, down_for = spare(1.0)

    return Wish(
        wished=wished,
        up=max(current, grown.replicas),
        down=down,
        down_for=down_for,
        certain=spare(policy.surely_less)[0],
        capacity_s=capacity,
    )


def _enough(layout: Layout, goodput: Goodput, demand: float) -> bool:
    return goodput.of(layout) >= demand


def _least(layout: Layout, goodput: Goodput, demand: float, least: int) -> Layout:
    """The fewest replicas that carry the demand, ended one after another; the layout itself where none may end."""
    while layout.replicas > least:
        fewer = layout.shrunk()
        if not _enough(fewer, goodput, demand):
            break
        layout = fewer
    return layout


def _grown(layout: Layout, goodput: Goodput, demand: float, most: int) -> Layout:
    """As many replicas as carry the demand, at most so many, and none of which nobody can tell what it carries."""
    while layout.replicas < most and not _enough(layout, goodput, demand):
        more = layout.grown()
        if isinstance(goodput.each(more), Unpredictable):
            break
        layout = more
    return layout


def _extrapolated(goodput: Goodput, layout: Layout, demand: float) -> int:
    """Replicas that would carry the demand if each carried as much as one of these."""
    return ceil(demand * layout.replicas / goodput.of(layout))


def _filled(layout: Layout, goodput: Goodput, demand: float, limits: Limits) -> Layout:
    """Further replicas on the GPUs that are open anyway, until they carry the demand or are no gain."""
    for fuller in _free_steps(layout, limits):
        if _enough(layout, goodput, demand) or goodput.of(fuller) <= goodput.of(layout):
            break
        layout = fuller
    return layout


def _free_steps(layout: Layout, limits: Limits) -> Iterator[Layout]:
    """Layouts with one more replica each, as long as that opens no GPU and leaves others their share."""
    while layout.replicas < limits.most:
        fuller = layout.grown()
        if fuller.held > layout.held or any(
            gpu.ours > before.ours and not gpu.seats and gpu.more < limits.reserve
            for gpu, before in zip(fuller.gpus, layout.gpus, strict=True)
        ):
            return
        layout = fuller
        yield layout


def _saving(layout: Layout, keep: Layout) -> Layout:
    """The most replicas on as few GPUs as those that are kept."""
    while layout.held > keep.held:
        layout = layout.shrunk()
    return layout
