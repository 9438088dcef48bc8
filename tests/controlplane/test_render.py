"""The real API server takes every golden manifest, with strict field validation and pod security's baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.domain.snapshot import Key
from slmpack.render.names import MANAGER
from slmpack.render.pack_children import PackPod, pack_account, pack_children
from slmpack.render.service import render_service
from tests.support.control_plane import ApiError
from tests.support.operator import eventually
from tests.support.render_cases import CASES, PACKS, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slmpack.domain.plan import CreatePod
    from tests.support.control_plane import ControlPlane

STRICT = "dryRun=All&fieldValidation=Strict"
PODS = {**CASES, **PACKS}
ACCOUNTS = ("chat", "chat-pack")
PATHS = {
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
}


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> str:
    """With the service account that the knobs name, and that of packs."""
    name = control_plane.new_namespace("render")
    for account in ACCOUNTS:
        control_plane.request("POST", PATHS["ServiceAccount"].format(name), body={"metadata": {"name": account}})
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
    if sent == [] and made is None:
        return []  # one and the same thing where the server keeps it
    return [] if sent == made else [f"{at}: sent {sent!r}, made {made!r}"]


@pytest.mark.parametrize("create", PODS.values(), ids=PODS)
def test_a_pod_is_taken_as_it_is(control_plane: ControlPlane, namespace: str, create: CreatePod) -> None:
    manifest = render(in_namespace(create, namespace))
    made = dry_create(control_plane, manifest)
    assert differences(manifest, made) == []


def test_strictness_is_real(control_plane: ControlPlane, namespace: str) -> None:
    manifest = render(in_namespace(CASES["pod-exclusive"], namespace))
    manifest["spec"]["restartPolicys"] = "Always"
    with pytest.raises(ApiError, match="unknown field"):
        dry_create(control_plane, manifest)


def test_a_service_is_taken(control_plane: ControlPlane, namespace: str) -> None:
    create = in_namespace(CASES["pod-every-knob"], namespace)
    manifest = render_service(create.deployment, create.demand)
    kubectl = ("apply", "--server-side", f"--field-manager={MANAGER}", "--dry-run=server", "--validate=strict")
    printed = control_plane.kubectl(*kubectl, "-o", "json", "-f", "-", input=json.dumps(manifest)).stdout
    assert differences(manifest, json.loads(printed)) == []


@pytest.mark.parametrize("create", PODS.values(), ids=PODS)
def test_only_a_directory_of_the_node_breaks_the_baseline(control_plane: ControlPlane, create: CreatePod) -> None:
    namespace = control_plane.new_namespace("baseline")
    path = f"/api/v1/namespaces/{namespace}"
    for account in ACCOUNTS:
        control_plane.request("POST", f"{path}/serviceaccounts", body={"metadata": {"name": account}})
    found = control_plane.request("GET", path)
    found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"
    control_plane.request("PUT", path, body=found)
    manifest = render(in_namespace(create, namespace))
    if any("hostPath" in volume for volume in manifest["spec"]["volumes"]):
        with pytest.raises(ApiError, match="hostPath volumes"):
            dry_create(control_plane, manifest)
    else:
        dry_create(control_plane, manifest)


@pytest.mark.parametrize(("ip", "engines"), [("10.1.2.3", 3), ("fd00::7", 1)])
def test_what_a_pack_needs_beside_its_pod_is_taken(
    control_plane: ControlPlane, namespace: str, ip: str, engines: int
) -> None:
    create = in_namespace(PACKS["pack"], namespace)
    key = Key(namespace=namespace, name=create.name)
    uid = "5a6a1d7e-6f0b-4f0e-8a53-2e1f5e0c9d10"
    pod = PackPod(key=key, uid=uid, ip=ip, deployment="chat", engines=engines, account="chat-pack")
    account = pack_account(create.deployment, replace(create.demand, template={}))
    assert account is not None
    account["metadata"]["name"] = "not-there-yet"
    for manifest in (account, *pack_children(pod)):
        path = PATHS[manifest["kind"]].format(namespace)
        made = control_plane.request("POST", f"{path}?{STRICT}", body=manifest)
        assert differences(manifest, made) == []


def test_a_pack_s_account_reaches_its_own_slices_alone(control_plane: ControlPlane) -> None:
    """By the API server's own judgement, with the names of two packs of one deployment."""
    namespace = control_plane.new_namespace("slices")
    key = Key(namespace=namespace, name="chat-0")
    pod = PackPod(key=key, uid="0", ip="10.1.2.3", deployment="chat", engines=2, account="chat-pack")
    role, binding, *_ = pack_children(pod)
    for manifest in (role, binding):
        del manifest["metadata"]["ownerReferences"]  # there is no such pod: the collector would take them away
        control_plane.request("POST", PATHS[manifest["kind"]].format(namespace), body=manifest)

    def allowed(verb: str, name: str, resource: str = "endpointslices", group: str = "discovery.k8s.io") -> bool:
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name}
        spec = {"user": f"system:serviceaccount:{namespace}:chat-pack", "resourceAttributes": attributes}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(control_plane.request("POST", path, body={"spec": spec})["status"]["allowed"])

    ours = [(verb, name) for verb in ("get", "patch") for name in ("chat-0-e0", "chat-0-e1")]
    eventually(lambda: all(allowed(*each) for each in ours), what="the role is in force")
    assert not allowed("patch", "chat-0-e2")
    assert not allowed("patch", "chat-1-e0")
    assert not allowed("delete", "chat-0-e0")
    assert not allowed("list", "")
    assert not allowed("get", "chat-0", resource="pods", group="")


@pytest.fixture
def node(control_plane: ControlPlane) -> Iterator[str]:
    name = "render-node"
    control_plane.request("POST", "/api/v1/nodes", body={"metadata": {"name": name}})
    yield name
    control_plane.request("DELETE", f"/api/v1/nodes/{name}")


def test_the_service_s_selector_leads_to_no_port_of_a_pack(control_plane: ControlPlane, node: str) -> None:
    """The control plane lists every pod that the selector chooses; a pack without a port, so nobody is sent there."""
    namespace = control_plane.new_namespace("selector")
    control_plane.request("POST", PATHS["ServiceAccount"].format(namespace), body={"metadata": {"name": "chat-pack"}})
    pack = in_namespace(PACKS["pack"], namespace)
    alone = replace(in_namespace(CASES["pod-exclusive"], namespace), name="chat-1")
    core = f"/api/v1/namespaces/{namespace}"
    service = render_service(pack.deployment, pack.demand)
    del service["metadata"]["ownerReferences"]  # there is no such owner: the collector would take them away
    control_plane.request("POST", f"{core}/services", body=service)
    for create, ip in ((pack, "10.1.2.3"), (alone, "10.1.2.4")):
        manifest = render(create)
        del manifest["metadata"]["ownerReferences"]
        manifest["spec"]["nodeName"] = node
        pod = control_plane.request("POST", f"{core}/pods", body=manifest)
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": ip, "podIPs": [{"ip": ip}]}
        pod["status"] |= {"phase": "Running", **ready}
        control_plane.request("PUT", f"{core}/pods/{create.name}/status", body=pod)

    def ports() -> dict[str, Any]:
        slices = control_plane.request("GET", PATHS["EndpointSlice"].format(namespace))["items"]
        return {e["targetRef"]["name"]: one["ports"] for one in slices for e in one["endpoints"] or ()}

    eventually(lambda: {"chat-0", "chat-1"} <= ports().keys(), what="both pods are listed")
    found = ports()
    assert [port["port"] for port in found["chat-1"]] == [8000]
    assert found["chat-0"] is None
