"""Small whole simulations: a model, nodes, requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Demand, NodeView
from slmpack.domain.workload import Bounds, Workload
from slmpack.simulate.ground import Ground, ground_for
from slmpack.simulate.run import Job, Result, simulate
from slmpack.simulate.scenario import Scenario
from slmpack.simulate.trace import Trace
from tests.support.builders import POLICY, a_demand, a_deployment, mps_node

WORKLOAD = Workload(input_tokens=400, output_tokens=80)


def scaled(*, least: int = 1, most: int = 8, mode: Mode = Mode.MPS) -> Demand:
    demand = a_demand(replicas=most, mode=mode, max_model_len=4096)
    scaling = ScalingSpec(least=least, most=most)
    return replace(demand, scaling=scaling, workload=WORKLOAD, bounds=Bounds(itl_s=0.05))


def arrivals(rates: list[float], *, step_s: float = 60.0, seed: int = 5, name: str = "qwen") -> Trace:
    """Poisson arrivals at these rates, each for so long."""
    dice = np.random.Generator(np.random.PCG64(seed))
    times = np.concatenate(
        [number * step_s + dice.uniform(0.0, step_s, dice.poisson(rate * step_s)) for number, rate in enumerate(rates)]
    )
    count = len(times)
    return Trace(
        arrival_s=np.sort(times),
        input_tokens=dice.integers(200, 600, count),
        output_tokens=dice.integers(20, 140, count),
        tenant=np.zeros(count, dtype=np.int64),
        tenants=(name,),
    )


def a_ground(trace: Trace, demand: Demand | None = None, *, nodes: tuple[NodeView, ...] = ()) -> tuple[Trace, Ground]:
    view = a_deployment("qwen", demand or scaled())
    return ground_for(trace, [view], nodes or tuple(mps_node(f"node-{n}", replicas=4) for n in range(3)), POLICY)


def play(job: Job, trace: Trace, demand: Demand | None = None, **options: float) -> Result:
    trace, ground = a_ground(trace, demand)
    initial = int(options.get("initial", 1))
    scenario = Scenario(name="test", warm_up_s=options.get("warm_up_s", 0.0), initial=initial)
    return simulate(job, scenario, trace=trace, ground=ground)
