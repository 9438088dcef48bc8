"""MIG devices by ResourceClaims: the operator makes templates and pods, the real scheduler allocates and binds."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import L4, whole_node
from slmpack.devcluster.worker import Timing
from slmpack.domain.dra import claim_resource
from slmpack.domain.plan import Placement
from slmpack.domain.sharing import DraClaim
from slmpack.render.claims import pod_claims, render_claim_template
from tests.support.builders import a_deployment, a_snapshot, creates, plan
from tests.support.builders import whole_node as a_whole_node
from tests.support.dra import CLAIMS, CLASSES, SLICES, dra_node, mig_class, mig_device, play_driver, publish, remove
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.operator import eventually, playing_nodes
from tests.support.scene import Stage, is_ready, name_of, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Scene

NODE, PLUGIN_NODE = dra_node("dra-h100"), whole_node("dra-l4", product=L4)
NODES = [NODE, PLUGIN_NODE]
DEVICES = [
    mig_device("1g.10gb", start=0),
    mig_device("1g.10gb", start=1),
    mig_device("2g.20gb", start=2),
    mig_device("3g.40gb", start=4),
]
TIMING = Timing(pull=0.02, create=0.02, start=0.3, stop=0.05)
NOBODY = "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'none'"


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane) -> Iterator[Stage]:
    with playing_nodes(control_plane, NODES, timing=TIMING) as kubelets:
        play_driver(kubelets, control_plane, NODE)
        control_plane.request("POST", CLASSES, body=mig_class())
        publish(control_plane, "dra-h100", DEVICES)
        try:
            yield Stage.prepare(control_plane, nodes=NODES)
        finally:
            remove(control_plane, f"{CLASSES}/mig.nvidia.com")
            for one in control_plane.request("GET", SLICES)["items"]:
                remove(control_plane, f"{SLICES}/{one['metadata']['name']}")


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(stage, folder=tmp_path) as opened:
        yield opened
    eventually(lambda: not _held(stage.control_plane), seconds=60, what="the claims go with their pods")


def _held(api: ControlPlane) -> dict[str, str]:
    """Namespace/name of the pod (or the claim) that holds each device."""
    held: dict[str, str] = {}
    for claim in api.request("GET", CLAIMS)["items"]:
        status = claim.get("status", {})
        users = [user["name"] for user in status.get("reservedFor", [])]
        for result in status.get("allocation", {}).get("devices", {}).get("results", []):
            held[result["device"]] = f"{claim['metadata']['namespace']}/{(users or [claim['metadata']['name']])[0]}"
    return held


@contextmanager
def _stranger(api: ControlPlane, *, profile: str) -> Iterator[str]:
    """A pod of somebody else, in another namespace, whose claim has been allocated a device."""
    namespace = api.new_namespace("stranger")
    expression = f"device.attributes['gpu.nvidia.com'].profile == '{profile}'"
    exactly = {"deviceClassName": "mig.nvidia.com", "selectors": [{"cel": {"expression": expression}}]}
    spec = {"devices": {"requests": [{"name": "it", "exactly": exactly}]}}
    path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"
    api.request("POST", path, body={"metadata": {"name": "theirs"}, "spec": spec})
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.request("POST", pods, body=_bare_pod("stranger", [{"name": "it", "resourceClaimName": "theirs"}]))
    eventually(lambda: f"{namespace}/stranger" in _held(api).values(), seconds=60, what="the stranger has its device")
    try:
        yield namespace
    finally:
        remove(api, f"{pods}/stranger?gracePeriodSeconds=0")
        remove(api, f"{path}/theirs")
        eventually(lambda: f"{namespace}/stranger" not in _held(api).values(), seconds=60)


def _bare_pod(name: str, claims: list[dict[str, Any]]) -> dict[str, Any]:
    """A pod on the DRA node that does nothing with its device."""
    container = {
        "name": "main",
        "image": "registry.k8s.io/pause:3.10",
        "resources": {"claims": [{"name": claim["name"]} for claim in claims]},
    }
    selector = {"kubernetes.io/hostname": "dra-h100"}
    return {
        "metadata": {"name": name},
        "spec": {"nodeSelector": selector, "containers": [container], "resourceClaims": claims},
    }


def _scheduled(api: ControlPlane, path: str) -> tuple[str, str]:
    """Status and message of the condition PodScheduled."""
    conditions = api.request("GET", path)["status"].get("conditions", [])
    return next(((it["status"], it.get("message", "")) for it in conditions if it["type"] == "PodScheduled"), ("", ""))


def _classes(api: ControlPlane, expression: str | None = None) -> None:
    body = mig_class() if expression is None else mig_class(expression)
    api.kubectl("replace", "-f", "-", input=json.dumps(body))


def test_the_scheduler_gives_each_replica_a_device_of_the_planned_profile(scene: Scene) -> None:
    scene.apply("web", slm_spec(replicas=2, mode="DRA"))
    scene.wait_reason("web", "AllReady")
    held = _held(scene.api)
    wanted = {f"{scene.namespace}/web-{n}" for n in range(2)}
    assert set(held.values()) == wanted
    assert set(held) == {"gpu-0-mig-1g10gb-19-0", "gpu-0-mig-1g10gb-19-1"}
    for pod in scene.pods("web"):
        assert pod["spec"]["nodeName"] == "dra-h100"
        resources = pod["spec"]["containers"][0]["resources"]
        assert not [name for part in ("limits", "requests") for name in resources.get(part, {}) if "nvidia" in name]
    templates = scene.api.request(
        "GET", f"/apis/resource.k8s.io/v1/namespaces/{scene.namespace}/resourceclaimtemplates"
    )
    (owner,) = templates["items"][0]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("SLMDeployment", "web")
    limit = next(it for it in scene.status("web")["conditions"] if it["type"] == "MemoryLimitEnforced")
    assert (limit["status"], limit["reason"]) == ("True", "MigHardware")
    before = scene.live_uids("web")
    scene.operator.terminate()
    scene.start()
    scene.more_turns()
    assert scene.live_uids("web") == before
    # each replica's device counts once: the two of the next size up are what is left
    scene.apply("web", slm_spec(replicas=4, mode="DRA"))
    scene.wait_reason("web", "AllReady")
    assert len(_held(scene.api)) == 4
    scene.apply("web", slm_spec(replicas=5, mode="DRA"))
    scene.wait_reason("web", "InsufficientGpus")
    scene.more_turns()
    assert len(scene.pods("web")) == 4


def test_a_strangers_claim_takes_a_device_and_the_plan_knows(scene: Scene) -> None:
    publish(scene.api, "dra-h100", DEVICES[:2], generation=2)
    try:
        with _stranger(scene.api, profile="1g.10gb"):
            scene.apply("web", slm_spec(replicas=2, mode="DRA"))
            scene.wait_reason("web", "InsufficientGpus")
            scene.more_turns()
            assert [name_of(pod) for pod in scene.pods("web")] == ["web-0"]
            eventually(lambda: all(is_ready(pod) for pod in scene.pods("web")), what=scene.operator.log)
        scene.wait_reason("web", "AllReady")
        assert len(_held(scene.api)) == 2
    finally:
        publish(scene.api, "dra-h100", DEVICES, generation=3)


def test_a_device_that_the_driver_taints_is_not_planned_on(scene: Scene) -> None:
    taint = {"taints": [{"key": "gpu.nvidia.com/xid", "value": "48", "effect": "NoSchedule"}]}
    publish(scene.api, "dra-h100", [mig_device("1g.10gb", more=taint)], generation=4)
    try:
        scene.apply("web", slm_spec(mode="DRA"))
        scene.wait_reason("web", "DraUnavailable")
        assert "gpu.nvidia.com/xid:NoSchedule" in scene.message("web")
        assert not scene.pods("web")
    finally:
        publish(scene.api, "dra-h100", DEVICES, generation=5)
    scene.wait_reason("web", "AllReady")


def test_what_the_scheduler_does_not_allocate_is_said(scene: Scene) -> None:
    """The plan is wrong here: the administrator's class selects no device, which no slice tells."""
    _classes(scene.api, NOBODY)
    try:
        scene.apply("web", slm_spec(mode="DRA"))
        scene.wait_reason("web", "Unschedulable")
        assert "cannot allocate all claims" in scene.message("web")
        assert not _held(scene.api)
    finally:
        _classes(scene.api)
    eventually(lambda: _is_served(scene), seconds=120, what=scene.operator.log)


