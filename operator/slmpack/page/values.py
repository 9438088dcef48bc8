"""What the page shows, as values: numbers in their units and sentences, nothing of how they look."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.answer import Answer
from slmpack.domain.interval import Interval
from slmpack.domain.knee_curve import KneeCurve

__all__ = [
    "Amount",
    "Bar",
    "Block",
    "Deployment",
    "Fact",
    "Gpu",
    "Node",
    "Pays",
    "Replica",
    "Scaling",
    "Sheet",
    "Total",
    "Trouble",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Part of the memory of a block."""

    name: str
    kind: str
    """weights, other, kv or spare."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One replica, or a stranger's pod."""

    name: str
    """As short as tells it from the others."""
    full: str
    """namespace/name."""
    colour: int | None
    """Number of its SLMDeployment; None for a stranger."""
    state: str
    """As in the plan's picture, or failing."""
    words: str
    """The state for people, with the reason where it fails."""
    share: str
    limit_bytes: int
    amounts: tuple[Amount, ...]
    """The engine's memory, estimated; empty where nobody knows."""
    measured_bytes: int | None
    """Device memory that it holds, measured by its pack's supervisor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One GPU or slice, or several that are alike and empty."""

    unit: str
    """The profile of a slice, else the resource."""
    index: int | None
    """Of a GPU; of several that are alike, the first, and the others follow."""
    assumed: bool
    """Whether which GPU it is, is assumed."""
    is_slice: bool
    """Whether it is a part of a GPU only."""
    count: int
    """More than 1 only where all are empty."""
    usable_bytes: int
    """Of one."""
    used_bytes: int
    blocks: tuple[Block, ...]
    free_bytes: int
    """Of one, that new replicas may take."""
    free: str
    """What that is, in words; empty where there is none."""
    withheld_bytes: int
    """Of one, that are neither used nor offered."""
    withheld: str
    """Why; empty where there are none."""
    power_w: Interval | None
    """Predicted; None where nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A physical GPU that is measured; which of the bars it is, nobody publishes."""

    uuid: str
    power_w: float | None
    fb_used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node with GPUs."""

    name: str
    product: str
    flags: tuple[str, ...]
    """What keeps it from taking new replicas: cordoned, not Ready."""
    bars: tuple[Bar, ...]
    notes: tuple[str, ...]
    """Why it, or a part of it, offers nothing, and what its labels cannot say."""
    units: int
    """GPUs and slices."""
    units_used: int
    """On which replicas run or start."""
    units_held: int
    """By others, by what ends, or for what starts later."""
    replicas: int
    """Engines that run, start or have room."""
    usable_bytes: int
    used_bytes: int
    power_w: Interval | None
    """Predicted, summed over the bars of which it is."""
    power_of: int
    """How many those are."""
    gpus: tuple[Gpu, ...]
    ceiling_w: float | None
    """The lowest spec.scaling.maxWattsPerGPU of what is placed there."""
    tdp_w: float | None
    """Of one GPU, as the catalogue has it."""
    troubled: bool
    """Whether something on it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A row: name, value, and where it comes from or what it means."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A figure above everything, and what is to know of it."""

    name: str
    value: str
    note: str = ""
    is_wrong: bool = False
    """Whether the note says that something is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pays:
    """What pays on one kind of GPU in use, and why not one more."""

    title: str
    caption: str
    """What the figures are of; empty where there are none."""
    figures: tuple[Fact, ...]
    warning: str
    reasons: tuple[str, ...]
    """All but `no_more`."""
    no_more: str
    curve: KneeCurve | None
    flags: str
    """As the engine gets them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How many are wanted and why."""

    line: str
    figures: tuple[Fact, ...]
    power: str
    """Of the hottest GPU after the decision, an estimate; empty where nobody can tell."""
    ceiling_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A row of the list of replicas."""

    name: str
    node: str
    share: str
    words: str
    """How it is."""
    memory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One SLMDeployment."""

    name: str
    full: str
    """namespace/name."""
    anchor: str
    colour: int
    answer: Answer
    ready: int
    reason: str
    """Why Ready is what it is."""
    message: str
    what: str
    """The model on its engine; empty where the footprint is unknown."""
    memory: tuple[Fact, ...]
    amounts: tuple[Amount, ...]
    """The least that a share must hold."""
    warning: str
    offers: tuple[str, ...]
    pays: tuple[Pays, ...]
    scaling: Scaling | None
    replicas: tuple[Replica, ...]
    changes: tuple[str, ...]
    """What would make it another number of replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What has no place or fails, and why."""

    who: str
    anchor: str
    """Of its SLMDeployment; empty where it is none."""
    count: int
    """Replicas without a place; 0 where that is not what is wrong."""
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """All of it."""

    nodes: tuple[Node, ...]
    deployments: tuple[Deployment, ...]
    troubles: tuple[Trouble, ...]
    totals: tuple[Total, ...]
    notes: tuple[str, ...]
    """What to know of the whole picture."""
    ends: tuple[str, ...]
    """Rollouts, and pods that would end."""
    longest_bytes: int
    """Of the largest bar: as wide as the picture."""
    left_out: tuple[str, ...]
    """What the page has no room for."""
