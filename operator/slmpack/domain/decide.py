"""What to run on one GPU that somebody asks about: the mechanism, the number of replicas, the batch, and why.

Where nobody says how much load there is, R replicas are assumed to face R times the knee of one (D7), and R is the
largest number that pays for its own assumed load. Where nobody says how the GPU is shared, whole GPU and MPS are one
row of choices, each MIG profile is another, and a row must beat the one before by the step that a replica must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from slmpack.domain.choice import Choice, Curves, Option, Question, choose
from slmpack.domain.gpu import GpuModel
from slmpack.domain.performance import Unpredictable, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Sharing
from slmpack.domain.prospect import Engine, Part, largest_part, part_at, tenant_of
from slmpack.domain.snapshot import Policy
from slmpack.domain.whatif import CannotCut, Cut, cut_gpu
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = ["MOST_REPLICAS", "Ask", "Decision", "decide", "ways_of"]

MOST_REPLICAS = 8
"""Replicas on one GPU that are tried; nobody has published a gain from more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one GPU is to serve."""

    engine: Engine
    constants: EngineConstants
    workload: Workload
    bounds: Bounds
    objective: Objective
    batch: int | None = None
    """Requests in flight at each replica, where the load is given like that."""
    replicas: int | None = None
    """Replicas that bring the load, where their number is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer for one GPU."""

    part: Part
    """Of each replica that is chosen; where nothing fits or nothing can be said, of the first choice."""
    choice: Choice | Unpredictable | None
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
    best = _decide_row(ask, rows[0], policy)
    alike = _alike(ask, rows[0][0], best, policy) if len(rows) > 1 else ask
    for row in rows[1:]:
        other = _decide_row(alike, row, policy)
        if _is_better(other, best, ask, policy):
            best = other
    return best


def _alike(ask: Ask, first: Cut, found: Decision, policy: Policy) -> Ask:
    """The same question under the load and the latency that the first row was answered with."""
    if ask.workload.assumed and isinstance(found.choice, Choice):
        ask = replace(ask, workload=replace(ask.workload, in_flight=found.choice.workload.in_flight))
    if first.site.sharing is not Sharing.NONE:
        return ask
    rule, engine = policy.choice.knee, ask.engine
    batch = rule.itl_reference_batch
    tenant = tenant_of(engine, part_at(engine, first, batch, policy=policy), ask.workload, in_flight=batch)
    alone = rates((tenant,), first.site, ask.constants)
    if isinstance(alone, Unpredictable):
        return ask
    limit = rule.itl_factor * alone[0].itl_s
    return replace(ask, bounds=replace(ask.bounds, itl_s=min(limit, ask.bounds.itl_s or limit)))


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


def _decide_row(ask: Ask, row: Sequence[Cut], policy: Policy) -> Decision:
    parts = _parts(ask, row, policy)
    fitting = [part for part in parts if part.fits]
    if not fitting:
        return Decision(part=parts[0], choice=None)
    choice = _choose(ask, fitting, policy)
    if isinstance(choice, Unpredictable):
        return Decision(part=fitting[0], choice=choice)
    cut = next(part.cut for part in fitting if part.cut.replicas == choice.replicas_per_gpu)
    return Decision(part=part_at(ask.engine, cut, choice.max_num_seqs, policy=policy), choice=choice)


def _parts(ask: Ask, row: Sequence[Cut], policy: Policy) -> list[Part]:
    """The part of each cut; equal shares, as those of MIG instances are, are worked out once."""
    grid, live = policy.choice.knee.grid, ask.workload.live_tokens
    parts: list[Part] = []
    for cut in row:
        if parts and parts[-1].cut.share == cut.share:
            parts.append(replace(parts[-1], cut=cut))
        else:
            parts.append(largest_part(ask.engine, cut, grid=grid, live_tokens=live, policy=policy))
    return parts


def _choose(ask: Ask, parts: Sequence[Part], policy: Policy) -> Choice | Unpredictable:
    """With a load by replica or none at all: the largest number that pays for the load that it brings.

    Fewer replicas bring less load, and less load pays for fewer replicas: the way down ends at that number.
    """
    wanted = ask.replicas or parts[-1].cut.replicas
    stated = ask.replicas is not None or (ask.batch is None and not ask.workload.assumed)
    curves = Curves(_question(ask, parts, wanted), policy.choice)
    while True:
        found = choose(_question(ask, parts, wanted), policy=policy.choice, curves=curves)
        if stated or isinstance(found, Unpredictable) or found.replicas_per_gpu >= wanted:
            return found
        wanted = found.replicas_per_gpu


def _question(ask: Ask, parts: Sequence[Part], replicas: int) -> Question:
    engine = ask.engine
    workload = ask.workload
    if ask.batch is not None:
        workload = replace(workload, in_flight=float(ask.batch * replicas))
    sequences = parts[0].sequences
    return Question(
        model=engine.model,
        options=tuple(
            Option(replicas=part.cut.replicas, site=part.cut.site, kv_cache_tokens=part.room.kv_cache_tokens)
            for part in parts
        ),
        workload=workload,
        bounds=ask.bounds,
        objective=ask.objective,
        replicas=replicas,
        constants=ask.constants,
        cpu_cores=engine.cpu_cores,
        most_num_seqs=sequences,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        enforce_eager=engine.enforce_eager,
        kv_element_bytes=engine.kv_element_bytes,
        fixed=engine.max_num_seqs is not None,
    )
