"""What to run on one GPU: the mechanism, the number of replicas, the batch, and why.

A node's GPU is shared in one way: a row of cuts by rising number of replicas. Where somebody asks about a GPU and does
not say how it is shared, whole GPU and MPS are one row, each MIG profile is another, and a row must beat the one before
by the step that a replica must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from slmpack.domain.choice import Ask, BoundsNotKept, Choice, Option, Question, choose
from slmpack.domain.cut import CannotCut, Cut, cut_gpu
from slmpack.domain.gpu import GpuModel
from slmpack.domain.part import Part, largest_part, part_at
from slmpack.domain.performance import Unpredictable, rates
from slmpack.domain.prediction import Sharing
from slmpack.domain.serving import Engine
from slmpack.domain.snapshot import Policy
from slmpack.domain.workload import Objective

__all__ = ["MOST_REPLICAS", "Decision", "decide", "decide_at", "decide_row", "operated", "ways_of"]

MOST_REPLICAS = 8
"""Replicas on one GPU that are tried; nobody has published a gain from more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer for one GPU."""

    part: Part
    """Of each replica that is chosen; where nothing fits or nothing can be said, of the first choice."""
    choice: Choice | BoundsNotKept | Unpredictable | None
    """None: nothing fits."""


def ways_of(
    gpu: GpuModel,
    sharing: Sharing | None = None,
    *,
    mig_profile: str | None = None,
    replicas: int | None = None,
    sm_percent: int | None = None,
) -> tuple[tuple[Cut, ...], ...] | CannotCut:
    """Rows of cuts by rising number of replicas, one row for each mechanism that is left open; at least one.

    With `replicas` the GPU is set up for that many, of which fewer may run. Without a mechanism: whole GPU and MPS,
    then the MIG profiles that the GPU holds more than once (else the rest of it would lie idle).
    """
    kinds: list[tuple[Sharing | None, str | None]] = [(sharing, mig_profile)]
    if mig_profile is None and sharing in {None, Sharing.MIG}:
        profiles = [profile for profile in gpu.mig_profiles if "+" not in profile.name]
        kinds = [(Sharing.MIG, p.name) for p in profiles if sharing is Sharing.MIG or p.max_instances > 1]
        kinds = kinds or [(Sharing.MIG, None)]
        kinds = kinds if sharing is Sharing.MIG else [(None, None), *kinds]
    rows = [_row(gpu, kind, profile, replicas=replicas, sm_percent=sm_percent) for kind, profile in kinds]
    return tuple(row for row in rows if not isinstance(row, CannotCut)) or next(
        row for row in rows if isinstance(row, CannotCut)
    )


def _row(
    gpu: GpuModel, sharing: Sharing | None, profile: str | None, *, replicas: int | None, sm_percent: int | None
) -> tuple[Cut, ...] | CannotCut:
    """Without a mechanism: the whole GPU for one replica, MPS for more."""

    def cut(count: int) -> Cut | CannotCut:
        way = sharing or (Sharing.NONE if count == 1 else Sharing.MPS)
        return cut_gpu(gpu, sharing=way, replicas=count, mig_profile=profile, sm_percent=sm_percent)

    first = cut(replicas or 1)
    if isinstance(first, CannotCut):
        return first
    if replicas is not None:
        return tuple(replace(first, replicas=count) for count in range(1, replicas + 1))
    more = (cut(count) for count in range(2, MOST_REPLICAS + 1))
    return (first, *(found for found in more if isinstance(found, Cut)))


def decide(ask: Ask, rows: Sequence[Sequence[Cut]], *, policy: Policy) -> Decision:
    """The row and the number of replicas that pay best. Every row has a cut at least.

    Rows after a whole GPU's answer under its load, and hold the ITL that the knee's rule allows a replica alone on it.
    """
    best = decide_row(ask, rows[0], policy=policy)
    alike = _alike(ask, rows[0][0], best, policy) if len(rows) > 1 else ask
    won = None
    for row in rows[1:]:
        other = decide_row(alike, row, policy=policy)
        if _is_better(other, best, ask, policy):
            best, won = other, row
    if won is None or alike.assumed_in_flight is None or not isinstance(best.choice, Choice):
        return best
    return _under_its_own_load(alike, won, best.choice.replicas_per_gpu, policy)


def _alike(ask: Ask, first: Cut, found: Decision, policy: Policy) -> Ask:
    """The same question under the load and the latency that the first row was answered with."""
    if ask.workload.assumed and isinstance(found.choice, Choice):
        ask = replace(ask, assumed_in_flight=found.choice.workload.in_flight)
    if first.site.sharing is not Sharing.NONE:
        return ask
    alone = _alone(ask, first, policy)
    return ask if isinstance(alone, Unpredictable) else replace(ask, reference_itl_s=alone)


def _alone(ask: Ask, cut: Cut, policy: Policy) -> float | Unpredictable:
    """ITL of one replica with the cut's site to itself, at the knee's reference batch."""
    batch = policy.choice.knee.itl_reference_batch
    part = part_at(ask.engine, cut, batch, kv_tokens=0, policy=policy)
    tenant = part.tenant(ask.workload, in_flight=batch, prefix_hit_rate=ask.workload.prefix_hit_rate)
    alone = rates((tenant,), cut.site, ask.constants)
    return alone if isinstance(alone, Unpredictable) else alone[0].itl_s


def _under_its_own_load(ask: Ask, row: Sequence[Cut], replicas: int, policy: Policy) -> Decision:
    """The answer for the row that won, with its own knee in the load that is assumed; no more replicas than won."""
    some = row if ask.replicas is not None else [cut for cut in row if cut.replicas <= replicas]
    own = replace(ask, assumed_in_flight=None, replicas=ask.replicas or replicas)
    return decide_row(own, some, policy=policy)


def _is_better(found: Decision, best: Decision, ask: Ask, policy: Policy) -> bool:
    """Whether it fits where the best so far does not, or gains a step of which the model is certain."""
    if not isinstance(found.choice, Choice):
        return found.part.fits and not best.part.fits
    if not isinstance(best.choice, Choice):
        return True
    if found.choice.carries != best.choice.carries:
        return found.choice.carries
    mine, theirs = found.choice.prediction, best.choice.prediction
    match ask.objective:
        case Objective.THROUGHPUT:
            gain = mine.throughput_tok_s.expected / theirs.throughput_tok_s.expected
        case Objective.LATENCY:
            gain = theirs.tenants[0].itl_s.expected / mine.tenants[0].itl_s.expected
        case Objective.ENERGY:
            gain = theirs.energy_j_per_token.expected / mine.energy_j_per_token.expected
        case _:
            assert_never(ask.objective)
    return gain >= policy.choice.pays.step_gain + ask.constants.sharing.difference


def decide_row(ask: Ask, row: Sequence[Cut], *, policy: Policy) -> Decision:
    """The number of replicas that pays, and their batch: of one way to share, with rising numbers, at least one."""
    live = ask.workload.live_tokens
    kv_tokens = ask.engine.least_kv_tokens(live)
    parts: list[Part] = []
    for cut in row:  # equal shares, as those of a node or of MIG instances are, are worked out once
        same = bool(parts) and parts[-1].cut.share == cut.share
        found = (
            parts[-1] if same else largest_part(ask.engine, cut, live_tokens=live, kv_tokens=kv_tokens, policy=policy)
        )
        parts.append(replace(found, cut=cut))
    fitting = [part for part in parts if part.fits]
    if not fitting:
        return Decision(part=parts[0], choice=None)
    choice = choose(_question(ask, fitting), policy=policy.choice)
    if isinstance(choice, Choice):
        cut, sequences = _with(choice.replicas_per_gpu, fitting).cut, choice.max_num_seqs
    elif isinstance(choice, BoundsNotKept):
        cut, sequences = fitting[0].cut, ask.engine.first_num_seqs  # the nearest to what is asked
    else:
        cut = fitting[0].cut
        sequences = ask.engine.max_num_seqs or min(fitting[0].sequences, policy.unpredicted_num_seqs)
    return Decision(part=part_at(ask.engine, cut, sequences, kv_tokens=kv_tokens, policy=policy), choice=choice)


def decide_at(ask: Ask, cut: Cut, *, policy: Policy) -> Decision:
    """The batch of the cut's replicas, all of them running; they keep to the ITL of one that is alone there."""
    alone = _alone(ask, cut, policy)
    if not isinstance(alone, Unpredictable):
        ask = replace(ask, reference_itl_s=alone)
    return decide_row(ask, (cut,), policy=policy)


def operated(ask: Ask, cut: Cut, *, policy: Policy) -> Engine:
    """The ask's engine with the batch that all of the cut's replicas should run; as it is where none would fit."""
    part = decide_at(ask, cut, policy=policy).part
    if not part.fits:
        return ask.engine
    return replace(ask.engine, max_num_seqs=part.sequences, most_num_seqs=part.sequences)


def _with(replicas: int, parts: Sequence[Part]) -> Part:
    return next(part for part in parts if part.cut.replicas == replicas)


def _question(ask: Ask, parts: Sequence[Part]) -> Question:
    options = (
        Option(replicas=part.cut.replicas, site=part.cut.site, kv_cache_tokens=part.room.kv_cache_tokens)
        for part in parts
    )
    return Question(ask=ask, options=tuple(options), most_num_seqs=parts[0].sequences)
