"""The demo with --kubeconfig: the same session on the real API server, and only what it created is removed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmpack.adapters.kube import KubeClient
from slmpack.cli.stages import DEMO_NAMESPACE, demo_nodes
from slmpack.devcluster.cluster import system_clock
from slmpack.devcluster.kubelet import Kubelets
from tests.support.control_plane import ApiError, ControlPlane
from tests.support.demo import a_demo, check_session, run_session
from tests.support.loops import connections_closed

pytestmark = pytest.mark.timeout(300)

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def kubelets(control_plane: ControlPlane) -> Iterator[None]:
    """The demo's nodes, played in a thread of their own; they are gone afterwards."""
    started, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def play() -> None:
        async with (
            await KubeClient.connect(str(control_plane.kubeconfig())) as client,
            Kubelets(client, nodes=demo_nodes(), clock=system_clock),
        ):
            started.set()
            await stop.wait()
        await connections_closed()

    thread = threading.Thread(target=lambda: loop.run_until_complete(play()))
    thread.start()
    assert started.wait(30)
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()
    for node in demo_nodes():
        control_plane.request("DELETE", f"/api/v1/nodes/{node['metadata']['name']}")


def _there(control_plane: ControlPlane, path: str) -> bool:
    try:
        return "deletionTimestamp" not in control_plane.request("GET", path)["metadata"]
    except ApiError as error:
        if error.status != 404:
            raise
        return False


@pytest.mark.usefixtures("kubelets")
def test_the_session_on_the_real_control_plane(control_plane: ControlPlane, tmp_path: Path) -> None:
    had_crd = _there(control_plane, f"{CRDS}/slmdeployments.slmpack.dev")
    bystander = control_plane.new_namespace("bystander")
    with a_demo("--stay", "--kubeconfig", str(control_plane.kubeconfig()), folder=tmp_path) as demo:
        demo.wait_for("Ctrl-C ends the demo")
        assert f"the namespace {DEMO_NAMESPACE} and the examples in it" in demo.text
        printed = run_session(demo, logs=False)
        check_session(printed, name="qwen2-5-1-5b")
        assert demo.interrupt() == 0, demo.text
    assert not _there(control_plane, f"/api/v1/namespaces/{DEMO_NAMESPACE}")
    assert _there(control_plane, f"{CRDS}/slmdeployments.slmpack.dev") is had_crd
    assert _there(control_plane, f"/api/v1/namespaces/{bystander}")
    assert list(tmp_path.iterdir()) == []
