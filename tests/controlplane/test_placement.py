"""Where replicas go on the real control plane: one start at a time, taints, priorities, defaults, and what a delete leaves."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import L4, mps_node, whole_node
from slmpack.devcluster.worker import Timing
from tests.support.operator import eventually, playing_nodes
from tests.support.scene import PodHistory, Stage, is_finished, is_ready, name_of, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Scene

L40S, H100, H200 = "NVIDIA-L40S", "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"
TAINT = {"key": "example.com/team", "value": "search", "effect": "NoSchedule"}
TOLERATION = {"key": "example.com/team", "operator": "Equal", "value": "search", "effect": "NoSchedule"}
NODES = [
    whole_node("place-l4", product=L4, gpus=2),
    whole_node("place-h200", product=H200, gpus=1),
    whole_node("place-l40s", product=L40S, gpus=1) | {"spec": {"taints": [TAINT]}},
    mps_node("place-h100", product=H100, replicas=4),
]
TIMING = Timing(pull=0.02, create=0.02, start=0.3, stop=0.05)
PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane) -> Iterator[Stage]:
    with playing_nodes(control_plane, NODES, timing=TIMING):
        yield Stage.prepare(control_plane, nodes=NODES)


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(stage, folder=tmp_path) as opened:
        yield opened


@contextmanager
def _priority(cluster: ControlPlane, name: str, value: int) -> Iterator[str]:
    body = {"metadata": {"name": name}, "value": value}
    cluster.request("POST", PRIORITIES, body=body)
    try:
        yield name
    finally:
        cluster.request("DELETE", f"{PRIORITIES}/{name}")


def _stranger(scene: Scene, *, node: str, cpu: str, priority: str) -> None:
    """A pod of somebody else that needs a node's CPU and no GPU."""
    requests = {"requests": {"cpu": cpu}}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "priorityClassName": priority,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10", "resources": requests}],
    }
    scene.api.request("POST", scene.path(), body={"metadata": {"name": "stranger"}, "spec": spec})


def _is_ready(scene: Scene, name: str) -> bool:
    return any(is_ready(pod) for pod in scene.pods() if name_of(pod) == name)


def _services(scene: Scene) -> list[str]:
    return [service["metadata"]["name"] for service in scene.api.request("GET", scene.path("services"))["items"]]


def test_replicas_that_share_a_gpu_start_one_at_a_time_and_bounded(scene: Scene) -> None:
    with PodHistory(scene) as history:
        for name in ("ada", "bob"):
            scene.apply(name, slm_spec(replicas=2, mode="MPS", products=[H100]))
        for name in ("ada", "bob"):
            scene.wait_reason(name, "AllReady")
        worlds = history.worlds()
    assert len(worlds[-1]) == 4
    for world in worlds:
        starting = [name_of(pod) for pod in world.values() if not is_ready(pod) and not is_finished(pod)]
        assert len(starting) <= 1, starting
        assert all(pod["status"].get("phase") != "Failed" for pod in world.values())
    for pod in worlds[-1].values():
        container = pod["spec"]["containers"][0]
        env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        device, _, limit = env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"].partition("=")
        assert device == "0"
        assert 0 < int(limit.removesuffix("M")) <= 81559 // 4
        assert 0 < int(env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]) <= 100
        mounts = container.get("volumeMounts", [])
        assert all(mount["mountPath"].rstrip("/") != "/dev/shm" for mount in mounts)
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_taint_keeps_replicas_away_until_it_is_tolerated(scene: Scene) -> None:
    scene.apply("web", slm_spec(products=[L40S]))
    scene.wait_reason("web", "UntoleratedTaint")
    assert "example.com/team=search:NoSchedule" in scene.message("web")
    assert not scene.pods("web")
    scene.apply("web", slm_spec(products=[L40S], tolerations=[TOLERATION]))
    scene.wait_reason("web", "AllReady")
    assert [pod["spec"]["nodeName"] for pod in scene.pods("web")] == ["place-l40s"]


def test_a_cordoned_node_keeps_what_runs_and_gets_nothing_new(scene: Scene) -> None:
    scene.apply("web", slm_spec(products=[L4]))
    scene.wait_reason("web", "AllReady")
    before = scene.live_uids("web")
    scene.api.kubectl("cordon", "place-l4")
    try:
        scene.apply("web", slm_spec(replicas=2, products=[L4]))
        scene.wait_reason("web", "NodeUnavailable")
        scene.more_turns()
        assert "node place-l4 is cordoned" in scene.message("web")
        assert scene.live_uids("web") == before
        assert _is_ready(scene, "web-0")
    finally:
        scene.api.kubectl("uncordon", "place-l4")
    scene.wait_reason("web", "AllReady")
    assert before.items() <= scene.live_uids("web").items()


def test_a_missing_priority_class_is_reported_and_waited_for(scene: Scene) -> None:
    scene.apply("web", slm_spec(products=[L4], pod={"priorityClassName": "place-late"}))
    scene.wait_reason("web", "CreateRefused")
    assert "no PriorityClass with name place-late was found" in scene.message("web")
    assert not scene.pods("web")
    with _priority(scene.api, "place-late", 1000):
        scene.wait_reason("web", "AllReady")
        assert [pod["spec"]["priority"] for pod in scene.pods("web")] == [1000]