def _is_served(scene: Scene) -> bool:
    return any(is_ready(pod) for pod in scene.pods("web"))


def test_a_missing_class_is_a_reason_until_it_is_there(scene: Scene) -> None:
    remove(scene.api, f"{CLASSES}/mig.nvidia.com")
    try:
        scene.apply("web", slm_spec(mode="DRA"))
        scene.wait_reason("web", "DraUnavailable")
        assert "no DeviceClass mig.nvidia.com" in scene.message("web")
        assert not scene.pods("web")
    finally:
        scene.api.request("POST", CLASSES, body=mig_class())
    scene.wait_reason("web", "AllReady")


@pytest.mark.parametrize(
    ("profile", "allocated"), [("2g.20gb", True), ("20096Mi", True), ("2g.24gb", False), ("20097Mi", False)]
)
def test_the_scheduler_takes_our_expression_by_profile_and_by_size(stage: Stage, profile: str, allocated: bool) -> None:
    """A template as it is rendered, with a profile that the node has, or one that it has not."""
    api = stage.control_plane
    namespace = api.new_namespace("claims")
    share = DraClaim(
        resource=claim_resource(profile), device_class="mig.nvidia.com", profile=profile, memory_bytes=20096 * 2**20
    )
    (made,) = creates(plan(a_snapshot(deployments=(a_deployment(namespace=namespace),), nodes=(a_whole_node("n"),))))
    made = replace(made, placement=Placement(node="dra-h100", share=share))
    template = render_claim_template(made)
    assert template is not None
    template["metadata"].pop("ownerReferences")
    api.request("POST", f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaimtemplates", body=template)
    path = f"/api/v1/namespaces/{namespace}/pods"
    api.request("POST", path, body=_bare_pod("it", pod_claims(made)))
    try:
        eventually(lambda: _scheduled(api, f"{path}/it")[0] == ("True" if allocated else "False"), seconds=60)
        held = [device for device, user in _held(api).items() if user == f"{namespace}/it"]
        assert bool(held) == allocated
        assert allocated or "cannot allocate all claims" in _scheduled(api, f"{path}/it")[1]
    finally:
        remove(api, f"{path}/it?gracePeriodSeconds=0")
        eventually(lambda: f"{namespace}/it" not in _held(api).values(), seconds=60)


def test_an_api_server_without_dra_is_a_reason_and_nothing_else_suffers(stage: Stage, tmp_path: Path) -> None:
    with FaultProxy.in_front_of(stage.control_plane) as proxy:
        fault = proxy.add(Fault(path=r"^/apis/resource\.k8s\.io(/|$)", status=404))
        with open_scene(stage, folder=tmp_path, server=proxy.url) as scene:
            scene.apply("claims", slm_spec(mode="DRA"))
            scene.apply("whole", slm_spec(mode="Exclusive", products=[L4]))
            scene.wait_reason("claims", "DraUnavailable")
            assert "resource.k8s.io/v1" in scene.message("claims")
            scene.wait_reason("whole", "AllReady")
            assert not scene.pods("claims")
            assert fault.hits > 0
            assert proxy.count(r"resource\.k8s\.io", watch=True) == 0, "what is not served is not watched"
            assert "Traceback" not in scene.operator.log
