"""The decision in status: figures with their intervals, or why there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slmpack.api.status import SLMDeploymentStatus
from slmpack.controller.status import status_of
from slmpack.domain.choice import Choice
from slmpack.domain.conditions import judge
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import Demand, ModelUnknown
from slmpack.domain.workload import Workload
from tests.support.builders import NOW, POLICY, a_demand, a_deployment, a_model, a_snapshot, mps_node, whole_node


def status(demand: Demand, *, nodes: tuple[Any, ...] = (whole_node("n"),), policy: Any = POLICY) -> dict[str, Any]:
    plan = plan_cluster(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=nodes), policy)
    (part,) = plan.deployments
    found = status_of(part, judge(part, outcomes=(), now=NOW), product=None)
    SLMDeploymentStatus.model_validate(found)
    return found


def test_what_pays_is_said_with_figures_and_reasons() -> None:
    decision = status(a_demand(replicas=2), nodes=(mps_node("n"),))["decisions"][0]
    assert decision["replicasPerGPU"] >= 1
    assert decision["maxNumSeqs"] > 8
    assert decision["basis"] == "modelled"
    assert decision["inFlight"].endswith(" assumed")
    for field, unit in (
        ("throughput", "tokens/s"),
        ("itl", "ms"),
        ("ttft", "ms"),
        ("power", "W"),
        ("energyPerToken", "J"),
    ):
        assert f" {unit} (" in decision[field], field
    assert len(decision["reasons"]) >= 2
    assert decision["runnerUp"]


def test_a_stated_load_is_not_called_assumed() -> None:
    stated = replace(a_demand(), workload=Workload(in_flight=40))
    assert status(stated)["decisions"][0]["inFlight"] == "40"


def test_what_cannot_be_predicted_says_why() -> None:
    blind = replace(
        POLICY, gpus=replace(POLICY.gpus, models=tuple(replace(m, bandwidth_gb_s=None) for m in POLICY.gpus.models))
    )
    decision = status(a_demand(), policy=blind)["decisions"][0]
    assert list(decision) == ["gpu", "share", "reasons"]
    assert "memory_bandwidth_gb_s is unknown" in decision["reasons"][0]


def test_an_unknown_model_and_an_empty_cluster_have_no_decision() -> None:
    unknown = ModelUnknown(reason=Reason.MODEL_PENDING, message="on its way")
    assert "decisions" not in status(a_demand(model=unknown))
    assert "decisions" not in status(a_demand(), nodes=())


def test_a_long_reason_is_cut_to_what_the_schema_allows() -> None:
    plan = plan_cluster(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),)), POLICY)
    (part,) = plan.deployments
    assert part.fit is not None
    assert isinstance(part.fit.choice, Choice)
    long = replace(part, fits=(replace(part.fits[0], fit=replace(part.fit, notes=("x" * 5000,) * 20)),))
    found = status_of(long, judge(long, outcomes=(), now=NOW), product=None)
    assert [len(reason) for reason in found["decisions"][0]["reasons"]] == [1024] * 16


def test_weights_that_two_sources_disagree_on_carry_a_warning() -> None:
    model = a_model()
    noted = a_demand(model=replace(model, weights_note="config 3.1 GB, checkpoint 3.4 GB"))
    assert status(noted)["footprint"]["warning"] == "config 3.1 GB, checkpoint 3.4 GB"
    assert "warning" not in status(a_demand(model=model))["footprint"]