def test_a_free_gpu_goes_to_the_higher_priority(scene: Scene) -> None:
    with _priority(scene.api, "place-first", 1000):
        scene.apply("holder", slm_spec(products=[H200]))
        scene.wait_reason("holder", "AllReady")
        scene.apply("a-older", slm_spec(products=[H200]))
        scene.wait_reason("a-older", "InsufficientGpus")
        scene.apply("b-newer", slm_spec(products=[H200], pod={"priorityClassName": "place-first"}))
        scene.wait_reason("b-newer", "InsufficientGpus")
        assert _is_ready(scene, "holder-0"), "nothing that runs is evicted"
        scene.api.kubectl("delete", "slm", "holder", "-n", scene.namespace)
        scene.wait_reason("b-newer", "AllReady", seconds=90)
        assert not scene.pods("a-older")
        assert scene.status("a-older")["reason"] == "InsufficientGpus"


def test_a_stranger_that_holds_the_cpu_is_not_evicted(scene: Scene) -> None:
    with _priority(scene.api, "place-low", 1), _priority(scene.api, "place-high", 1000):
        _stranger(scene, node="place-h200", cpu="31", priority="place-low")
        eventually(lambda: _is_ready(scene, "stranger"), seconds=60)
        scene.apply("web", slm_spec(products=[H200], pod={"priorityClassName": "place-high"}))
        scene.wait_reason("web", "InsufficientCpu")
        scene.more_turns()
        assert _is_ready(scene, "stranger")
        assert not scene.pods("web")
        scene.delete_pod("stranger")
        eventually(lambda: all(name_of(pod) != "stranger" for pod in scene.pods()))
        scene.more_turns()  # a pod without a GPU wakes nobody when it goes
        scene.wait_reason("web", "AllReady")


def test_a_replica_that_the_scheduler_preempts_comes_back_when_there_is_room(scene: Scene) -> None:
    with _priority(scene.api, "place-high", 1000):
        scene.apply("web", slm_spec(products=[H200]))
        scene.wait_reason("web", "AllReady")
        before = scene.live_uids("web")
        _stranger(scene, node="place-h200", cpu="31", priority="place-high")
        eventually(lambda: _is_ready(scene, "stranger"), seconds=60, what="the scheduler makes room for the stranger")
        assert not before.items() & scene.live_uids("web").items()
        eventually(
            lambda: scene.status("web").get("reason") in {"InsufficientCpu", "Unschedulable"},
            seconds=60,
            what=scene.operator.log,
        )
        scene.delete_pod("stranger")
        eventually(lambda: all(name_of(pod) != "stranger" for pod in scene.pods()))
        scene.more_turns()  # a pod without a GPU wakes nobody when it goes
        scene.wait_reason("web", "AllReady", seconds=90)


def test_defaults_that_admission_adds_replace_no_pod(scene: Scene) -> None:
    limits: dict[str, Any] = {"type": "Container", "default": {"cpu": "16", "memory": "64Gi"}}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "defaults"}, "spec": {"limits": [limits]}}
    scene.api.request("POST", scene.path("limitranges"), body=body)
    scene.apply("web", slm_spec(replicas=2, products=[L4]))
    scene.wait_reason("web", "AllReady")
    before = scene.pods("web")
    assert all(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "16" for pod in before)
    limits["default"]["cpu"] = "8"
    scene.api.request("PUT", scene.path("limitranges", "defaults"), body=body)
    scene.more_turns()
    scene.operator.terminate()
    scene.start()
    scene.more_turns()
    assert scene.live_uids("web") == {name_of(pod): pod["metadata"]["uid"] for pod in before}
    assert scene.status("web")["reason"] == "AllReady"


def test_kubectl_scales_up_and_down(scene: Scene) -> None:
    scene.apply("web", slm_spec(replicas=1, products=[L4]))
    scene.wait_reason("web", "AllReady")
    before = scene.live_uids("web")
    scene.api.kubectl("scale", "slm", "web", "-n", scene.namespace, "--replicas=2")
    eventually(lambda: scene.status("web").get("ready") == "2/2", seconds=60, what=scene.operator.log)
    assert before.items() < scene.live_uids("web").items()
    scene.api.kubectl("scale", "slm", "web", "-n", scene.namespace, "--replicas=0")
    scene.wait_reason("web", "ScaledToZero")
    eventually(lambda: not scene.pods("web"), seconds=60)
    assert _services(scene) == ["web"]


@pytest.mark.parametrize("operator", ["up", "down"])
def test_a_delete_cleans_up_whether_or_not_the_operator_runs(scene: Scene, operator: str) -> None:
    scene.apply("web", slm_spec(replicas=2, products=[L4]))
    scene.wait_reason("web", "AllReady")
    assert _services(scene) == ["web"]
    if operator == "down":
        scene.operator.terminate()
    scene.api.kubectl("delete", "slm", "web", "-n", scene.namespace)
    eventually(lambda: not scene.pods(), seconds=240, what="the garbage collector deletes the pods")
    eventually(lambda: not _services(scene), seconds=90, what="and the Service")
    if operator == "down":
        scene.start()
    scene.more_turns()
    assert not scene.pods()
    assert not _services(scene)
