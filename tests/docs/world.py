"""The cluster of a page: the real control plane, stand-in GPU nodes, and what answers behind `kubectl port-forward`."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import yaml

from slmpack.cli.stages import demo_nodes
from slmpack.render.names import NAME_LABEL
from tests.docs.pages import ROOT
from tests.support.chart_pods import playing_chart
from tests.support.fake_vllm import fake_vllm
from tests.support.operator import Operator, eventually, operator_account

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.chart_pods import ChartWorld
    from tests.support.control_plane import ControlPlane

__all__ = ["World", "a_world"]

_STRING = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


SYSTEM = "slmpack-system"
KINDS = {"svc": "service", "services": "service", "deploy": "deployment", "deployments": "deployment", "pods": "pod"}

CLUSTER_POLICY = {
    "apiVersion": "nvidia.com/v1",
    "kind": "ClusterPolicy",
    "metadata": {"name": "cluster-policy"},
    "spec": {"mig": {"strategy": "single"}},
}
CLUSTER_POLICIES = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusterpolicies.nvidia.com"},
    "spec": {
        "group": "nvidia.com",
        "scope": "Cluster",
        "names": {"kind": "ClusterPolicy", "plural": "clusterpolicies", "singular": "clusterpolicy"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": _object(
                        spec=_object(
                            mig=_object(strategy=_STRING),
                            migManager=_object(config=_object(name=_STRING, default=_STRING)),
                            devicePlugin=_object(config=_object(name=_STRING, default=_STRING)),
                        )
                    )
                },
            }
        ],
    },
}
"""Of the GPU operator's, the fields that pages set; of others the API server warns, and a warning fails the page."""


class World:
    """What a page's commands can reach."""

    def __init__(self, chart: ChartWorld, stack: ExitStack) -> None:
        self.control_plane, self._pods, self._stack = chart.control_plane, chart.pods, stack
        self._engine: str | None = None

    def find(self, namespace: str, resource: str, port: int) -> str:
        """Where a port-forward leads here. LookupError, with what a user would be told, if nowhere."""
        kind, _, name = resource.rpartition("/")
        pod = self._pod(namespace, KINDS.get(kind, kind) or "pod", name)
        if not any(it["type"] == "Ready" and it["status"] == "True" for it in pod["status"].get("conditions", ())):
            raise LookupError(f"{pod['metadata']['name']} is not Ready")
        labels = pod["metadata"].get("labels", {})
        if labels.get("app.kubernetes.io/name") == "slmpack":
            wanted = self._target_port(namespace, name, port) if kind in {"service", "svc"} else port
            return f"{self._pods.of(pod).host}:{wanted}"
        if NAME_LABEL in labels:
            return self.engine()
        raise LookupError(f"nobody plays {namespace}/{resource}")

    def engine(self) -> str:
        """Where a server is that speaks vLLM's API."""
        if self._engine is None:
            self._engine = self._stack.enter_context(fake_vllm()).url.removeprefix("http://")
        return self._engine

    def _pod(self, namespace: str, kind: str, name: str) -> dict[str, Any]:
        if kind == "pod":
            return self._get(namespace, "pod", name)
        owner = self._get(namespace, kind, name)["spec"]["selector"]
        selector = ",".join(f"{key}={value}" for key, value in owner.get("matchLabels", owner).items())
        items = json.loads(self._kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json"))["items"]
        if not items:
            raise LookupError(f"{kind}/{name} selects no pod")
        pod: dict[str, Any] = items[0]
        return pod

    def _target_port(self, namespace: str, service: str, port: int) -> int:
        (found,) = (it for it in self._get(namespace, "service", service)["spec"]["ports"] if it["port"] == port)
        target = found.get("targetPort", port)
        return target if isinstance(target, int) else 8080

    def _get(self, namespace: str, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def _kubectl(self, *args: str) -> str:
        done = self.control_plane.kubectl(*args, check=False)
        if done.returncode:
            raise LookupError(done.stderr.strip())
        return done.stdout

    def _wait_established(self, crd: str) -> None:
        """`kubectl wait` ends with an error where there is no condition yet."""
        wait = ("wait", "--for=condition=Established", f"crd/{crd}")
        eventually(lambda: self.control_plane.kubectl(*wait, check=False).returncode == 0, what=crd)

    def add_cluster_policy(self) -> None:
        """What a page finds of NVIDIA's GPU operator: its namespace and its ClusterPolicy, with the fields in question."""
        self.control_plane.kubectl("apply", "-f", "-", input=json.dumps(CLUSTER_POLICIES))
        self._wait_established("clusterpolicies.nvidia.com")
        self.control_plane.kubectl("create", "namespace", "gpu-operator")
        self.control_plane.kubectl("apply", "-f", "-", input=json.dumps(CLUSTER_POLICY))

    def start_slmpack(self, folder: Path, *, applied: Sequence[str]) -> None:
        """An operator as a page finds it that says it is installed: the CRD, its account, and what it serves."""
        self.control_plane.kubectl("apply", "-f", str(ROOT / "crds"))
        self._wait_established("slmdeployments.slmpack.dev")
        self.control_plane.kubectl("create", "namespace", SYSTEM)
        token = operator_account(self.control_plane, system=SYSTEM)
        kubeconfig = self.control_plane.kubeconfig(token, user="slmpack")
        operator = Operator({"kubeconfig": str(kubeconfig), "lease_namespace": SYSTEM}, log=folder / "operator.log")
        self._stack.enter_context(operator)
        operator.wait_ready()
        for name in applied:
            self.control_plane.kubectl("apply", "-f", str(ROOT / name))
        if applied:
            self.control_plane.kubectl("wait", "slm", "--all", "--for=condition=Ready", "--timeout=90s")


@contextmanager
def a_world(control_plane: ControlPlane, *, nodes: Sequence[str], hub: str) -> Iterator[World]:
    """A cluster with the demo's GPU nodes, or those of `nodes`, files of the checkout."""
    manifests = [node for name in nodes for node in _nodes_of(name)] or list(demo_nodes())
    with ExitStack() as stack:
        chart = stack.enter_context(playing_chart(control_plane, manifests))
        chart.pods.environment["HF_ENDPOINT"] = hub
        yield World(chart, stack)


def _nodes_of(name: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8"))
    items = [item for document in documents if document for item in document.get("items", [document])]
    return [item for item in items if item["kind"] == "Node"]
