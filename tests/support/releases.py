"""The chart on a real control plane, by the real helm: releases, their objects and their operators' pods."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.chart_files import CHART
from tests.support.control_plane import ApiError
from tests.support.helm import helm
from tests.support.operator import eventually
from tests.support.scene import is_live

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.support.chart_pods import ChartPod, ChartPods
    from tests.support.control_plane import ControlPlane

    Json = dict[str, Any]

__all__ = ["CRD", "RESTRICTED", "VALUES", "Releases", "forbidden_requests"]

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/slmdeployments.slmpack.dev"
SLM = "/apis/slmpack.dev/v1alpha1"
VALUES: Mapping[str, Any] = {
    "image": {"repository": "registry.example.com/slmpack"},
    "hub": {"offline": True, "bundledModels": True},
}
"""An image has to be named; the stand-in kubelets pull none. This machine may have no way to the Hub."""
RESTRICTED = tuple(f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn"))
FORBIDDEN = re.compile(r"\b403\b|forbidden|not permitted|may not|cannot get", re.IGNORECASE)
WAITING = ("--wait", "--timeout", "90s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """The releases of one test."""

    control_plane: ControlPlane
    pods: ChartPods
    folder: Path
    _made: list[str] = field(default_factory=list)

    def namespace(self, prefix: str = "slmpack") -> str:
        """A new namespace in which only pods of the restricted Pod Security level may run."""
        name = self.control_plane.new_namespace(prefix)
        self.control_plane.kubectl("label", "namespace", name, *RESTRICTED)
        self._made.append(name)
        return name

    def team(self) -> str:
        """A new namespace for models."""
        name = self.control_plane.new_namespace("team")
        self._made.append(name)
        return name

    # ---- helm

    def helm(self, *args: str, values: Mapping[str, Any] | None = None) -> CompletedProcess[str]:
        """Run helm as the cluster's administrator."""
        if values is not None:
            path = self.folder / "values.yaml"
            path.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
            args = (*args, "--values", str(path))
        return helm(*args, home=self.folder, kubeconfig=self.control_plane.kubeconfig())

    def done(self, *args: str, values: Mapping[str, Any] | None = None) -> str:
        """What a command prints that is to succeed, and without a warning."""
        answer = self.helm(*args, values=values)
        assert answer.returncode == 0, f"helm {' '.join(args)}: {answer.stdout}{answer.stderr}"
        assert not answer.stderr, answer.stderr
        return answer.stdout

    def refused(self, *args: str, values: Mapping[str, Any] | None = None) -> str:
        """What a command says that is to fail."""
        answer = self.helm(*args, values=values)
        assert answer.returncode, f"helm {' '.join(args)}: {answer.stdout}{answer.stderr}"
        return answer.stderr

    def install(
        self,
        release: str,
        namespace: str,
        *flags: str,
        values: Mapping[str, Any] | None = None,
        chart: Path = CHART,
        verb: str = "install",
    ) -> str:
        """Install, or with `verb` upgrade, and wait until it is ready; what helm prints."""
        given = {**VALUES, **(values or {})}
        answer = self.helm(verb, release, str(chart), "-n", namespace, *WAITING, *flags, values=given)
        logs = "\n".join(pod.log for pod in self.pods.started(namespace))
        assert (answer.returncode, answer.stderr) == (0, ""), f"{answer.stdout}{answer.stderr}\n{logs}"
        return answer.stdout

    def uninstall(self, release: str, namespace: str) -> str:
        """Uninstall, and wait until its objects are gone; what helm prints."""
        return self.done("uninstall", release, "-n", namespace, *WAITING)

    # ---- the operator

    def deployment(self, namespace: str, release: str) -> Json:
        """The release's Deployment."""
        query = f"labelSelector=app.kubernetes.io/instance%3D{release}"
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments?{query}"
        (found,) = self.control_plane.request("GET", path)["items"]
        return dict(found)

    def operator(self, namespace: str, release: str = "slmpack") -> ChartPod:
        """The one operator pod of a release that does not end; waits until it runs."""
        query = f"labelSelector=app.kubernetes.io/component%3Doperator,app.kubernetes.io/instance%3D{release}"
        path = f"/api/v1/namespaces/{namespace}/pods?{query}"

        def found() -> list[Json]:
            return [pod for pod in self.control_plane.request("GET", path)["items"] if is_live(pod)]

        eventually(lambda: len(found()) == 1, what=f"one operator of {namespace}/{release}")
        pod = self.pods.of(found()[0])
        eventually(lambda: pod.starts, what=f"{pod.pod['metadata']['name']} has started")
        return pod

    # ---- what it works on

    def apply(self, namespace: str, name: str, spec: Json) -> None:
        """Create an SLMDeployment, or replace its spec."""
        meta = {"name": name, "namespace": namespace}
        body = {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": meta, "spec": spec}
        self.control_plane.kubectl("apply", "-f", "-", input=json.dumps(body))

    def status(self, namespace: str, name: str) -> Json:
        """The SLMDeployment's, as it is now."""
        found = self.control_plane.request("GET", f"{SLM}/namespaces/{namespace}/slmdeployments/{name}")
        status: Json = found.get("status", {})
        return status

    def wait(self, namespace: str, name: str, *, ready: str) -> None:
        """Until the SLMDeployment says so many are ready."""
        eventually(lambda: self.status(namespace, name).get("ready") == ready, seconds=60, what=ready)

    def pods_of(self, namespace: str) -> dict[str, str]:
        """Name and uid of the pods of a namespace that do not end."""
        listed = self.control_plane.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in listed if is_live(pod)}

    def names(self, path: str) -> set[str]:
        """Namespace/name of the objects of a list."""
        metas = [item["metadata"] for item in self.control_plane.request("GET", path)["items"]]
        return {f"{meta.get('namespace', '')}/{meta['name']}" for meta in metas}

    def has_crd(self) -> bool:
        """Whether the kind SLMDeployment is there and stays."""
        try:
            found = self.control_plane.request("GET", CRD)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return "deletionTimestamp" not in found["metadata"]

    def close(self) -> None:
        """Leave no release, no SLMDeployment and no CRD; AssertionError if something would not go."""
        for release in json.loads(self.done("list", "--all-namespaces", "--output", "json")):
            self.done("uninstall", release["name"], "-n", release["namespace"])
        crd = CRD.rpartition("/")[2]
        self.control_plane.kubectl("delete", "crd", crd, "--ignore-not-found", "--timeout=60s")
        for namespace in self._made:
            self.control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0")
            self.control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def forbidden_requests(*pods: ChartPod) -> list[str]:
    """Lines of operators' logs that tell of something they were not permitted."""
    lines = [line.partition(" ")[2] for pod in pods for line in pod.log.splitlines()]
    return [line for line in lines if FORBIDDEN.search(line)]
