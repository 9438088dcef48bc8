"""The simulator against the closed loop on the real control plane, in real time (5 minutes).

The same trace, SLMDeployment, nodes and hidden truth: once through a real API server, operator, scheduler, stand-in
kubelets and Prometheus, once in `slmpack simulate`. Engines and boards are the simulator's own in both, so this says
whether its operator, signals and clock do what the real ones do; what its engines are worth is in
benchmarks/simulator_validation.py. No GPU is involved.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from slmpack.devcluster.nodes import H100, mps_node
from slmpack.simulate.run import Job, simulate
from slmpack.simulate.scenario import Scenario
from tests.support.control_plane import ControlPlane
from tests.support.live_loop import World, open_loop, poisson_trace

NODES = [mps_node("loop-a", replicas=4, product=H100), mps_node("loop-b", replicas=4, product=H100)]
SEED = 3
JOULES_OF_KWH, SECONDS_OF_HOUR = 3.6e6, 3600.0
START_SECONDS = 2.0
"""The median of the preset `wake`."""
PHASES = ((30.0, 3.0), (100.0, 70.0), (120.0, 3.0))
SPEC: dict[str, Any] = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "engine": {"maxModelLen": 2048},
    "sharing": {"mode": "MPS"},
    "scaling": {"min": 1, "max": 8, "behaviour": {"scaleDown": {"stabilizationWindowSeconds": 15}}},
    "pod": {"terminationGracePeriodSeconds": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way's figures."""

    peak: int
    """Replicas that were ready at a time, at the most."""
    second_at_s: float
    """When a second replica was ready first."""
    free_at_s: float
    """When a second GPU was used last."""
    replica_s: float
    gpu_s: float
    joules: float
    tokens: int
    ttft_s: NDArray[np.float64]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = poisson_trace(PHASES, input_tokens=512, output_tokens=256, seed=SEED)
        world = World.make(SPEC, NODES, trace, seed=SEED, folder=folder)
        simulated = _simulated(world)
        with ControlPlane.start(say=lambda _: None) as control_plane:
            live = _live(control_plane, world, folder)
    _report(live, simulated)


def _live(control_plane: ControlPlane, world: World, folder: Path) -> Run:
    """With the operator's own defaults: it looks every 15 s, and Prometheus scrapes every 15 s."""
    with open_loop(
        control_plane, world, interval="15s", metrics={}, start_seconds=START_SECONDS, folder=folder
    ) as loop:
        loop.apply(SPEC)
        loop.until(loop.is_settled, seconds=180, what="measured")
        loop.live.begin()
        while loop.live.now < world.trace.span_s:
            time.sleep(0.5)
    outcome = loop.live.outcome()
    return Run(
        **_steps((it.at, it.ready, it.gpus) for it in loop.live.moments),
        replica_s=float(np.sum(outcome.replica_s)),
        gpu_s=float(np.sum(outcome.gpu_s)),
        joules=float(np.sum(outcome.joules)),
        tokens=int(np.sum(outcome.output_tokens)),
        ttft_s=outcome.ttft_s,
    )


def _simulated(world: World) -> Run:
    scenario = Scenario(name="closed loop", warm_up_s=0.0, initial=1)
    job = Job(name="slmpack", start="wake", seed=world.seed)
    result = simulate(job, scenario, trace=world.trace, ground=world.ground)
    figures = result.figures
    joules = figures.energy_kwh * JOULES_OF_KWH
    return Run(
        **_steps((it.at, it.ready, it.gpus) for it in result.moments),
        replica_s=figures.slot_hours * SECONDS_OF_HOUR,
        gpu_s=figures.gpu_hours * SECONDS_OF_HOUR,
        joules=joules,
        tokens=round(joules / figures.j_per_token),
        ttft_s=result.ttft_s,
    )


class _Steps(TypedDict):
    peak: int
    second_at_s: float
    free_at_s: float


def _steps(moments: Iterable[tuple[float, int, int]]) -> _Steps:
    """Of moments: seconds, replicas ready, GPUs in use."""
    seen = list(moments)
    second = [at for at, ready, _ in seen if ready > 1]
    crowded = [at for at, _, gpus in seen if gpus > 1]
    return _Steps(
        peak=max(ready for _, ready, _ in seen),
        second_at_s=min(second, default=math.nan),
        free_at_s=max(crowded, default=math.nan),
    )


def _report(live: Run, simulated: Run) -> None:
    seconds = sum(length for length, _ in PHASES)
    print(f"  {seconds:.0f} s, {live.tokens} tokens; closed loop, simulator, and the simulator's difference")
    rows = [
        ("most replicas ready", live.peak, simulated.peak),
        ("second replica ready, s *", live.second_at_s, simulated.second_at_s),
        ("back on one GPU, s *", live.free_at_s, simulated.free_at_s),
        ("replica seconds", live.replica_s, simulated.replica_s),
        ("GPU seconds", live.gpu_s, simulated.gpu_s),
        ("energy, kJ", live.joules / 1000, simulated.joules / 1000),
        ("energy, J/token", live.joules / live.tokens, simulated.joules / simulated.tokens),
        ("TTFT p50, ms", _percentile(live, 50), _percentile(simulated, 50)),
        ("TTFT p95, ms", _percentile(live, 95), _percentile(simulated, 95)),
    ]
    for name, real, foretold in rows:
        print(f"  {name:28} {real:10.4g} {foretold:10.4g} {100 * (foretold / real - 1):+7.1f} %")
    print("  * the simulator notes its replicas every 15 s")


def _percentile(run: Run, percent: float) -> float:
    """Milliseconds."""
    return float(np.nanpercentile(run.ttft_s, percent)) * 1000
