"""One simulation: a trace, a cluster, a policy, and a world drawn by the seed that the policy does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from slmpack.domain.sharing import DraClaim, MigSlice
from slmpack.simulate.autoscaled import Autoscaled
from slmpack.simulate.cluster import Cluster
from slmpack.simulate.fleet import Fleet
from slmpack.simulate.ground import CannotSimulateError, Engines, Ground
from slmpack.simulate.operator import EVENT_S, SimulatedOperator
from slmpack.simulate.placement import PlacementName, placement_named
from slmpack.simulate.policies.base import Rule
from slmpack.simulate.power import board_of
from slmpack.simulate.readings import Outcome
from slmpack.simulate.results import Figures, Measured, figures_of
from slmpack.simulate.scenario import Scenario
from slmpack.simulate.signals import SCRAPE_S, GpuPlace, Signals
from slmpack.simulate.starts import PRESETS, Starts
from slmpack.simulate.trace import Trace
from slmpack.simulate.truth import AS_MODELLED, draw_truth

__all__ = ["OURS", "Job", "Moment", "Result", "bounds_of", "simulate"]

OURS = "slmpack"
DRAIN_S = 900.0
"""After the last arrival, policies go on for so long at most, until everything is answered; it costs nothing."""
POLL_S = 1.0
"""While replicas end, their pods are looked at so often."""
MOMENTS = 480
"""Points of the picture."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What differs between simulations of one scenario."""

    name: str
    """Of the policy, as it is reported."""
    rule: Rule | None = None
    """A peer's; None: our operator."""
    placement: PlacementName = "kubernetes"
    """Of a peer's replicas; ours are always placed by our planner."""
    start: str = "cold"
    """One of starts.PRESETS."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One point of the picture."""

    at: float
    arrivals_s: float
    """Requests a second since the last point."""
    replicas: int
    """Starting, ready and ending."""
    ready: int
    gpus: int
    """That hold any."""
    watts: float
    """Of all boards, since the last point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one simulation came to."""

    job: Job
    figures: Figures
    moments: tuple[Moment, ...]
    ttft_s: Floats = field(repr=False)
    """By request of the trace; NaN: never answered."""
    warm_up_s: float
    turns: int
    """Of our operator; 0 for a peer."""


class _Policy(Protocol):
    def turn(self) -> float:
        """Look and act; seconds until the next look is due."""
        ...


def simulate(
    job: Job,
    scenario: Scenario,
    *,
    trace: Trace,
    ground: Ground,
    progress: Callable[[float], None] = lambda _: None,
) -> Result:
    """Play the trace. Raises CannotSimulateError.

    Args:
        job: the policy and the seed.
        scenario: warm-up, first replicas and bounds; its trace is not read.
        trace: numbered as `ground` (see `ground_for`).
        ground: SLMDeployments and nodes.
        progress: called with the part that is done, 0 to 1.
    """
    return _Play(job, scenario, trace, ground, progress).play()


def bounds_of(trace: Trace, ground: Ground, scenario: Scenario) -> tuple[Floats, Floats]:
    """Seconds to the first token that are kept, by request; seconds of each further token, by tenant.

    An empty engine is the one that Kubernetes' pods would run, as the performance model has it: the same for all.
    """
    engines = Engines(ground=ground, truth=AS_MODELLED)
    ttft = np.zeros(len(trace))
    tpot = np.zeros(len(trace.tenants))
    for tenant in range(len(trace.tenants)):
        demand, mine = ground.demand(tenant), trace.tenant == tenant
        found = engines.ways(tenant).candidates[0]
        spec = engines.of(tenant, found.node, found.share, found.fit.settings)
        unloaded = engines.unloaded_ttft(spec, trace.input_tokens[mine])
        least = scenario.slo.ttft_s or demand.bounds.ttft_s or 1.0
        ttft[mine] = np.maximum(least, scenario.slo.ttft_times * unloaded)
        tpot[tenant] = scenario.slo.tpot_s or demand.bounds.itl_s or 0.05
    return ttft, tpot


