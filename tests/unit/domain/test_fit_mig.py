"""A replica on a MIG slice: by what the slice is, whatever the driver calls it; the smallest that carries the knee."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.choice import Choice
from slmpack.domain.fit import Fit, Kind, fit_share
from slmpack.domain.performance import Unpredictable
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem
from slmpack.domain.sharing import MigSlice
from slmpack.domain.sizing import size_replica
from slmpack.domain.snapshot import Demand
from slmpack.domain.workload import Workload
from tests.support.builders import H100, POLICY, a_demand, a_deployment, a_snapshot, creates, mig_node, plan

LONG = Workload(in_flight=60, input_tokens=3000, output_tokens=1000)


def fit_on(gpu: str, profile: str, mib: int, demand: Demand) -> Fit:
    need = size_replica(demand, POLICY, ())
    model = POLICY.gpus.by_id(gpu)
    assert not isinstance(need, Problem)
    assert model is not None
    share = MigSlice(resource=f"nvidia.com/mig-{profile}", profile=profile, memory_bytes=mib * MIB)
    fit = fit_share(demand, need, Kind(share=share, per_gpu=2, gpu=model), POLICY)
    assert fit is not None
    return fit


def throughput(fit: Fit) -> float:
    assert isinstance(fit.choice, Choice)
    return fit.choice.prediction.tenants[0].throughput_tok_s.expected


def test_a_drivers_other_name_is_predicted_as_the_slice_that_it_is() -> None:
    known, drifted, variant = (
        fit_on("h100-sxm5-80gb", name, 9984, a_demand()) for name in ("1g.10gb", "1g.12gb", "1g.10gb.gfx")
    )
    assert drifted.choice == known.choice == variant.choice
    whole = fit_on("h100-sxm5-80gb", "7g.80gb", 9984, a_demand())
    assert throughput(known) < throughput(whole) / 2


def test_a_slice_that_nobody_knows_is_not_predicted_as_a_whole_gpu() -> None:
    fit = fit_on("h100-sxm5-80gb", "9g.9gb", 9984, a_demand())
    assert isinstance(fit.choice, Unpredictable)
    assert "the MIG profile is not in the catalogue" in fit.choice.reason
    assert (fit.pays, fit.each_tok_s) == (None, 0.0)


@pytest.mark.parametrize(
    ("gpu", "mib", "part"), [("h100-sxm5-80gb", 20096, 26 / 32), ("a100-sxm4-80gb", 19968, 14 / 28)]
)
def test_a_double_memory_slice_is_judged_by_its_multiprocessors(gpu: str, mib: int, part: float) -> None:
    """Nearly the multiprocessors of 2g on Hopper, half of them on Ampere; prefill is bound by them."""
    demand = replace(a_demand(), workload=Workload(input_tokens=6000, output_tokens=16))
    small, large = (throughput(fit_on(gpu, name, mib, demand)) for name in ("1g.20gb", "2g.20gb"))
    assert part * 0.9 < small / large < part * 1.1


@pytest.mark.parametrize(
    ("workload", "profile"),
    [(Workload(in_flight=4), "1g.10gb"), (LONG, "1g.20gb"), (replace(LONG, in_flight=90), "3g.40gb")],
)
def test_the_smallest_slice_that_carries_the_knee_is_taken(workload: Workload, profile: str) -> None:
    node = mig_node("n", product=H100, slices={"1g.10gb": 1, "1g.20gb": 1, "3g.40gb": 1})
    demand = replace(a_demand(), workload=workload)
    (create,) = creates(plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=(node,))))
    assert create.record.share == f"MigSlice {profile}"
