"""A GitOps tool and the operator share an SLMDeployment on the real API server: neither writes what the other owns.

The tool applies server-side under its own manager, as Argo CD and Flux do. Whatever the operator does meanwhile, the
tool sees no difference to Git.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import H100, a100_mig_node, mps_node, whole_node
from tests.support.helm import helm
from tests.support.live_loop import World, open_loop, poisson_trace
from tests.support.operator import eventually, playing_nodes
from tests.support.scene import PodHistory, Stage, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Scene

    Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "slmpack"
GITOPS = ROOT / "gitops" / "argocd"
NODES = [whole_node("git-l4", gpus=3), a100_mig_node("git-a100", profiles={"1g.10gb": 7})]
NAME = "chat"
CYCLES = 100
MARKS: dict[str, Json] = {
    "argocd-controller": {
        "labels": {"app.kubernetes.io/instance": "models"},
        "annotations": {"argocd.argoproj.io/tracking-id": "models:slmpack.dev/SLMDeployment:team/chat"},
    },
    "kustomize-controller": {
        "labels": {"kustomize.toolkit.fluxcd.io/name": "models", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
    },
}
"""What each tool, by the name of its field manager, puts on an object to know it again."""


@dataclass
class Tool:
    """A GitOps tool that applies one SLMDeployment from Git."""

    scene: Scene
    manager: str
    manifest: Json = field(default_factory=dict)
    applied: list[Json] = field(default_factory=list)

    def commit(self, spec: Json) -> None:
        """Another spec in Git; the tool applies it."""
        metadata = {"name": NAME, "namespace": self.scene.namespace, **MARKS[self.manager]}
        self.manifest = {
            "apiVersion": "slmpack.dev/v1alpha1",
            "kind": "SLMDeployment",
            "metadata": metadata,
            "spec": spec,
        }
        self.applied.append(_users_part(self.manifest))
        self._kubectl("apply")

    def live(self) -> Json:
        found: Json = self.scene.api.request("GET", self.scene.path("slmdeployments", NAME))
        return found

    def assert_no_drift(self) -> None:
        """Git and the cluster agree, and applying once more is no write at all."""
        would_be = json.loads(self._kubectl("apply", "--dry-run=server", "-o", "json"))
        before = self.live()
        assert _users_part(would_be) == _users_part(before) == self.applied[-1]
        self._kubectl("apply")
        after = self.live()
        assert _users_part(after) == self.applied[-1]
        if before["status"] == after["status"]:  # else the operator wrote meanwhile
            assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        self._assert_owners(after)

    def _assert_owners(self, live: Json) -> None:
        owners = {(it["manager"], it.get("subresource", "")): it for it in live["metadata"]["managedFields"]}
        assert set(owners) <= {(self.manager, ""), ("slmpack", "status")}, owners.keys()
        assert all(it["operation"] == "Apply" for it in owners.values())
        assert set(owners[self.manager, ""]["fieldsV1"]) == {"f:metadata", "f:spec"}
        if "status" in live:
            assert set(owners["slmpack", "status"]["fieldsV1"]) == {"f:status"}

    def _kubectl(self, verb: str, *more: str) -> str:
        """Without --force-conflicts: a field that somebody else owns ends the test."""
        flags = ("--server-side", f"--field-manager={self.manager}", *more, "-f", "-")
        return self.scene.api.kubectl(verb, *flags, input=json.dumps(self.manifest)).stdout


def _users_part(obj: Json) -> Json:
    """What the user owns: metadata that people write, finalizers that nobody should, and spec."""
    meta = obj["metadata"]
    mine = {key: meta[key] for key in ("labels", "annotations", "finalizers", "ownerReferences") if key in meta}
    return {"metadata": mine, "spec": obj["spec"]}


def _specs(versions: list[Json]) -> list[Json]:
    """What the user owns in each version, without repetitions."""
    found: list[Json] = []
    for version in versions:
        part = _users_part(version)
        if not found or found[-1] != part:
            found.append(part)
    return found


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane) -> Iterator[Stage]:
    with playing_nodes(control_plane, NODES):
        yield Stage.prepare(control_plane, nodes=NODES)


def _marks_of_tools(meta: Json) -> set[str]:
    keys = {*meta.get("labels", {}), *meta.get("annotations", {})}
    return {key for key in keys if key.split("/")[0].endswith(("argoproj.io", "fluxcd.io"))}


def _assert_children_are_the_operators(tool: Tool) -> None:
    """Each hangs on the SLMDeployment, so that Argo CD shows it in the tree, and looks like nothing that is in Git."""
    scene, uid = tool.scene, tool.live()["metadata"]["uid"]
    services = scene.api.request("GET", f"/api/v1/namespaces/{scene.namespace}/services")["items"]
    pods = scene.pods()
    assert (len(services), bool(pods)) == (1, True)
    for meta in (child["metadata"] for child in (*services, *pods)):
        (owner,) = meta["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
        assert _marks_of_tools(meta) == set()
        assert meta["labels"]["app.kubernetes.io/instance"] == NAME


def _settle(tool: Tool, spec: Json, reason: str) -> None:
    tool.commit(spec)
    tool.scene.wait_reason(NAME, reason, seconds=90)


@pytest.mark.parametrize("manager", MARKS)
def test_a_hundred_cycles_leave_no_difference_to_git(stage: Stage, tmp_path: Path, manager: str) -> None:
    with open_scene(stage, folder=tmp_path) as scene, PodHistory(scene, plural="slmdeployments") as history:
        tool = Tool(scene, manager)
        first = scene.operator.turns()
        three = slm_spec(replicas=3)
        for spec, reason in (
            (slm_spec(replicas=2), "AllReady"),
            (three, "AllReady"),
            (slm_spec(replicas=3, engine={"maxModelLen": 4096}), "AllReady"),
            (slm_spec(replicas=3, engine={"args": {"no-such-flag": "1"}}), "InvalidSpec"),
            (slm_spec(replicas=5), "InsufficientGpus"),
            (slm_spec(replicas=0), "ScaledToZero"),
            (three, "AllReady"),
        ):
            _settle(tool, spec, reason)
            tool.assert_no_drift()
        lost = scene.live_uids(NAME)
        scene.delete_pod(f"{NAME}-0")
        eventually(lambda: len(scene.live_uids(NAME).items() - lost.items()) == 1, what="a replica in its place")
        scene.wait_reason(NAME, "AllReady")
        _assert_children_are_the_operators(tool)
        while scene.operator.turns() < first + CYCLES:
            scene.more_turns(10)
        tool.assert_no_drift()
        versions = [obj for world in history.worlds() for obj in world.values()]
    assert len(versions) > 2 * len(tool.applied), "the operator has written status in between"
    assert _specs(versions) == tool.applied
    assert versions[-1]["metadata"]["generation"] == len(tool.applied)


def test_the_measured_number_of_replicas_never_reaches_spec(control_plane: ControlPlane, tmp_path: Path) -> None:
    spec = {
        "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
        "engine": {"maxModelLen": 2048},
        "sharing": {"mode": "MPS"},
        "scaling": {"min": 1, "max": 4},
        "pod": {"terminationGracePeriodSeconds": 1},
    }
    trace = poisson_trace([(600.0, 80.0)], input_tokens=512, output_tokens=256, seed=3)
    world = World.make(spec, [mps_node("git-mps", replicas=4, product=H100)], trace, seed=3, folder=tmp_path)
    metrics = {"period": 1.0, "timeout": 2.0, "max_age": 5.0}
    with (
        open_loop(control_plane, world, interval="1s", metrics=metrics, start_seconds=0.5, folder=tmp_path) as loop,
        PodHistory(loop.scene, plural="slmdeployments") as history,
    ):
        tool = Tool(loop.scene, "argocd-controller")
        _settle(tool, spec, "AllReady")
        loop.live.begin()
        loop.until(lambda: loop.scaling().get("desired", 0) > 1, seconds=120, what="scaled up")
        tool.assert_no_drift()
        live = tool.live()
        assert "replicas" not in live["spec"]
        assert live["status"]["desiredReplicas"] == live["status"]["scaling"]["desired"] > 1
        versions = [obj for world in history.worlds() for obj in world.values()]
    assert _specs(versions) == tool.applied


def test_the_chart_in_git_shows_no_difference(stage: Stage, tmp_path: Path) -> None:
    api = stage.control_plane
    namespace = api.new_namespace("chart")
    template = ("template", f"git-{namespace}", str(CHART), "--no-hooks", "--namespace", namespace)
    values = ("--set=image.repository=registry.example.com/slmpack", "--set=networkPolicy.enabled=true")
    rendered = [helm(*template, *values, home=tmp_path) for _ in range(2)]
    assert [it.returncode for it in rendered] == [0, 0], rendered[0].stderr
    assert rendered[0].stdout == rendered[1].stdout, "a chart that renders anew each time is never in sync"
    flags = ("--server-side", "--field-manager=argocd-controller", "-n", namespace, "-f", "-")

    def in_sync() -> bool:
        return api.kubectl("diff", *flags, input=rendered[0].stdout, check=False).returncode == 0

    try:
        api.kubectl("apply", *flags, input=rendered[0].stdout)
        eventually(in_sync)
        with open_scene(stage, folder=tmp_path) as scene:
            scene.apply(NAME, slm_spec())
            scene.wait_reason(NAME, "AllReady")
        eventually(in_sync)  # the Deployment's status comes and goes; a field that somebody else sets stays
    finally:
        api.kubectl("delete", "clusterroles,clusterrolebindings", "-l", f"app.kubernetes.io/instance=git-{namespace}")
        api.kubectl("delete", "namespace", namespace, "--wait=false")


def test_argo_cds_config_map_takes_the_patch(stage: Stage) -> None:
    api = stage.control_plane
    namespace = api.new_namespace("argocd")
    api.kubectl("create", "configmap", "argocd-cm", "-n", namespace, "--from-literal=url=https://argocd.example.com")
    api.kubectl("patch", "configmap", "argocd-cm", "-n", namespace, "--patch-file", str(GITOPS / "argocd-cm.yaml"))
    data = api.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/argocd-cm")["data"]
    script = GITOPS / "resource_customizations" / "slmpack.dev" / "SLMDeployment" / "health.lua"
    assert data["resource.customizations.health.slmpack.dev_SLMDeployment"] == script.read_text(encoding="utf-8")
    assert data["url"] == "https://argocd.example.com"
