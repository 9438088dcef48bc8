"""The real API server takes every golden manifest, with strict field validation and pod security's baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.domain.snapshot import Key
from slmpack.render.names import MANAGER
from slmpack.render.pod import render_pod
from slmpack.render.service import render_service
from tests.support.control_plane import ApiError
from tests.support.render_cases import CASES, ENGINES

if TYPE_CHECKING:
    from slmpack.domain.plan import CreatePod
    from tests.support.control_plane import ControlPlane

STRICT = "dryRun=All&fieldValidation=Strict"


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> str:
    """With the service account that the knobs name."""
    name = control_plane.new_namespace("render")
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    control_plane.request("POST", path, body={"metadata": {"name": "chat"}})
    return name


def in_namespace(create: CreatePod, namespace: str) -> CreatePod:
    return replace(create, deployment=replace(create.deployment, key=Key(namespace=namespace, name="chat")))


def dry_create(control_plane: ControlPlane, manifest: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/v1/namespaces/{manifest['metadata']['namespace']}/pods?{STRICT}"
    made: dict[str, Any] = control_plane.request("POST", path, body=manifest)
    return made


def differences(sent: Any, made: Any, *, at: str = "") -> list[str]:
    """Where the server changed or dropped what was sent; what it added does not count."""
    if isinstance(sent, dict) and isinstance(made, dict):
        return [found for key, value in sent.items() for found in differences(value, made.get(key), at=f"{at}.{key}")]
    if isinstance(sent, list) and isinstance(made, list):
        pairs = zip(sent, made, strict=False)
        return [found for n, (a, b) in enumerate(pairs) for found in differences(a, b, at=f"{at}[{n}]")] + (
            [f"{at}: {len(sent)} items, not {len(made)}"] if len(made) < len(sent) else []
        )
    return [] if sent == made else [f"{at}: sent {sent!r}, made {made!r}"]


@pytest.mark.parametrize("create", CASES.values(), ids=CASES)
def test_a_pod_is_taken_as_it_is(control_plane: ControlPlane, namespace: str, create: CreatePod) -> None:
    manifest = render_pod(in_namespace(create, namespace), engines=ENGINES)
    made = dry_create(control_plane, manifest)
    assert differences(manifest, made) == []


def test_strictness_is_real(control_plane: ControlPlane, namespace: str) -> None:
    manifest = render_pod(in_namespace(CASES["pod-exclusive"], namespace), engines=ENGINES)
    manifest["spec"]["restartPolicys"] = "Always"
    with pytest.raises(ApiError, match="unknown field"):
        dry_create(control_plane, manifest)


def test_a_service_is_taken(control_plane: ControlPlane, namespace: str) -> None:
    create = in_namespace(CASES["pod-every-knob"], namespace)
    manifest = render_service(create.deployment, create.demand)
    kubectl = ("apply", "--server-side", f"--field-manager={MANAGER}", "--dry-run=server", "--validate=strict")
    printed = control_plane.kubectl(*kubectl, "-o", "json", "-f", "-", input=json.dumps(manifest)).stdout
    assert differences(manifest, json.loads(printed)) == []


@pytest.mark.parametrize("create", CASES.values(), ids=CASES)
def test_only_a_directory_of_the_node_breaks_the_baseline(control_plane: ControlPlane, create: CreatePod) -> None:
    namespace = control_plane.new_namespace("baseline")
    path = f"/api/v1/namespaces/{namespace}"
    control_plane.request("POST", f"{path}/serviceaccounts", body={"metadata": {"name": "chat"}})
    found = control_plane.request("GET", path)
    found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"
    control_plane.request("PUT", path, body=found)
    manifest = render_pod(in_namespace(create, namespace), engines=ENGINES)
    if any("hostPath" in volume for volume in manifest["spec"]["volumes"]):
        with pytest.raises(ApiError, match="hostPath volumes"):
            dry_create(control_plane, manifest)
    else:
        dry_create(control_plane, manifest)
