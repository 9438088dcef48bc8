"""How a replica fits a share and what pays there: the batch, the engine flags, the replicas that a GPU should carry.

The batch: the largest that the share's memory holds is the limit; the knee below it is what runs (D7). The number: R
replicas on a GPU pay if R is what pays for the part of the load that R replicas carry, R / replicas of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from typing import assert_never

from slmpack.domain.calibration import Calibration
from slmpack.domain.choice import Choice, Option, Question, choose
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.gpu import GpuModel
from slmpack.domain.knee import Binding
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import Sharing, Site
from slmpack.domain.profile_use import calibration_for
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare, Share
from slmpack.domain.sizing import (
    Need,
    at_batch,
    batch_limits,
    fit_settings,
    is_eager,
    kv_bytes_of,
    kv_pool_tokens,
)
from slmpack.domain.snapshot import Demand, ModelUnknown, Policy
from slmpack.domain.workload import Workload

__all__ = ["Fit", "Kind", "fit_share"]

REMEMBERED = 4096
"""Fits: deployments * kinds of offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A replica on a share."""

    need: Need
    """At the batch that is run, with the KV cache that it fills at the mean length."""
    settings: EngineSettings
    choice: Choice | Unpredictable | None
    """What pays; None while the model is unknown."""
    pays: int | None
    """Replicas of the deployment that one GPU should carry; None: no bound."""
    no_more: str = ""
    """Why the replica after those that pay does not, or why nobody can tell; empty where there is no further share."""
    notes: tuple[str, ...] = ()
    """Why the profile that the spec refers to is not used."""

    @property
    def short_of_kv(self) -> bool:
        """Whether a larger batch would pay if only the KV cache held it."""
        return isinstance(self.choice, Choice) and self.choice.knee.binding is Binding.KV_CACHE

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in sentences: the decision's, and what was wrong with the profile."""
        match self.choice:
            case Choice():
                further = (self.no_more,) if self.no_more and self.no_more not in self.choice.reasons else ()
                return (*self.notes, *self.choice.reasons, *further)
            case Unpredictable():
                return (*self.notes, self.choice.reason)
            case None:
                return self.notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What tells offers apart, whatever node they are on."""

    share: Share
    per_gpu: int
    """Such shares on one GPU."""
    gpu: GpuModel


@lru_cache(maxsize=REMEMBERED)
def fit_share(demand: Demand, need: Need, kind: Kind, policy: Policy) -> Fit | None:
    """The fit on a share of this kind, or None if the least need does not fit it.

    Remembered: the next cycle asks the same, and most nodes are alike.
    """
    share = kind.share
    settings = fit_settings(share, need, policy)
    if settings is None:
        return None
    if isinstance(demand.model, ModelUnknown):
        return Fit(need=need, settings=settings, choice=None, pays=None)
    most = _largest_held(demand, need, share, policy)
    options = _options(kind, kv_tokens=kv_pool_tokens(share, most, policy))
    calibration, notes = calibration_for(demand, demand.model, kind.gpu, policy)
    choice, no_more = _choose(demand, most, options, policy, calibration)
    batch = choice.max_num_seqs if isinstance(choice, Choice) else min(most.max_num_seqs, policy.unpredicted_num_seqs)
    chosen = at_batch(need, demand, policy, max_num_seqs=batch)
    live = ceil(batch * demand.workload.live_tokens)
    chosen = replace(chosen, kv_tokens=max(need.kv_tokens, live))
    return Fit(
        need=chosen,
        settings=fit_settings(share, chosen, policy) or settings,
        choice=choice,
        pays=_pays(share, choice),
        notes=notes,
        no_more=no_more or (choice.reason if isinstance(choice, Unpredictable) else ""),
    )


def _pays(share: Share, choice: Choice | Unpredictable) -> int | None:
    """What nobody can predict counts as no gain where replicas share a GPU's bandwidth (D7), and as no bound else."""
    if isinstance(choice, Unpredictable):
        return 1 if isinstance(share, MpsShare) else None
    return choice.replicas_per_gpu


def _largest_held(demand: Demand, need: Need, share: Share, policy: Policy) -> Need:
    """The need at the largest batch of the grid whose KV cache the share holds at the mean length."""
    _, most = batch_limits(demand, policy)
    for batch in sorted({most, *policy.choice.knee.grid}, reverse=True):
        if need.max_num_seqs < batch <= most:
            larger = at_batch(need, demand, policy, max_num_seqs=batch)
            if kv_pool_tokens(share, larger, policy) >= max(need.kv_tokens, batch * demand.workload.live_tokens):
                return larger
    return need


def _choose(
    demand: Demand, need: Need, options: Sequence[Option], policy: Policy, calibration: Calibration | None
) -> tuple[Choice | Unpredictable, str]:
    """The largest number that pays for the load that it would carry, and why one more does not.

    So many replicas carry their part of the load: the whole, where all that are wanted are on the GPU.
    """
    wanted, no_more = max(1, demand.replicas), ""
    for count in range(len(options), 0, -1):
        question = _question(demand, need, tuple(options[:count]), policy, carried=min(1.0, count / wanted))
        question = replace(question, calibration=calibration)
        choice = choose(question, policy=policy.choice)
        if isinstance(choice, Unpredictable) or choice.replicas_per_gpu == count:
            break
        no_more = choice.steps[-1].text
    return choice, no_more


def _question(demand: Demand, need: Need, options: tuple[Option, ...], policy: Policy, *, carried: float) -> Question:
    assert not isinstance(demand.model, ModelUnknown)  # noqa: S101 - its only caller has asked
    return Question(
        model=demand.model,
        options=options,
        workload=_part(demand.workload, carried),
        bounds=demand.bounds,
        objective=demand.objective,
        replicas=len(options),
        constants=policy.performance.constants_for(demand.engine_version),
        cpu_cores=demand.cpu_millicores / 1000,
        most_num_seqs=need.max_num_seqs,
        fixed=batch_limits(demand, policy)[0] == batch_limits(demand, policy)[1],
        max_num_batched_tokens=need.max_num_batched_tokens,
        enforce_eager=is_eager(demand),
        kv_element_bytes=kv_bytes_of(demand, demand.model),
    )


def _part(workload: Workload, carried: float) -> Workload:
    return replace(
        workload,
        in_flight=None if workload.in_flight is None else workload.in_flight * carried,
        request_rate=None if workload.request_rate is None else workload.request_rate * carried,
    )


def _options(kind: Kind, *, kv_tokens: int) -> tuple[Option, ...]:
    """What one GPU can carry: 1, 2, ... replicas, all shares alike."""
    share, gpu = kind.share, kind.gpu
    match share:
        case Exclusive():
            site = Site(gpu=gpu, sharing=Sharing.NONE)
        case MigSlice():
            profile = next((p for p in gpu.mig_profiles if p.name.replace("+", ".") == share.profile), None)
            site = Site(gpu=gpu, sharing=Sharing.MIG, mig_profile=profile)
        case MpsShare():
            site = Site(gpu=gpu, sharing=Sharing.MPS, sm_percent=share.active_thread_percentage)
        case _:
            assert_never(share)
    return tuple(Option(replicas=k, site=site, kv_cache_tokens=kv_tokens) for k in range(1, kind.per_gpu + 1))
