"""`oracle`: a planner that knows every arrival and how long each start will take; and a fluid bound below any policy.

The oracle is a planning heuristic, swept over how full it plans replicas and over how short a burst it covers; its
cheapest point that keeps the SLO is an upper bound on what the best possible policy costs. The fluid bound is an
estimate from below: all work at perfect packing, with no latency to keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from slmpack.domain.contention import shared_alike
from slmpack.simulate.costs import EngineSpec
from slmpack.simulate.ground import Engines, Ground
from slmpack.simulate.policies.base import Bounds, Scaler, Seen
from slmpack.simulate.starts import PRESETS, Starts
from slmpack.simulate.trace import Trace
from slmpack.simulate.truth import draw_truth

__all__ = [
    "ORACLE_RULES",
    "Clairvoyant",
    "Oracle",
    "OracleRule",
    "Work",
    "fluid_gpu_hours",
    "replicas_needed",
    "work_of",
    "works_of",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TICK_S = 1.0
_GROW = 1.05
"""Steps of the search for the batch that a TPOT bound allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleRule:
    """What is swept: `load`, the part of a replica's capacity planned with, and the burst that is still covered."""

    load: float
    window_s: float

    @property
    def label(self) -> str:
        """In words."""
        return f"load={self.load:g} over {self.window_s:g} s"


ORACLE_RULES = tuple(
    OracleRule(load=load, window_s=window)
    for window in (3.0, 12.0, 45.0)
    for load in (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.9, 1.1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One tenant's requests as seconds of one replica that is alone on its GPU."""

    tenant: int
    arrival_s: Floats
    seconds: Floats
    """By request: its prompt, and its part of decoding steps at the largest batch that the TPOT bound allows."""
    gain: tuple[float, ...]
    """What 1, 2, ... replicas on one GPU get done, in replicas alone; as many as may share one."""
    fluid: Floats
    """By request: GPU seconds at perfect packing."""


def work_of(trace: Trace, tenant: int, *, spec: EngineSpec, tpot_s: float, per_gpu: int) -> Work:
    """The work of a tenant on engines of one kind, `per_gpu` of them to a GPU.

    `tpot_s` is the bound on the mean time of a further token. MIG slices do not slow each other; under MPS the device
    is shared by the closed network of domain.contention.
    """
    mine = trace.tenant == tenant
    tokens = np.stack([trace.input_tokens[mine], trace.output_tokens[mine]]).astype(np.float64)
    context = float((tokens[0] + tokens[1] / 2).mean()) if mine.any() else 1.0
    room = max(1.0, min(float(spec.max_num_seqs), spec.kv_tokens / max(1.0, context)))
    batch = 1.0
    while batch * _GROW <= room and sum(_step(spec, batch * _GROW, context)) <= tpot_s:
        batch *= _GROW
    prompt = spec.prefill * (spec.token_s * tokens[0] + spec.prompt_s * tokens[0] ** 2 / 2)
    busy, think = _step(spec, batch, context)
    device, host = prompt * spec.cap_compute + tokens[1] * busy / batch, tokens[1] * think / batch
    full_busy, full_think = _step(spec, room, context)
    apart = 1 if spec.shared else per_gpu
    least = full_busy if spec.shared else full_busy + full_think
    return Work(
        tenant=tenant,
        arrival_s=trace.arrival_s[mine],
        seconds=device + host,
        gain=_gain(float(device.sum()), float(host.sum()), spec=spec, per_gpu=per_gpu),
        fluid=(prompt + tokens[1] * least / room) / apart,
    )


def _step(spec: EngineSpec, batch: float, context: float) -> tuple[float, float]:
    """Seconds of a decoding step of an engine alone: at the device, and away from it."""
    at_device = spec.busy_s + spec.sequence_busy_s * batch
    experts = spec.experts_s * (1.0 - spec.expert_missed**batch)
    matrices = max((spec.weights_s + experts) * spec.cap_memory, batch * spec.token_s * spec.cap_compute)
    attention = batch * (spec.cache_s * context + spec.state_s) * spec.cap_memory
    return at_device + matrices + attention, spec.host_s + spec.sequence_s * batch - at_device


def _gain(device_s: float, host_s: float, *, spec: EngineSpec, per_gpu: int) -> tuple[float, ...]:
    """Throughput of 1, 2, ... engines on one GPU over that of one."""
    if not spec.shared or device_s + host_s <= 0:
        return tuple(float(count) for count in range(1, per_gpu + 1))
    alone = device_s / max(spec.cap_compute, spec.cap_memory)
    times = [shared_alike(count, busy=alone, think=host_s, capped=device_s) for count in range(1, per_gpu + 1)]
    return tuple(count * times[0] / time for count, time in enumerate(times, start=1))


def replicas_needed(work: Work, *, rule: OracleRule, bounds: Bounds, until_s: float) -> Ints:
    """Replicas that should be ready in each second of the trace.

    In every window of `rule.window_s` what arrives in it must be done in it, by replicas that are `rule.load` full.
    """
    bins = math.ceil(until_s / _TICK_S) + 1
    width = max(1, round(rule.window_s / _TICK_S))
    arriving = np.bincount((work.arrival_s / _TICK_S).astype(np.int64), weights=work.seconds, minlength=bins)[:bins]
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([arriving, np.zeros(width)]))])
    windows = total[width:] - total[:-width]  # of the window that begins with each bin, and of one more
    covering = sliding_window_view(np.concatenate([np.zeros(width - 1), windows[:bins]]), width).max(axis=1)
    demand = covering / (width * _TICK_S * rule.load)
    table = _replicas_table(work.gain, float(demand.max(initial=0.0)))
    needed = np.searchsorted(table, demand - 1e-12)
    replicas: Ints = np.clip(needed, bounds.least, bounds.most).astype(np.int64)
    return replicas


