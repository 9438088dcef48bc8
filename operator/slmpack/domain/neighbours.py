"""Engines of other deployments that share a device with ours, as busy as they are measured: they slow ours (MPS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from slmpack.domain.capacity import Mix, rounded
from slmpack.domain.prediction import Tenant
from slmpack.domain.reasons import Problem
from slmpack.domain.sizing import engine_of
from slmpack.domain.snapshot import Demand, Key, PodView, Policy, Snapshot
from slmpack.domain.token_mix import mix_of
from slmpack.domain.workload import Workload

__all__ = ["Neighbours"]

_REMEMBERED = 1024
_STEP = 2.0
"""Requests in flight at a neighbour are rounded to powers of this: what a neighbour does changes all the time."""
_LEAST = 0.125
"""Requests in flight at a replica that count as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Who else there is. A stranger's pod, of which nothing is known, counts as idle."""

    own: Key
    snapshot: Snapshot
    policy: Policy

    def among(self, pods: Sequence[PodView]) -> tuple[Tenant, ...]:
        """The engines of others among these pods, by name."""
        found: list[Tenant] = []
        for pod in sorted(pods, key=lambda pod: pod.key):
            record = pod.record
            if record is None or record.deployment == self.own or not pod.ready:
                continue
            demand = self._demand(record.deployment)
            if demand is not None:
                tenant = self._tenant(demand, record.deployment, record.max_num_seqs)
                found.extend([] if tenant is None else [tenant])
        return tuple(found)

    def _demand(self, key: Key) -> Demand | None:
        view = next((view for view in self.snapshot.deployments if view.key == key), None)
        return view.demand if view is not None and isinstance(view.demand, Demand) else None

    def _tenant(self, demand: Demand, key: Key, sequences: int | None) -> Tenant | None:
        sample, policy = self.snapshot.loads.get(key), self.policy
        running = None if sample is None or not sample.reporting else sample.running
        if sample is None or running is None:
            in_flight = float(policy.choice.knee.itl_reference_batch)
            mix = Mix(demand.workload.input_tokens, demand.workload.output_tokens)
        else:
            in_flight = rounded(max(_LEAST, running / sample.reporting), _STEP)
            mix = mix_of(sample, demand.workload, policy.scale)[0]
        return None if in_flight <= _LEAST else _engine(demand, policy, mix, in_flight, sequences)


@lru_cache(maxsize=_REMEMBERED)
def _engine(demand: Demand, policy: Policy, mix: Mix, in_flight: float, sequences: int | None) -> Tenant | None:
    engine = engine_of(demand, policy)
    if isinstance(engine, Problem):
        return None
    most = sequences or policy.unpredicted_num_seqs
    workload = Workload(input_tokens=mix.input_tokens, output_tokens=mix.output_tokens)
    return engine.tenant(
        workload,
        in_flight=in_flight,
        sequences=most,
        kv_cache_tokens=round(most * workload.live_tokens),
        prefix_hit_rate=0.0,
    )
