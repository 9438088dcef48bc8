"""Whole manifests against reviewed files, one for each kind of share and each source of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slmpack.api.pod_spec import PodSpec
from slmpack.api.v1alpha1 import SLMDeploymentSpec
from slmpack.render.pod import render_pod
from slmpack.render.service import render_service
from tests.support.golden import FOLDER, Golden
from tests.support.render_cases import CASES, ENGINES, KNOBS, SPEC, a_demand, a_deployment

if TYPE_CHECKING:
    from slmpack.domain.plan import CreatePod

SERVICES = {"service": SPEC, "service-every-knob": KNOBS}


@pytest.mark.parametrize(("name", "create"), CASES.items(), ids=CASES)
def test_pod(name: str, create: CreatePod, golden: Golden) -> None:
    golden.check(name, render_pod(create, engines=ENGINES))


@pytest.mark.parametrize(("name", "template"), SERVICES.items(), ids=SERVICES)
def test_service(name: str, template: dict[str, object], golden: Golden) -> None:
    demand = a_demand(template)
    golden.check(name, render_service(a_deployment(demand=demand), demand))


def test_no_file_is_left_over() -> None:
    ours = {path.stem for path in FOLDER.glob("*.yaml") if path.stem.startswith(("pod", "service"))}
    assert ours == {*CASES, *SERVICES}


@pytest.mark.parametrize("create", CASES.values(), ids=CASES)
def test_each_template_is_a_spec_that_the_api_takes(create: CreatePod) -> None:
    SLMDeploymentSpec.model_validate(create.demand.template)


def test_every_knob_of_the_api_is_in_a_case() -> None:
    assert set(KNOBS["pod"]) == {field.alias or name for name, field in PodSpec.model_fields.items()}
