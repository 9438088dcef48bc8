"""How a replica fits a node's share and what pays there: the batch, the flags, the replicas that a GPU should carry.

The decision is that of `decide`, for a GPU that is cut as the node's are. The stated load is that of the whole
SLMDeployment: R replicas on a GPU face R / replicas of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, inf

from slmpack.domain.choice import Ask, BoundsNotKept, Choice
from slmpack.domain.cut import Cut, cut_pack
from slmpack.domain.decide import MOST_REPLICAS, Decision, decide_at, decide_row
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.gpu import GpuModel
from slmpack.domain.knee import Binding
from slmpack.domain.part import Part
from slmpack.domain.performance import Unpredictable
from slmpack.domain.profile_use import calibration_for
from slmpack.domain.reasons import Problem
from slmpack.domain.room import Room
from slmpack.domain.serving import Engine
from slmpack.domain.sharing import Exclusive, MpsPack, MpsShare, Share, Unit
from slmpack.domain.site import site_of
from slmpack.domain.sizing import Need, engine_of, room_in
from slmpack.domain.snapshot import Demand, Policy

__all__ = ["Fit", "Kind", "fit_pack", "fit_share"]

REMEMBERED = 4096
"""Fits: deployments * kinds of offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A replica on a share."""

    need: Need
    """At the batch that is run, with the KV cache that it fills at the mean length."""
    settings: EngineSettings
    choice: Choice | BoundsNotKept | Unpredictable | None
    """What pays; None while the model is unknown."""
    pays: int | None
    """Replicas of the deployment that one GPU should carry; None: no bound."""
    notes: tuple[str, ...] = ()
    """Why the profile that the spec refers to is not used, and what the figures stand for."""
    part: Part | None = field(default=None, compare=False, repr=False)
    """Of each replica, as decided; None while the model is unknown."""
    ask: Ask | None = field(default=None, compare=False, repr=False)
    """What was decided with it."""

    @property
    def sufficient(self) -> bool:
        """Whether its KV cache holds the knee's batch, and it carries its part of a load that somebody stated."""
        if not isinstance(self.choice, Choice):
            return True
        return self.choice.knee.binding is not Binding.KV_CACHE and (self.choice.assumed or self.choice.carries)

    @property
    def each_tok_s(self) -> float:
        """Expected output tokens a second of one replica; 0 where nothing is predicted."""
        return self.choice.prediction.tenants[0].throughput_tok_s.expected if isinstance(self.choice, Choice) else 0.0

    @property
    def joules_per_token(self) -> float:
        """Expected, of a GPU at its part of the load; infinity where nothing is predicted."""
        return self.choice.prediction.energy_j_per_token.expected if isinstance(self.choice, Choice) else inf

    @property
    def carries(self) -> bool | None:
        """Whether the GPU's part of the load runs within the bounds; None where nobody can tell."""
        return self.choice.carries if isinstance(self.choice, Choice) else None

    @property
    def no_more(self) -> str:
        """Why one more replica does not pay, or why nobody can tell; empty where there is no further share."""
        if isinstance(self.choice, Choice):
            return self.choice.no_more
        return "" if self.choice is None else self.choice.reason

    @property
    def refusal(self) -> str:
        """The one of `reasons` that tells of `no_more`, as it stands there; empty where none does."""
        if isinstance(self.choice, Choice):
            return self.choice.refusal
        return self.no_more

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in sentences: what was wrong with the profile, and the decision's."""
        if isinstance(self.choice, Choice):
            return (*self.notes, *self.choice.reasons)
        return self.notes if self.choice is None else (*self.notes, self.choice.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What tells offers apart, whatever node they are on."""

    share: Unit
    per_gpu: int
    """Such shares on one GPU."""
    gpu: GpuModel


@lru_cache(maxsize=REMEMBERED)
def fit_share(demand: Demand, need: Need, kind: Kind, policy: Policy) -> Fit | None:
    """The fit on a share of this kind, or None if the least need does not fit it.

    Remembered: the next cycle asks the same, and most nodes are alike.
    """
    room = room_in(kind.share, need, policy)
    if not room.fits:
        return None
    engine = engine_of(demand, policy)
    if isinstance(engine, Problem):
        return _unknown(need, room)
    ask, notes = _ask(demand, engine, kind.gpu, policy)
    row = _row(kind)[: max(1, demand.replicas)]
    found = decide_row(ask, row, policy=policy)
    pays = _pays(kind.share, found.choice, most=len(row))
    return replace(_fit(demand, need, found, pays=pays, notes=notes), ask=ask)


@lru_cache(maxsize=REMEMBERED)
def fit_pack(demand: Demand, need: Need, whole: Exclusive, gpu: GpuModel, policy: Policy) -> tuple[MpsPack, Fit] | None:
    """The pack of a whole GPU, and the fit of each of its engines; None if not even one fits under MPS.

    As many engines as pay, at most as many as are wanted; as many as fit of spec.sharing.maxPerGPU where that is
    stated. One where nobody can predict what pays.
    """
    stated, clients = demand.max_per_gpu, gpu.mps_max_clients or 0
    most = min(clients, stated or min(MOST_REPLICAS, max(1, demand.replicas)))
    packs = [cut_pack(gpu, whole, engines=count, sm_percent=demand.sm_percent) for count in range(1, most + 1)]
    row = [cut for cut in packs if room_in(cut.share, need, policy).fits]
    if not row:
        return None
    last = row[-1] if stated else row[0]
    engine = engine_of(demand, policy)
    if isinstance(engine, Problem):
        return _pack_of(last), _unknown(need, room_in(last.share, need, policy))
    ask, notes = _ask(demand, engine, gpu, policy)
    best = decide_row(ask, row[:MOST_REPLICAS], policy=policy)
    found = decide_at(ask, last, policy=policy) if stated else best
    cut = found.part.cut
    pays = cut.replicas if stated or cut.replicas < most else None
    fit = _fit(demand, need, found, pays=pays, notes=(*notes, *_overruled(cut, best)))
    return _pack_of(cut), replace(fit, ask=ask)


def _overruled(cut: Cut, best: Decision) -> tuple[str, ...]:
    """What would have been chosen where spec.sharing.maxPerGPU asks for another number."""
    if not isinstance(best.choice, Choice) or best.choice.replicas_per_gpu == cut.replicas:
        return ()
    pay = best.choice.replicas_per_gpu
    return (f"spec.sharing.maxPerGPU asks for a pack of {cut.replicas}; by prediction {pay} {_pay(pay)} on this GPU.",)


def _pay(count: int) -> str:
    return "pays" if count == 1 else "pay"


def _pack_of(cut: Cut) -> MpsPack:
    assert isinstance(cut.share, MpsPack)  # noqa: S101 - it was cut so
    return cut.share


def _unknown(need: Need, room: Room) -> Fit:
    """The fit while the model is unknown: what was recorded of it."""
    settings = room.settings(
        max_model_len=need.max_model_len,
        max_num_seqs=need.max_num_seqs,
        max_num_batched_tokens=need.max_num_batched_tokens,
    )
    return Fit(need=need, settings=settings, choice=None, pays=None)


def _ask(demand: Demand, engine: Engine, gpu: GpuModel, policy: Policy) -> tuple[Ask, tuple[str, ...]]:
    """The question for a GPU, and why the profile that the spec refers to is not used there."""
    calibration, notes = calibration_for(demand, engine, gpu, policy)
    ask = Ask(
        engine=engine,
        constants=policy.performance.constants_for(demand.engine_version),
        workload=demand.workload,
        bounds=demand.bounds,
        objective=demand.objective,
        spread_over=max(1, demand.replicas),
        calibration=calibration,
    )
    return ask, notes


def _fit(demand: Demand, need: Need, found: Decision, *, pays: int | None, notes: tuple[str, ...]) -> Fit:
    part = found.part
    return Fit(
        need=_need_at(part, need, demand.workload.live_tokens),
        settings=part.settings,
        choice=found.choice,
        pays=pays,
        notes=(*notes, *_notes(part.cut.share, demand, found.choice)),
        part=part,
    )


def _need_at(part: Part, need: Need, live_tokens: float) -> Need:
    """The need at the batch that is run, with the KV cache that it fills at the mean length, if there is as much."""
    filled = min(ceil(part.sequences * live_tokens), part.room.kv_cache_tokens)
    return replace(
        need,
        footprint=part.footprint,
        max_num_seqs=part.sequences,
        max_num_batched_tokens=part.settings.max_num_batched_tokens,
        kv_tokens=max(need.kv_tokens, filled),
    )


def _pays(share: Share, choice: Choice | BoundsNotKept | Unpredictable | None, *, most: int) -> int | None:
    """Nothing where all pay that the GPU holds or that are wanted.

    What nobody can predict counts as no gain where replicas share a GPU's bandwidth (D7), and as no bound else.
    """
    if isinstance(choice, Choice):
        return choice.replicas_per_gpu if choice.replicas_per_gpu < most else None
    return 1 if isinstance(share, MpsShare) else None


def _notes(share: Share, demand: Demand, choice: Choice | BoundsNotKept | Unpredictable | None) -> tuple[str, ...]:
    """What the figures of the decision stand for."""
    notes = []
    if isinstance(choice, Choice) and not demand.workload.assumed and choice.replicas_per_gpu < demand.replicas:
        notes.append(
            f"Figures are for a GPU with {choice.replicas_per_gpu} of the {demand.replicas} replicas, which carries "
            "that part of the load."
        )
    if isinstance(share, MpsShare):
        percent = share.active_thread_percentage
        notes.append(f"Each replica has {percent} % of the multiprocessors at most, as the device plugin sets it.")
    return tuple(notes)


def _row(kind: Kind) -> tuple[Cut, ...]:
    """What one GPU can carry: 1, 2, ... replicas, all shares alike."""
    site = site_of(kind.share, kind.gpu)
    return tuple(Cut(site=site, replicas=k, share=kind.share) for k in range(1, kind.per_gpu + 1))
