"""From the plan's bars to the page's nodes: what each GPU holds, what is free, what is withheld, what it draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from slmpack.domain.bar_watts import Fits, bar_watts, fits_of
from slmpack.domain.fragmentation import slice_notes
from slmpack.domain.interval import sum_of
from slmpack.domain.inventory import GpuNode, Offer, read_nodes
from slmpack.domain.picture import BarState, bar_state
from slmpack.domain.plan import Block, ClusterPlan, GpuBar, ReplicaState
from slmpack.domain.plan_words import MEANING
from slmpack.domain.quantity import MIB, format_bytes
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import MpsShare, limit_bytes
from slmpack.domain.snapshot import Demand, Key, Policy, Snapshot
from slmpack.page import values
from slmpack.page.fits import amounts_of

__all__ = ["gather_nodes", "is_failing", "state_name"]

UNDER_WAY = frozenset({Reason.STARTING, Reason.WAITING_FOR_START})
"""Not Ready, and nothing is wrong."""
FEWEST_ALIKE = 3
"""Empty bars that are alike are one from so many on."""


def gather_nodes(
    plan: ClusterPlan, snapshot: Snapshot, policy: Policy, *, colours: Mapping[Key, int]
) -> tuple[values.Node, ...]:
    """Every node with GPUs, in the plan's order."""
    nodes = {node.name: node for node in read_nodes(snapshot.nodes, policy.gpus)}
    look = _Look(
        fits=fits_of(plan.deployments),
        colours=colours,
        states={(state.pod, state.engine): state for part in plan.deployments for state in part.states},
        alone=len({block.namespace for bar in plan.bars for block in bar.blocks} - {""}) <= 1,
    )
    ceilings, measured = _ceilings(plan), _measured(snapshot, policy)
    return tuple(
        _node(
            nodes[name],
            tuple(bars),
            look,
            plan=plan,
            gpus=measured.get(name, ()),
            ceiling=_least(ceilings.get(name, ())),
        )
        for name, bars in groupby(plan.bars, key=lambda bar: bar.node)
    )


def state_name(state: ReplicaState) -> str:
    """The pod, and which engine of it."""
    return str(state.pod) if state.engine is None else f"{state.pod} engine {state.engine}"


def is_failing(state: ReplicaState) -> bool:
    """Whether something is wrong, beyond not being Ready yet."""
    return state.problem is not None and state.problem.reason not in UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    fits: Fits
    colours: Mapping[Key, int]
    states: Mapping[tuple[Key | None, int | None], ReplicaState]
    """By pod and engine."""
    alone: bool
    """Whether all blocks are of one namespace, so that it need not be said."""


def _node(  # noqa: PLR0913 - all that is known of it
    node: GpuNode,
    bars: Sequence[GpuBar],
    look: _Look,
    *,
    plan: ClusterPlan,
    gpus: tuple[values.Gpu, ...],
    ceiling: float | None,
) -> values.Node:
    flags = _flags(node)
    offers = {offer.resource: offer for offer in node.offers}
    drawn = [(_bar(bar, offers.get(bar.resource), node, look, flags), bar) for bar in bars if not bar.refusal]
    states = Counter(bar_state(bar) for _, bar in drawn)
    watts = [bar.power_w for bar, _ in drawn if bar.power_w is not None]
    notes = [bar.note for bar in bars if bar.note] + list(slice_notes([node], plan.bars))
    return values.Node(
        name=node.name,
        product=node.product,
        flags=flags,
        bars=tuple(_grouped([bar for bar, _ in drawn])),
        notes=tuple(dict.fromkeys(notes)),
        units=len(drawn),
        units_used=states[BarState.USED],
        units_held=states[BarState.HELD],
        replicas=sum(
            b.deployment is not None and b.state not in {"idle", "ending"} for _, bar in drawn for b in bar.blocks
        ),
        usable_bytes=sum(bar.usable_bytes for bar, _ in drawn),
        used_bytes=sum(bar.used_bytes for bar, _ in drawn),
        power_w=sum_of(watts),
        power_of=len(watts),
        gpus=gpus,
        ceiling_w=ceiling,
        tdp_w=None if node.gpu is None else float(node.gpu.tdp_w),
        troubled=any(block.state == "failing" for bar, _ in drawn for block in bar.blocks),
    )


def _flags(node: GpuNode) -> tuple[str, ...]:
    flags = []
    if node.view.unschedulable:
        flags.append("cordoned")
    if not node.view.ready:
        flags.append("not Ready")
    return tuple(flags)