def _replicas_table(gain: tuple[float, ...], most: float) -> Floats:
    """What 0, 1, 2, ... replicas get done where GPUs are filled one after another; up to `most`."""
    table = [0.0]
    while table[-1] < most:
        base = table[-1]
        table.extend(base + one for one in np.maximum.accumulate(np.array(gain)))
    return np.array(table)


class Oracle:
    """Starts each replica just early enough, and ends one that no need comes for before a new one could be there."""

    def __init__(self, needed: Sequence[Ints], *, next_start_s: Callable[[], float]) -> None:
        """At second t tenant i needs `needed[i][t]`; `next_start_s()` says how long the next start takes, whoever's."""
        self._needed = tuple(needed)
        self._draw = next_start_s
        self._next = self._longest = next_start_s()
        self._wanted: dict[int, int] = {}

    @property
    def period_s(self) -> float:
        """Seconds between two looks."""
        return _TICK_S

    def decide(self, seen: Seen) -> dict[int, int]:
        """What is needed from now until the next start could be ready, by rising tenant as they will be started."""
        at = int(seen.now / _TICK_S)
        for one in seen.tenants:
            have = self._wanted.get(one.tenant, len(one.replicas))
            self._wanted[one.tenant] = self._one(one.tenant, at, have)
        return dict(self._wanted)

    def _one(self, tenant: int, at: int, have: int) -> int:
        """Up while a need comes within the next start; down to what is needed within the longest start so far."""
        while self._highest(tenant, at, self._next) > have:
            have += 1
            self._next = self._draw()
            self._longest = max(self._longest, self._next)
        return min(have, self._highest(tenant, at, self._longest))

    def _highest(self, tenant: int, at: int, seconds: float) -> int:
        """The most that is needed from second `at` on for so long; past the plan its last number holds."""
        needed = self._needed[tenant]
        ahead = needed[at : at + math.ceil(seconds / _TICK_S) + 2]
        return int(ahead.max() if len(ahead) else needed[-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clairvoyant:
    """The oracle as a policy of one world: that of a trace, a ground, a seed and a distribution of start times."""

    rule: OracleRule
    works: tuple[Work, ...]
    """By tenant."""
    until_s: float
    start: str
    """One of starts.PRESETS."""
    seed: int

    def scaler(self, bounds: Sequence[Bounds]) -> Scaler:
        """It draws the same start times as the world will."""
        starts = Starts(PRESETS[self.start], seed=self.seed, truth=draw_truth(self.seed))
        needed = [
            replicas_needed(work, rule=self.rule, bounds=bounds[work.tenant], until_s=self.until_s)
            for work in self.works
        ]
        return Oracle(needed, next_start_s=starts.draw)


def works_of(trace: Trace, ground: Ground, *, seed: int, tpot_s: Sequence[float]) -> tuple[Work, ...]:
    """By tenant, what the trace asks of engines as the world of `seed` has them; `tpot_s` bounds each tenant."""
    engines = Engines(ground=ground, truth=draw_truth(seed))
    found = []
    for tenant in range(len(trace.tenants)):
        ways = engines.ways(tenant)
        one = ways.candidates[0]
        spec = engines.of(tenant, one.node, one.share, one.fit.settings)
        per_gpu = max(1, min(ways.pays, one.offer.per_gpu))
        found.append(work_of(trace, tenant, spec=spec, tpot_s=tpot_s[tenant], per_gpu=per_gpu))
    return tuple(found)


def fluid_gpu_hours(works: Sequence[Work], *, since_s: float, until_s: float, least: int) -> float:
    """An estimate from below, in GPU-hours: the work that arrives in [since, until) at perfect packing.

    Not below what `least`, the GPUs that the least replicas of all tenants must hold, costs over that time.
    """
    work = sum(float(one.fluid[(one.arrival_s >= since_s) & (one.arrival_s < until_s)].sum()) for one in works)
    return max(work, least * (until_s - since_s)) / 3600.0
