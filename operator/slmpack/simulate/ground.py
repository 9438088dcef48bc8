"""Where a simulation plays: the SLMDeployments by tenant, the nodes, and what one engine on a share really is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from slmpack.domain.board import Candidate
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.inventory import GpuNode, read_nodes
from slmpack.domain.mig import find_profile
from slmpack.domain.packing import candidates_for
from slmpack.domain.profile_use import calibration_for
from slmpack.domain.reasons import Problem
from slmpack.domain.room import make_room
from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.serving import Engine
from slmpack.domain.sharing import (
    DraClaim,
    MigSlice,
    Mode,
    MpsPack,
    Share,
    WhenFull,
    limit_bytes,
)
from slmpack.domain.site import site_of
from slmpack.domain.sizing import engine_of, size_replica
from slmpack.domain.snapshot import Demand, DeploymentView, NodeView, Policy, Rejected
from slmpack.domain.step_time import Unpredictable
from slmpack.simulate.costs import EngineSpec, engine_spec
from slmpack.simulate.trace import Trace
from slmpack.simulate.truth import Truth

__all__ = ["CannotSimulateError", "Engines", "Ground", "Ways", "ground_for"]


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CannotSimulateError(Exception):
    """The message is for the user: what cannot be simulated, why, and what would work."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """Everything that does not change during a simulation; tenants are numbered as in the trace."""

    views: tuple[DeploymentView, ...]
    nodes: tuple[NodeView, ...]
    policy: Policy
    read: tuple[GpuNode, ...]
    """The nodes, read."""

    def demand(self, tenant: int) -> Demand:
        """The accepted demand of a tenant."""
        demand = self.views[tenant].demand
        assert isinstance(demand, Demand)  # noqa: S101 - ground_for lets no other in
        return demand

    def scaling(self, tenant: int) -> ScalingSpec:
        """Its bounds; a fixed number is both of them."""
        demand = self.demand(tenant)
        return demand.scaling or ScalingSpec(least=demand.replicas, most=max(1, demand.replicas))


def ground_for(
    trace: Trace, views: Sequence[DeploymentView], nodes: Sequence[NodeView], policy: Policy
) -> tuple[Trace, Ground]:
    """The ground, and the trace with its tenants numbered as there. Raises CannotSimulateError."""
    by_name = {view.key.name: view for view in views}
    if len(by_name) < len(views):
        raise CannotSimulateError("two SLMDeployments have the same name; a trace's tenants are matched by name alone")
    if not views:
        raise CannotSimulateError("no SLMDeployment is given; add one with -f")
    for view in views:
        if isinstance(view.demand, Rejected):
            problem = view.demand.problems[0]
            raise CannotSimulateError(f"SLMDeployment {view.key}: {problem.message}")
    names = (next(iter(by_name)),) if trace.tenants == ("",) and len(views) == 1 else trace.tenants
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise CannotSimulateError(_no_deployment(unknown[0], sorted(by_name), len(views)))
    order = (*names, *sorted(set(by_name) - set(names)))
    ground = Ground(
        views=tuple(_without_new_nodes(by_name[name]) for name in order),
        nodes=tuple(nodes),
        policy=policy,
        read=read_nodes(tuple(nodes), policy.gpus),
    )
    if not any(node.offers for node in ground.read):
        raise CannotSimulateError(
            "no node offers a GPU; give nodes with -f, as `kubectl get nodes -o yaml` prints them"
        )
    return replace(trace, tenants=order), ground


def _without_new_nodes(view: DeploymentView) -> DeploymentView:
    """No node autoscaler is played: a replica without room waits, whatever spec.sharing.whenFull says."""
    demand = view.demand
    assert isinstance(demand, Demand)  # noqa: S101 - the others were refused
    return replace(view, demand=replace(demand, when_full=WhenFull.REPORT))


def _no_deployment(name: str, known: Sequence[str], count: int) -> str:
    if not name:
        return (
            f"the trace has no tenant column, and there are {count} SLMDeployments: give exactly one, or add the column"
        )
    return f"tenant {name!r} of the trace: no SLMDeployment of this name is given; there are {', '.join(known)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How Kubernetes alone would give replicas of one tenant room: one resource, on every node that offers it."""

    resource: str
    candidates: tuple[Candidate, ...]
    """By node."""
    pays: int
    """Replicas that pay on one GPU, by the domain's own reckoning."""


