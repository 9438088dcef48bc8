"""A pack's parts on the real control plane: the operator's own rights are enough to make them, and no more than needed.

Nobody plays the pod: the test says that it runs, and answers for its supervisor, which the operator reaches by a proxy.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from slmpack.api.crd import render_crd
from slmpack.devcluster.nodes import whole_node
from tests.support.control_plane import ControlPlane, MutatingRequest
from tests.support.operator import Operator, eventually, operator_account

NODE = "parts-l4"
SLM = {
    "apiVersion": "slmpack.dev/v1alpha1",
    "kind": "SLMDeployment",
    "metadata": {"name": "m"},
    "spec": {
        "replicas": 2,
        "model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"},
        "sharing": {"mode": "MPSPack", "maxPerGPU": 2},
    },
}


class Supervisor(BaseHTTPRequestHandler):
    """The supervisor of the one pack, at every address: its clients take it for their proxy."""

    settings: dict[str, Any]
    uid: str
    running: list[int]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        type(self).running = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["running"]
        self._answer()

    def _answer(self) -> None:
        token = self.headers["Authorization"].removeprefix("Bearer ")
        known = hashlib.sha256(token.encode()).hexdigest() == self.settings["tokenSHA256"]
        self.asked.append((self.command, self.path))
        engines = [
            {"index": index, "state": "ready" if index in self.running else "stopped", "attached": True}
            for index in range(len(self.settings["engines"]))
        ]
        report = {"version": 1, "podUid": self.uid, "running": self.running, "ending": False, "engines": engines}
        body = json.dumps(report).encode() if known else b""
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[str]:
    Supervisor.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Supervisor) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("apply", "--server-side", "-f", "-", input=render_crd())
    eventually(lambda: control_plane.kubectl("get", "slm", "-A", check=False).returncode == 0)
    node = whole_node(NODE, gpus=1)
    node["metadata"]["labels"]["kubernetes.io/hostname"] = NODE
    control_plane.kubectl("create", "-f", "-", input=json.dumps(node))
    ready = {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": _now()}
    _patch(control_plane, f"node/{NODE}", {"status": {**node["status"], "conditions": [ready]}}, "--subresource=status")
    yield control_plane
    control_plane.kubectl("delete", "node", NODE)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251


def _patch(cluster: ControlPlane, what: str, body: dict[str, Any], *flags: str) -> None:
    cluster.kubectl("patch", what, "--type=merge", "-p", json.dumps(body), *flags)


def _play(cluster: ControlPlane, namespace: str) -> dict[str, Any]:
    """The pod runs and is Ready, and has a supervisor."""
    pod: dict[str, Any] = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods/m-0")
    env = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}
    Supervisor.settings = json.loads(env["SLMPACK_PACK"])
    Supervisor.uid, Supervisor.running = pod["metadata"]["uid"], Supervisor.settings["running"]
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": _now()}]
    status = {"phase": "Running", "podIP": "10.9.8.7", "podIPs": [{"ip": "10.9.8.7"}], "conditions": conditions}
    _patch(cluster, "pod/m-0", {"status": {**status, "startTime": _now()}}, "-n", namespace, "--subresource=status")
    return pod


def _slices(cluster: ControlPlane, namespace: str) -> set[str]:
    selector = "endpointslice.kubernetes.io/managed-by=slmpack.dev"
    found = cluster.kubectl("get", "endpointslices", "-n", namespace, "-l", selector, "-o", "name").stdout.split()
    return {name.rpartition("/")[2] for name in found}


def _status(cluster: ControlPlane, namespace: str) -> dict[str, Any]:
    found = cluster.request("GET", f"/apis/slmpack.dev/v1alpha1/namespaces/{namespace}/slmdeployments/m")
    status: dict[str, Any] = found.get("status", {})
    return status


def _may(cluster: ControlPlane, namespace: str, verb: str, what: str) -> bool:
    account = f"system:serviceaccount:{namespace}:m-pack"
    return cluster.kubectl("auth", "can-i", verb, what, "-n", namespace, f"--as={account}", check=False).returncode == 0


def _writes(cluster: ControlPlane) -> Counter[MutatingRequest]:
    """Of kinds that nobody but an operator writes here."""
    kinds = {"pods", "serviceaccounts", "roles", "rolebindings", "secrets", "services", "slmdeployments", "events"}
    found = cluster.mutating_requests().items()
    return Counter(
        {
            request: count
            for request, count in found
            if request.resource in kinds and request.subresource in {"", "status"}
        }
    )


def test_a_pack_gets_its_parts_and_its_orders(cluster: ControlPlane, proxy: str, tmp_path: Path) -> None:
    namespace, system = cluster.new_namespace("parts"), cluster.new_namespace("system")
    token = operator_account(cluster, system=system, namespace=namespace, packs=True)
    config = {
        "kubeconfig": str(cluster.kubeconfig(token)),
        "namespace": namespace,
        "lease_namespace": system,
        "supervisor_image": "example.com/slmpack:test",
        "pod_proxy": proxy,
        "node_selector": f"kubernetes.io/hostname={NODE}",
    }
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(SLM))
    with Operator(config, log=tmp_path / "operator.log") as operator:
        operator.wait_ready()
        exists = ("get", "pod/m-0", "-n", namespace)
        eventually(lambda: cluster.kubectl(*exists, check=False).returncode == 0, what=operator.log)
        pod = _play(cluster, namespace)
        eventually(lambda: _slices(cluster, namespace) == {"m-0-e0", "m-0-e1"}, what=operator.log)
        eventually(lambda: _status(cluster, namespace).get("ready") == "2/2", what=operator.log)
        assert Supervisor.asked[0] == ("GET", "http://10.9.8.7:8090/v1/engines")

        assert pod["spec"]["serviceAccountName"] == "m-pack"
        assert _may(cluster, namespace, "patch", "endpointslices.discovery.k8s.io/m-0-e1")
        assert _may(cluster, namespace, "get", "endpointslices.discovery.k8s.io/m-0-e1")
        for verb, what in (
            ("patch", "endpointslices.discovery.k8s.io/m-1-e0"),
            ("list", "endpointslices.discovery.k8s.io"),
            ("delete", "endpointslices.discovery.k8s.io/m-0-e1"),
            ("get", "secrets"),
        ):
            assert not _may(cluster, namespace, verb, what), f"{verb} {what}"

        _patch(cluster, "slm/m", {"spec": {"replicas": 1}}, "-n", namespace)
        eventually(lambda: len(Supervisor.running) == 1, what=operator.log)
        eventually(lambda: _status(cluster, namespace).get("ready") == "1/1", what=operator.log)
        annotations = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods/m-0")["metadata"]["annotations"]
        assert annotations["slmpack.dev/running"] == str(Supervisor.running[0])

        cluster.kubectl("delete", "endpointslice", "m-0-e1", "-n", namespace)
        eventually(lambda: "m-0-e1" in _slices(cluster, namespace), what=operator.log)
        assert operator.terminate() < 5
        assert "Traceback" not in operator.log

    before, orders = _writes(cluster), [verb for verb, _ in Supervisor.asked].count("PUT")
    with Operator(config, log=tmp_path / "second.log") as operator:
        operator.wait_ready()
        eventually(lambda: operator.turns() >= 2, what=operator.log)
        assert dict(_writes(cluster) - before) == {}
        assert [verb for verb, _ in Supervisor.asked].count("PUT") == orders
        cluster.kubectl("delete", "slm", "m", "-n", namespace)
    cluster.kubectl("delete", "pod", "m-0", "-n", namespace, "--force", "--grace-period=0")
    parts = ("role/m-0-pack", "rolebinding/m-0-pack", "endpointslice/m-0-e0", "endpointslice/m-0-e1")
    left = ("get", *parts, "-n", namespace, "--ignore-not-found", "-o", "name")
    eventually(lambda: not cluster.kubectl(*left).stdout.split(), what="its parts go with the pod", seconds=60)


def test_without_the_rights_of_packs_an_operator_with_packs_does_not_start(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    namespace, system = cluster.new_namespace("parts"), cluster.new_namespace("system")
    token = operator_account(cluster, system=system, namespace=namespace)
    config = {"kubeconfig": str(cluster.kubeconfig(token)), "namespace": namespace, "lease_namespace": system}
    with Operator({**config, "supervisor_image": "x"}, log=tmp_path / "operator.log") as operator:
        eventually(lambda: operator.process.poll() is not None, what=operator.log)
        assert operator.process.returncode == 1
        assert f"may not get secrets slmpack-pack-key in namespace {system}" in operator.log
        assert f"may not create roles.rbac.authorization.k8s.io in namespace {namespace}" in operator.log
    with Operator(config, log=tmp_path / "without.log") as operator:
        operator.wait_ready()
