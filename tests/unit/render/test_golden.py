"""Whole manifests against reviewed files, one for each kind of share and each source of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slmpack.api.pod_spec import PodSpec
from slmpack.api.v1alpha1 import SLMDeploymentSpec
from slmpack.render.pack_children import pack_account, pack_children
from slmpack.render.service import render_service
from tests.support.golden import FOLDER, Golden
from tests.support.render_cases import CASES, KNOBS, PACK_POD, PACKS, SPEC, a_demand, a_deployment, render

if TYPE_CHECKING:
    from slmpack.domain.plan import CreatePod

SERVICES = {"service": SPEC, "service-every-knob": KNOBS}


PODS = {**CASES, **PACKS}
CHILDREN = "pack-children"


@pytest.mark.parametrize(("name", "create"), PODS.items(), ids=PODS)
def test_pod(name: str, create: CreatePod, golden: Golden) -> None:
    golden.check(name, render(create))


def test_what_a_pack_needs_beside_its_pod(golden: Golden) -> None:
    made = [pack_account(a_deployment(), a_demand()), *pack_children(PACK_POD)]
    golden.check(CHILDREN, {"apiVersion": "v1", "kind": "List", "items": made})


@pytest.mark.parametrize(("name", "template"), SERVICES.items(), ids=SERVICES)
def test_service(name: str, template: dict[str, object], golden: Golden) -> None:
    demand = a_demand(template)
    golden.check(name, render_service(a_deployment(demand=demand), demand))


def test_no_file_is_left_over() -> None:
    ours = {path.stem for path in FOLDER.glob("*.yaml") if path.stem.startswith(("pack", "pod", "service"))}
    assert ours == {*PODS, *SERVICES, CHILDREN}


@pytest.mark.parametrize("create", PODS.values(), ids=PODS)
def test_each_template_is_a_spec_that_the_api_takes(create: CreatePod) -> None:
    SLMDeploymentSpec.model_validate(create.demand.template)


def test_every_knob_of_the_api_is_in_a_case() -> None:
    assert set(KNOBS["pod"]) == {field.alias or name for name, field in PodSpec.model_fields.items()}