def _bar(bar: GpuBar, offer: Offer | None, node: GpuNode, look: _Look, flags: tuple[str, ...]) -> values.Bar:
    used = sum(block.used_bytes for block in bar.blocks)
    rest = max(0, bar.usable_bytes - used)
    free, words = _free(bar, offer, rest)
    withheld = _withheld(rest - free, offer)
    if flags and free:
        free, words, withheld = 0, "", f"the node is {' and '.join(flags)}"
    return values.Bar(
        unit=bar.profile or bar.resource,
        index=bar.index,
        assumed=bar.index_basis is not None,
        is_slice=bar.is_slice,
        count=1,
        usable_bytes=bar.usable_bytes,
        used_bytes=used,
        blocks=tuple(_block(block, bar.product, look) for block in bar.blocks),
        free_bytes=free,
        free=words,
        withheld_bytes=rest - free if withheld else 0,
        withheld=withheld,
        power_w=bar_watts(look.fits, bar, node.gpu),
    )


def _free(bar: GpuBar, offer: Offer | None, rest: int) -> tuple[int, str]:
    """Bytes that new replicas may take, and in which portions where they are bounded."""
    if offer is None:
        return 0, ""
    if isinstance(offer.share, MpsShare):
        shares, limit = max(0, offer.per_gpu - len(bar.blocks)), limit_bytes(offer.share)
        free = min(rest, shares * limit)
        return free, f"{shares} {'share' if shares == 1 else 'shares'} of {format_bytes(limit)}" if free else ""
    return (0, "") if bar.blocks else (rest, format_bytes(rest))


def _withheld(size: int, offer: Offer | None) -> str:
    if size < MIB or offer is None:
        return ""
    shared = isinstance(offer.share, MpsShare)
    return "for the MPS server, and what is no whole share" if shared else "for the MPS server"


def _block(block: Block, product: str, look: _Look) -> values.Block:
    known = look.states.get((block.pod, block.engine))
    failing = known is not None and is_failing(known) and block.state in {"starting", "ready"}
    words = MEANING.get(block.state, block.state)
    if failing and known is not None and known.problem is not None:
        words = f"{known.problem.reason.value}: {known.problem.message}"
    return values.Block(
        name=block.label.removeprefix(f"{block.namespace}/") if look.alone else block.label,
        full=block.label,
        colour=None if block.deployment is None else look.colours.get(block.deployment),
        state="failing" if failing else block.state,
        words=words,
        share=block.share,
        limit_bytes=block.used_bytes,
        amounts=amounts_of(look.fits, block, product),
        measured_bytes=known.device_bytes if known is not None else None,
    )


def _grouped(bars: Sequence[values.Bar]) -> Iterable[values.Bar]:
    """Empty bars that are alike as one, where there are several."""
    for _, group in groupby(bars, key=_alike):
        alike = list(group)
        if len(alike) < FEWEST_ALIKE or alike[0].blocks:
            yield from alike
        else:
            yield replace(alike[0], count=len(alike))


def _alike(bar: values.Bar) -> tuple[object, ...]:
    return bar.blocks or bar.unit, bar.usable_bytes, bar.free, bar.withheld, bar.power_w


def _ceilings(plan: ClusterPlan) -> dict[str, list[float]]:
    """By node: the ceilings of what is placed there."""
    found: dict[str, list[float]] = {}
    for part in plan.deployments:
        demand = part.deployment.demand
        ceiling = demand.scaling.max_watts_per_gpu if isinstance(demand, Demand) and demand.scaling else None
        if ceiling is not None:
            for bar in plan.bars:
                if any(block.deployment == part.deployment.key for block in bar.blocks):
                    found.setdefault(bar.node, []).append(ceiling)
    return found


def _least(ceilings: Sequence[float]) -> float | None:
    return min(ceilings, default=None)


def _measured(snapshot: Snapshot, policy: Policy) -> dict[str, tuple[values.Gpu, ...]]:
    """By node: its physical GPUs, of which a fresh reading tells."""
    found: dict[str, list[values.Gpu]] = {}
    for reading in sorted(snapshot.gpus, key=lambda reading: (reading.node, reading.uuid)):
        if abs(snapshot.now - reading.at) <= policy.scale.stale:
            gpu = values.Gpu(uuid=reading.uuid, power_w=reading.power_w, fb_used_bytes=reading.fb_used_bytes)
            found.setdefault(reading.node, []).append(gpu)
    return {node: tuple(gpus) for node, gpus in found.items()}