class _Play:
    """The clock of one simulation."""

    def __init__(
        self, job: Job, scenario: Scenario, trace: Trace, ground: Ground, progress: Callable[[float], None]
    ) -> None:
        if job.start not in PRESETS:
            raise CannotSimulateError(f"start {job.start!r}: there are {', '.join(PRESETS)}")
        self.job, self.scenario, self.trace, self.progress = job, scenario, trace, progress
        truth = draw_truth(job.seed)
        engines = Engines(ground=ground, truth=truth)
        self.bounds = bounds_of(trace, ground, scenario)
        version = ground.demand(0).engine_version
        power = ground.policy.performance.constants_for(version).power
        gpus = [node.gpu for node in Fleet.gpus_of(ground.read) if node.gpu is not None]
        self.cluster = Cluster(
            trace,
            boards=[board_of(gpu, power) for gpu in gpus],
            longest=[engines.longest(tenant) for tenant in range(len(ground.views))],
            seed=job.seed,
        )
        starts = Starts(PRESETS[job.start], seed=job.seed, truth=truth)
        self.fleet = Fleet(ground.read, cluster=self.cluster, starts=starts)
        self.signals: Signals | None = None
        self.operator: SimulatedOperator | None = None
        self.policy: _Policy
        if job.rule is None:
            self.signals = Signals([view.key for view in ground.views], _places(self.fleet, ground))
            self.operator = SimulatedOperator(engines, fleet=self.fleet, signals=self.signals, initial=scenario.initial)
            self.operator.begin()
            self.policy = self.operator
        else:
            peer = Autoscaled(
                engines, fleet=self.fleet, rule=job.rule, placement=placement_named(job.placement), trace=trace
            )
            peer.begin(scenario.initial)
            self.policy = peer
        self.fleet.playing = True
        self.moments: list[Moment] = []
        self.moment_s = max(SCRAPE_S, trace.span_s / MOMENTS)
        self.seen_joules = 0.0
        # scrapes and turns have no common clock
        self.scrape_at = float(Generator(PCG64([job.seed, 3])).uniform(0.0, SCRAPE_S))
        self.turn_at = 0.0

    def play(self) -> Result:
        """From the first arrival to the last answer."""
        span, warm_up = self.trace.span_s, min(self.scenario.warm_up_s, self.trace.span_s)
        self._until(warm_up)
        warm = self.cluster.outcome()
        self._until(span)
        end = self.cluster.outcome()
        last = self._drain(end)
        measured = Measured(
            trace=self.trace,
            warm=warm,
            end=end,
            last=last,
            changes=self.fleet.changes,
            ttft_bounds=self.bounds[0],
            tpot_bounds=self.bounds[1],
        )
        return Result(
            job=self.job,
            figures=figures_of(measured),
            moments=tuple(self.moments),
            ttft_s=last.ttft_s,
            warm_up_s=warm_up,
            turns=self.operator.turns if self.operator is not None else 0,
        )

    def _drain(self, end: Outcome) -> Outcome:
        """Until every request is answered, or for DRAIN_S."""
        last, stop = end, end.at + DRAIN_S
        while not bool(np.all(last.finished | last.rejected)) and self.cluster.now < stop:
            self._until(min(stop, self.cluster.now + 60.0), draw=False)
            last = self.cluster.outcome()
        return last

    def _until(self, end: float, *, draw: bool = True) -> None:
        while True:
            due = self._due(end, draw=draw)
            self._pass(due)
            now = self.cluster.now
            if self.signals is not None and now >= self.scrape_at:
                self.signals.take(self.cluster.scrape())
                self.scrape_at += SCRAPE_S
            if draw and now >= self.moment_s * (len(self.moments) + 1):
                self._draw()
                self.progress(min(1.0, now / max(self.trace.span_s, 1e-9)))
            if now >= self.turn_at:
                self.turn_at = now + self.policy.turn()
            if now >= end:
                return

    def _due(self, end: float, *, draw: bool) -> float:
        """When something has to be done."""
        moments = [end, self.turn_at]
        if draw:
            moments.append(self.moment_s * (len(self.moments) + 1))
        if self.signals is not None:
            moments.append(self.scrape_at)
            ready = self.fleet.next_ready()
            moments.append(end if ready is None else ready)
            if self.fleet.ending:
                moments.append(self.cluster.now + POLL_S)
        return max(self.cluster.now, min(moments))

    def _pass(self, due: float) -> None:
        """Let time pass; our operator is woken by pods that become ready or are gone."""
        before = self.cluster.now
        self.cluster.advance(due)
        if self.operator is None:
            return
        became = any(before < one.ready_at <= due and not one.ending for one in self.fleet.running.values())
        gone = self.fleet.sweep()
        if became or gone:
            self.operator.wake()
            self.turn_at = min(self.turn_at, due + EVENT_S)

    def _draw(self) -> None:
        now = self.cluster.now
        scrape = self.cluster.scrape()
        last = self.moments[-1].at if self.moments else 0.0
        came = np.searchsorted(self.trace.arrival_s, [last, now], side="right")
        joules = float(np.sum(scrape.joules))
        passed = max(now - last, 1e-9)
        self.moments.append(
            Moment(
                at=now,
                arrivals_s=float(came[1] - came[0]) / passed,
                replicas=len(scrape.replica),
                ready=int(np.sum(scrape.ready)),
                gpus=len(set(scrape.gpu.tolist())),
                watts=(joules - self.seen_joules) / passed,
            )
        )
        self.seen_joules = joules


def _places(fleet: Fleet, ground: Ground) -> list[GpuPlace]:
    cut = {
        gpu
        for node in ground.read
        for offer in node.offers
        if isinstance(offer.share, MigSlice | DraClaim)
        for gpu in fleet.spots[node.name, offer.resource].gpus
    }
    return [GpuPlace(node=node, cut=gpu in cut) for gpu, node in enumerate(fleet.node_of)]
