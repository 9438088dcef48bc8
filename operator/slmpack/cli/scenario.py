"""What `predict` is asked, as tenants on a site: their parts of the GPU, their load, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import click

from slmpack.cli.operated import as_operated
from slmpack.cli.pack_file import Pack
from slmpack.cli.question import Asked, Subject, cannot_cut, find_gpu, read_subject
from slmpack.domain.curve import CurvePoint
from slmpack.domain.cut import CannotCut, Cut, cut_gpu, cut_unequally
from slmpack.domain.knee import Knee, KneePolicy, find_knee
from slmpack.domain.open_loop import settle
from slmpack.domain.part import Part, largest_part, own_hit_rate
from slmpack.domain.performance import Unpredictable, predict, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import GpuPrediction, Sharing, Site, Tenant
from slmpack.domain.snapshot import Policy
from slmpack.domain.workload import Bounds, Workload

__all__ = ["Group", "Scenario", "read_scenario"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Equal replicas."""

    subject: Subject
    replicas: int
    part: Part
    """Of each."""
    workload: Workload
    """Of all of them together; where nobody gave a load, the requests in flight that are assumed."""
    assumed: bool
    """Whether nobody gave a load."""
    hit_rate: float
    """Prefix hits of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A GPU with its replicas, and what the model says of them."""

    site: Site
    groups: tuple[Group, ...]
    bounds: Bounds
    prediction: GpuPrediction | Unpredictable | None
    """Its tenants are the groups' replicas, group by group; None where not all of them fit."""
    steady: bool
    """False: requests come faster than they are answered."""

    @property
    def replicas(self) -> int:
        """On the GPU."""
        return sum(group.replicas for group in self.groups)

    @property
    def fits(self) -> bool:
        """Whether every engine would start."""
        return all(group.part.fits for group in self.groups)


def read_scenario(asked: Asked, pack: Pack | None, policy: Policy) -> Scenario:
    """The answer. Raises click.ClickException where the question cannot be used."""
    top = asked if pack is None else pack.asked
    entries = [(asked, None)] if pack is None else [(entry.asked, entry.limit_mib) for entry in pack.tenants]
    counts = [entry.replicas or 1 for entry, _ in entries]
    cut = _cut(top, replicas=sum(counts))
    limits = [limit for (_, limit), count in zip(entries, counts, strict=True) for _ in range(count)]
    parts = _named(cut_unequally(cut, limits)) if any(limit is not None for limit in limits) else (cut,) * len(limits)
    subjects = [read_subject(entry, policy) for entry, _ in entries]
    if len({subject.version for subject in subjects}) > 1:
        raise click.UsageError("the replicas of one GPU run one --engine-version; write it once, for all of them")
    constants = policy.performance.constants_for(subjects[0].version)
    groups = tuple(
        _group(entry, subject, parts[sum(counts[:number])], count, constants, policy)
        for number, ((entry, _), subject, count) in enumerate(zip(entries, subjects, counts, strict=True))
    )
    return _predict(cut.site, groups, top.bounds, constants)


def _cut(asked: Asked, *, replicas: int) -> Cut:
    asked.check()
    gpu = find_gpu(asked.gpu)
    if asked.mechanism is None and replicas > 1:
        raise click.UsageError(f"{replicas} replicas need --sharing mig, mps or timeslice; add one of them")
    sharing = asked.mechanism or Sharing.NONE
    return _named(
        cut_gpu(gpu, sharing=sharing, replicas=replicas, mig_profile=asked.mig_profile, sm_percent=asked.sm_percent)
    )


def _named(found: T | CannotCut) -> T:
    if isinstance(found, CannotCut):
        raise cannot_cut(found)
    return found


def _group(  # noqa: PLR0913, PLR0917 - one engine's question, its part, and what answers it
    asked: Asked, subject: Subject, cut: Cut, replicas: int, constants: EngineConstants, policy: Policy
) -> Group:
    asked.check()
    workload = asked.workload(subject.engine, replicas=replicas)
    subject = as_operated(asked, subject, replace(cut, replicas=replicas), workload, policy)
    engine, live = subject.engine, workload.live_tokens
    # here the load is a fact, not a plan: an engine starts where its KV cache holds one request of max_model_len
    part = largest_part(engine, cut, live_tokens=live, kv_tokens=engine.max_model_len, policy=policy)
    assumed = workload.assumed
    hits = own_hit_rate(part, workload, policy=policy)
    group = Group(subject=subject, replicas=replicas, part=part, workload=workload, assumed=assumed, hit_rate=hits)
    if not assumed:
        return group
    in_flight = float(replicas * _knee(group, asked.bounds, constants, policy.choice.knee))
    return replace(group, workload=replace(workload, in_flight=in_flight))


def _knee(group: Group, bounds: Bounds, constants: EngineConstants, rule: KneePolicy) -> int:
    """The knee's batch of one replica alone on the site (D7); where there is none, one sequence at a time."""
    site = group.part.cut.site

    def point(batch: float) -> CurvePoint:
        found = rates((_tenant(group, in_flight=batch),), site, constants)
        if isinstance(found, Unpredictable):
            return CurvePoint(batch=batch, throughput_tok_s=batch, itl_s=1.0)
        one = found[0]
        return CurvePoint(batch=batch, throughput_tok_s=one.throughput_tok_s, itl_s=one.itl_s, ttft_s=one.ttft_s)

    most = group.part.room.kv_cache_tokens / group.workload.live_tokens
    knee = find_knee(point, rule, bounds, most=max(1.0, most), limit=group.part.sequences)
    return knee.batch if isinstance(knee, Knee) else 1


def _tenant(group: Group, *, in_flight: float) -> Tenant:
    return group.part.tenant(group.workload, in_flight=in_flight, prefix_hit_rate=group.hit_rate)


def _predict(site: Site, groups: Sequence[Group], bounds: Bounds, constants: EngineConstants) -> Scenario:
    scenario = Scenario(site=site, groups=tuple(groups), bounds=bounds, prediction=None, steady=False)
    if not scenario.fits:
        return scenario
    tenants: list[Tenant] = []
    arrivals: list[float | None] = []
    for group in groups:
        share = (group.workload.in_flight or 1.0) / group.replicas
        rate = group.workload.request_rate
        tenants += [_tenant(group, in_flight=share)] * group.replicas
        arrivals += [None if rate is None else rate / group.replicas] * group.replicas
    settled = settle(tenants, arrivals, site, constants)
    if isinstance(settled, Unpredictable):
        return replace(scenario, prediction=settled)
    return replace(scenario, prediction=predict(settled.tenants, site, constants), steady=settled.steady)
