"""spec.scaling and spec.replicas on their way to the planner's demand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slmpack.api.parse import parse_slmdeployment
from slmpack.api.translate import Known, translate
from slmpack.api.v1alpha1 import SLMDeployment
from slmpack.domain.scale_decision import Pacing, ScalingSpec
from slmpack.domain.sharing import WhenFull
from slmpack.domain.snapshot import Demand, Rejected
from tests.support.builders import POLICY, a_model


def translated(**spec: Any) -> Demand | Rejected:
    model = {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"}
    meta = {"name": "chat", "namespace": "llm"}
    parsed = parse_slmdeployment(
        {
            "apiVersion": "slmpack.dev/v1alpha1",
            "kind": "SLMDeployment",
            "metadata": meta,
            "spec": {"model": model, **spec},
        }
    )
    assert isinstance(parsed, SLMDeployment), parsed
    return translate(parsed, known=Known(model=a_model()), engines=POLICY.engines)


def demanded(**spec: Any) -> Demand:
    demand = translated(**spec)
    assert isinstance(demand, Demand), demand
    return demand


@pytest.mark.parametrize(("given", "wanted"), [({}, 1), ({"replicas": 0}, 0), ({"replicas": 7}, 7)])
def test_a_fixed_number_is_the_users_and_one_without_any(given: dict[str, int], wanted: int) -> None:
    demand = demanded(**given)
    assert (demand.replicas, demand.scaling) == (wanted, None)


def test_with_scaling_the_demand_is_the_most_until_it_is_decided() -> None:
    demand = demanded(scaling={"max": 8})
    assert demand.replicas == 8
    assert demand.scaling == ScalingSpec(
        least=1,
        most=8,
        up=Pacing(stabilisation=timedelta(0)),
        down=Pacing(stabilisation=timedelta(seconds=300)),
        idle=timedelta(seconds=600),
        max_watts_per_gpu=None,
        ttft_s=None,
        itl_s=None,
    )
    assert demand.scaling == ScalingSpec(least=1, most=8), "the API's defaults are the domain's"


def test_every_field_of_scaling_arrives() -> None:
    demand = demanded(
        scaling={
            "min": 0,
            "max": 9,
            "behaviour": {
                "scaleUp": {"stabilizationWindowSeconds": 30, "maxStep": 4},
                "scaleDown": {"stabilizationWindowSeconds": 900, "maxStep": 1},
            },
            "maxWattsPerGPU": 450.5,
            "scaleToZeroAfterSeconds": 1800,
            "slo": {"ttft": "1.5s", "itl": "40ms"},
        }
    )
    assert demand.scaling == ScalingSpec(
        least=0,
        most=9,
        up=Pacing(stabilisation=timedelta(seconds=30), most_step=4),
        down=Pacing(stabilisation=timedelta(seconds=900), most_step=1),
        idle=timedelta(seconds=1800),
        idle_asked=True,
        max_watts_per_gpu=450.5,
        ttft_s=1.5,
        itl_s=0.04,
    )


def test_a_window_alone_keeps_the_other_defaults() -> None:
    scaling = demanded(scaling={"max": 2, "behaviour": {"scaleDown": {"maxStep": 1}}}).scaling
    assert scaling == replace(
        ScalingSpec(least=1, most=2), down=Pacing(stabilisation=timedelta(seconds=300), most_step=1)
    )


def test_scaling_changes_no_pod() -> None:
    assert demanded(scaling={"max": 8}).spec_hash == demanded(replicas=3).spec_hash


def test_what_becomes_of_a_replica_without_room() -> None:
    assert demanded().when_full is WhenFull.REPORT
    assert demanded(sharing={"whenFull": "Pending"}).when_full is WhenFull.PENDING


@pytest.mark.parametrize(("given", "wanted"), [({"replicas": 3}, 3), ({}, 1), ({"scaling": {"max": 8}}, None)])
@pytest.mark.parametrize("engine", [{"image": "vllm:latest"}, {"args": {"seed": "x"}}], ids=["version", "flag"])
def test_a_rejected_spec_says_what_is_wanted_where_the_user_did(
    given: dict[str, Any], wanted: int | None, engine: dict[str, Any]
) -> None:
    rejected = translated(engine=engine, **given)
    assert isinstance(rejected, Rejected)
    assert rejected.replicas == wanted
