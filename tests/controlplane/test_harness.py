"""The control plane of the tests and the proxy in front of it do what the other tests of this folder rely on."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import kopf
import pytest
from kubernetes.aio import client, config

from tests.support import binaries
from tests.support.control_plane import ApiError, ControlPlane, MutatingRequest
from tests.support.fault_proxy import Fault, FaultProxy

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterator

PODS = "/api/v1/namespaces/{}/pods"
CONFIG_MAPS = "/api/v1/namespaces/{}/configmaps"


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy.in_front_of(control_plane) as running:
        yield running


def eventually(is_true: Callable[[], object], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def a_pod(name: str) -> dict[str, Any]:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}}
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}}


def a_config_map(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def a_node(name: str) -> dict[str, Any]:
    room = {"cpu": "2", "memory": "4Gi", "pods": "10"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a test plays this node"}
    return {"metadata": {"name": name}, "status": {"capacity": room, "allocatable": room, "conditions": [ready]}}


def test_kubectl_talks_to_the_version_that_was_built(control_plane: ControlPlane) -> None:
    printed = control_plane.kubectl("version").stdout
    assert f"Client Version: {binaries.KUBERNETES_VERSION}" in printed
    assert f"Server Version: {binaries.KUBERNETES_VERSION}" in printed


def test_kubectl_apply_finds_a_sound_openapi_document(control_plane: ControlPlane) -> None:
    namespace = control_plane.new_namespace()
    manifest = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}'
    assert control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=manifest).stdout == "configmap/a created\n"
    wrong = manifest.replace('"data"', '"dato"')
    refused = control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=wrong, check=False)
    assert 'unknown field "dato"' in refused.stderr


def test_the_scheduler_binds_a_pod_to_a_node_that_a_test_plays(control_plane: ControlPlane) -> None:
    namespace = control_plane.new_namespace()
    pods = PODS.format(namespace)
    control_plane.request("POST", "/api/v1/nodes", body=a_node(namespace))
    try:
        control_plane.request("POST", pods, body=a_pod("a"))
        eventually(lambda: control_plane.request("GET", f"{pods}/a")["spec"].get("nodeName") == namespace)
    finally:
        control_plane.request("DELETE", f"{pods}/a?gracePeriodSeconds=0")
        control_plane.request("DELETE", f"/api/v1/nodes/{namespace}")


def test_a_service_account_may_do_what_its_role_says_and_no_more(control_plane: ControlPlane) -> None:
    namespace = control_plane.new_namespace()
    kubectl = control_plane.kubectl
    kubectl("create", "-n", namespace, "serviceaccount", "someone")
    token = control_plane.service_account_token(namespace, "someone")
    theirs = control_plane.kubeconfig(token, user="someone")
    refused = kubectl("get", "-n", namespace, "pods", kubeconfig=theirs, check=False)
    assert f'User "system:serviceaccount:{namespace}:someone" cannot list resource "pods"' in refused.stderr
    kubectl("create", "-n", namespace, "role", "reader", "--verb=list", "--resource=pods")
    kubectl("create", "-n", namespace, "rolebinding", "r", "--role=reader", f"--serviceaccount={namespace}:someone")
    eventually(lambda: kubectl("get", "-n", namespace, "pods", kubeconfig=theirs, check=False).returncode == 0)
    with pytest.raises(ApiError) as caught:
        control_plane.request("POST", PODS.format(namespace), body=a_pod("a"), token=token)
    assert caught.value.status == 403


def test_mutating_requests_are_counted_by_kind(control_plane: ControlPlane) -> None:
    namespace = control_plane.new_namespace()
    config_maps = CONFIG_MAPS.format(namespace)
    before = control_plane.mutating_requests()
    for name in ("a", "b"):
        control_plane.request("POST", config_maps, body=a_config_map(name))
    control_plane.request("POST", f"{config_maps}?dryRun=All", body=a_config_map("c"))
    control_plane.request("DELETE", f"{config_maps}/a")
    control_plane.request("GET", config_maps)
    done = control_plane.mutating_requests() - before
    assert {request: count for request, count in done.items() if request.resource == "configmaps"} == {
        MutatingRequest("POST", "", "configmaps", ""): 2,
        MutatingRequest("DELETE", "", "configmaps", ""): 1,
    }


def test_a_restarted_api_server_still_has_everything(control_plane: ControlPlane) -> None:
    namespace = control_plane.new_namespace()
    control_plane.restart_apiserver()
    assert control_plane.request("GET", f"/api/v1/namespaces/{namespace}")["metadata"]["name"] == namespace
    assert control_plane.new_namespace()


def test_kubectl_works_through_the_proxy(control_plane: ControlPlane, proxy: FaultProxy) -> None:
    namespace = control_plane.new_namespace()
    through = control_plane.kubeconfig(server=proxy.url)
    control_plane.kubectl("create", "-n", namespace, "configmap", "a", kubeconfig=through)
    assert proxy.count("/configmaps$", method="POST") == 1
    assert "\na " in control_plane.kubectl("get", "-n", namespace, "configmaps", kubeconfig=through).stdout


def test_a_client_sees_the_statuses_that_a_test_sets(control_plane: ControlPlane, proxy: FaultProxy) -> None:
    namespace = control_plane.new_namespace()
    through = control_plane.kubeconfig(server=proxy.url)

    def create(name: str) -> subprocess.CompletedProcess[str]:
        return control_plane.kubectl("create", "-n", namespace, "cm", name, kubeconfig=through, check=False)

    fault = proxy.add(Fault(path="/configmaps$", method="POST", status=500, times=1))
    assert "fault set by a test: 500" in create("a").stderr
    assert create("a").returncode == 0
    assert fault.hits == 1
    busy = proxy.add(Fault(path="/configmaps$", method="POST", status=429, times=2))
    assert create("b").returncode == 0, "client-go tries again after Retry-After"
    assert busy.hits == 2
    proxy.add(Fault(path="/configmaps$", method="POST", drop_reply=True))
    assert create("c").returncode != 0
    assert control_plane.request("GET", f"{CONFIG_MAPS.format(namespace)}/c")
    proxy.clear()
    proxy.add(Fault(path="/configmaps$", delay_seconds=0.5))
    began = time.monotonic()
    assert create("d").returncode == 0
    assert time.monotonic() - began >= 0.5


async def test_the_official_client_meets_cuts_410_and_refusal(control_plane: ControlPlane, proxy: FaultProxy) -> None:
    namespace = control_plane.new_namespace()
    through = control_plane.kubeconfig(server=proxy.url)
    async with await config.new_client_from_config(config_file=str(through)) as api:
        core = client.CoreV1Api(api)

        async def watch() -> AsyncIterator[bytes]:
            response = await core.list_namespaced_config_map_without_preload_content(namespace, watch=True)
            async with response:
                response.raise_for_status()
                async for line in response.content:
                    yield line

        control_plane.request("POST", CONFIG_MAPS.format(namespace), body=a_config_map("before"))
        lines = watch()
        while b'"before"' not in await anext(lines):
            pass
        control_plane.request("POST", CONFIG_MAPS.format(namespace), body=a_config_map("streamed"))
        while b'"streamed"' not in await anext(lines):
            pass
        assert proxy.open_watches == 1
        assert proxy.cut_watches() == 1
        with pytest.raises(aiohttp.ClientError):
            await anext(lines)

        proxy.add(Fault(path="/configmaps$", watch=True, status=410, as_event=True, times=1))
        (error,) = [json.loads(line) async for line in watch()]
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
        proxy.add(Fault(path="/configmaps$", watch=True, status=410, times=1))
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await anext(watch())
        assert caught.value.status == 410

        proxy.refuse()
        with pytest.raises(aiohttp.ClientConnectorError):
            await core.list_namespaced_config_map(namespace)
        proxy.accept()
        assert (await core.list_namespaced_config_map(namespace)).items


async def test_kopf_sees_every_change_in_spite_of_the_faults(control_plane: ControlPlane, proxy: FaultProxy) -> None:
    namespace = control_plane.new_namespace()
    seen: dict[str, asyncio.Event] = {name: asyncio.Event() for name in ("a", "b", "c", "d")}
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="login")
    def login(**kwargs: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=proxy.url, ca_path=str(control_plane.ca_file), token=control_plane.admin_token, scheme="Bearer"
        )

    @kopf.on.event("v1", "configmaps", registry=registry, id="event")
    async def event(name: str, **kwargs: Any) -> None:
        if name in seen:
            seen[name].set()

    async def create_and_wait(name: str) -> None:
        control_plane.request("POST", CONFIG_MAPS.format(namespace), body=a_config_map(name))
        async with asyncio.timeout(20):
            await seen[name].wait()

    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.networking.error_backoffs = (0.1, 0.2, 0.4)
    settings.watching.reconnect_backoff = 0.1
    stop = asyncio.Event()
    running = asyncio.create_task(
        kopf.operator(registry=registry, settings=settings, namespaces=[namespace], standalone=True, stop_flag=stop)
    )
    try:
        await create_and_wait("a")
        await asyncio.to_thread(eventually, lambda: proxy.open_watches)  # the event may be of the list before the watch
        assert proxy.cut_watches() >= 1
        await create_and_wait("b")
        gone = proxy.add(Fault(path="/configmaps$", watch=True, status=410, as_event=True, times=1))
        proxy.cut_watches()
        await create_and_wait("c")
        assert gone.hits == 1
        proxy.refuse()
        await asyncio.sleep(0.3)
        proxy.accept()
        await create_and_wait("d")
    finally:
        stop.set()
        await running
        await asyncio.sleep(0.2)  # TLS connections close some turns of the loop after their session


def test_a_watch_that_its_client_leaves_ends_at_the_api_server(control_plane: ControlPlane, proxy: FaultProxy) -> None:
    through = control_plane.kubeconfig(server=proxy.url)
    control_plane.kubectl("get", "ns", "-w", "--request-timeout=1s", kubeconfig=through, check=False)
    assert proxy.count("/namespaces$", watch=True) == 1
    eventually(lambda: proxy.open_watches == 0)