@dataclass(slots=True, kw_only=True, eq=False)
class Engines:
    """What one engine is in the world of a truth."""

    ground: Ground
    truth: Truth
    _known: dict[tuple[int, str, Share, EngineSettings], EngineSpec] = field(default_factory=dict)

    def of(self, tenant: int, name: str, share: Share, settings: EngineSettings) -> EngineSpec:
        """The engine of a tenant's replica on a share of the node of this name. Raises CannotSimulateError."""
        node = next(node for node in self.ground.read if node.name == name)
        assert node.gpu is not None  # noqa: S101 - a node whose GPU is unknown offers nothing
        key = (tenant, node.gpu.id, share, settings)
        if key not in self._known:
            self._known[key] = self._make(tenant, node, share, settings)
        return self._known[key]

    @staticmethod
    def unloaded_ttft(spec: EngineSpec, input_tokens: Ints) -> Floats:
        """Seconds to the first token on an empty engine, by request: chunks of at most max_num_batched_tokens."""
        tokens = input_tokens.astype(np.float64)
        chunk = float(spec.max_num_batched_tokens)
        rounds = np.ceil(tokens / chunk)
        weights = (spec.weights_s + spec.experts_s) * spec.cap_memory
        token = spec.token_s * spec.prefill * spec.cap_compute
        last = tokens - (rounds - 1) * chunk
        linear = (rounds - 1) * max(weights, chunk * token) + np.maximum(weights, last * token)
        attention = spec.prompt_s * spec.prefill * spec.cap_compute * tokens * tokens / 2
        return np.asarray(rounds * spec.host_s + linear + attention + spec.request_s)

    def longest(self, tenant: int) -> int:
        """Tokens that a request may have: max_model_len."""
        engine = engine_of(self.ground.demand(tenant), self.ground.policy)
        if isinstance(engine, Problem):
            raise CannotSimulateError(f"SLMDeployment {self.ground.views[tenant].key}: {engine.message}")
        return engine.max_model_len

    def ways(self, tenant: int) -> Ways:
        """The share that a replica of this tenant asks Kubernetes for: the one that our planner likes best."""
        demand, policy = self.ground.demand(tenant), self.ground.policy
        if demand.mode is Mode.MPS_PACK:
            demand = replace(demand, mode=Mode.EXCLUSIVE)  # a pack is ours; without one a replica takes a whole GPU
        need = size_replica(demand, policy, ())
        name = self.ground.views[tenant].key
        if isinstance(need, Problem):
            raise CannotSimulateError(f"SLMDeployment {name}: {need.message}")
        room = candidates_for(demand, need, self.ground.read, policy)
        units = [found for found in room.candidates if not isinstance(found.share, MpsPack)]
        if not units:
            why = room.rejections[0].message if room.rejections else "no node offers anything"
            raise CannotSimulateError(f"SLMDeployment {name} has no place on any of the nodes: {why}")
        best = min(units, key=_preference)
        chosen = tuple(found for found in units if found.offer.resource == best.offer.resource)
        pays = demand.max_per_gpu or best.fit.pays or best.offer.per_gpu
        return Ways(resource=best.offer.resource, candidates=chosen, pays=pays)

    def _make(self, tenant: int, node: GpuNode, share: Share, settings: EngineSettings) -> EngineSpec:
        ground, gpu = self.ground, node.gpu
        demand = ground.demand(tenant)
        engine = engine_of(demand, ground.policy)
        assert isinstance(engine, Engine) and gpu is not None  # noqa: S101, PT018 - it was placed
        sequences = settings.max_num_seqs
        room = make_room(
            share,
            engine.footprint(sequences),
            kv_tokens=engine.least_kv_tokens(demand.workload.live_tokens),
            loading_bytes=engine.model.loading_bytes,
            ceiling=ground.policy.utilization_ceiling,
        )
        workload = demand.workload
        each = engine.tenant(
            workload, in_flight=1.0, sequences=sequences, kv_cache_tokens=room.kv_cache_tokens, prefix_hit_rate=0.0
        )
        profile = find_profile(gpu, share.profile) if isinstance(share, MigSlice | DraClaim) else None
        calibration, _ = calibration_for(demand, engine, gpu, ground.policy)
        spec = engine_spec(
            each,
            site_of(share, gpu),
            ground.policy.performance.constants_for(demand.engine_version),
            self.truth,
            calibration=calibration,
            slices=profile.memory_slices if profile is not None else 1,
        )
        if isinstance(spec, Unpredictable):
            raise CannotSimulateError(f"SLMDeployment {ground.views[tenant].key} on {node.name}: {spec.reason}")
        return spec


def _preference(candidate: Candidate) -> tuple[bool, float]:
    """As the planner's own, without what depends on what is taken."""
    fit = candidate.fit
    return not fit.sufficient, float(limit_bytes(candidate.share)) if fit.sufficient else -fit.each_tok_s
