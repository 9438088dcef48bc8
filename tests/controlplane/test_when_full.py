"""whenFull: Pending with the real scheduler: pods wait for nodes to come, and are adopted where they land."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import L4, mps_node, whole_node
from slmpack.devcluster.worker import Timing
from tests.support.operator import eventually, playing_nodes
from tests.support.scene import PodHistory, Stage, is_live, is_ready, name_of, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Scene

L40S, H100 = "NVIDIA-L40S", "NVIDIA-H100-80GB-HBM3"
THERE = [whole_node("full-l4", product=L4), mps_node("full-h100", product=H100, replicas=2)]
LATE = whole_node("full-late-l40s", product=L40S)
SECOND = whole_node("full-late-l4", product=L4)
SHARED = mps_node("full-late-h100", product=H100, replicas=2)
TIMING = Timing(pull=0.02, create=0.02, start=0.3, stop=0.05)


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane) -> Iterator[Stage]:
    with playing_nodes(control_plane, THERE, timing=TIMING):
        yield Stage.prepare(control_plane, nodes=[*THERE, LATE, SECOND, SHARED])


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(stage, folder=tmp_path) as opened:
        yield opened


def _spec(*, when_full: str = "Pending", **asked: Any) -> dict[str, Any]:
    spec = slm_spec(**asked)
    spec["sharing"] |= {"whenFull": when_full} | ({"maxPerGPU": 2} if spec["sharing"]["mode"] == "MPS" else {})
    return spec


def _unbound(scene: Scene, name: str) -> list[dict[str, Any]]:
    """Its pods for which the scheduler has found no node."""

    def is_told(pod: dict[str, Any]) -> bool:
        conditions = pod["status"].get("conditions", [])
        return any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)

    return [pod for pod in scene.pods(name) if "nodeName" not in pod["spec"] and is_told(pod)]


def _expressions(pod: dict[str, Any]) -> list[dict[str, Any]]:
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    found: list[dict[str, Any]] = term["matchExpressions"]
    return found


def _nodes(scene: Scene, name: str) -> list[str]:
    return sorted(pod["spec"].get("nodeName", "") for pod in scene.pods(name) if is_live(pod))


def _most_live(history: PodHistory) -> int:
    return max(sum(map(is_live, world.values())) for world in history.worlds())


def test_a_pod_waits_for_a_node_and_is_adopted_where_the_scheduler_binds_it(scene: Scene) -> None:
    with PodHistory(scene) as history:
        scene.apply("web", _spec(products=[L40S]))
        eventually(lambda: len(_unbound(scene, "web")) == 1)
        scene.wait_reason("web", "Unschedulable")
        assert "waits for a node to come" in scene.message("web")
        eventually(lambda: "didn't match Pod's node affinity/selector" in scene.message("web"))
        (pod,) = scene.pods("web")
        assert pod["spec"]["nodeSelector"]["nvidia.com/gpu.product"] == L40S
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        uids = scene.live_uids("web")
        scene.more_turns()
        assert scene.live_uids("web") == uids, "it waits by design"
        scene.operator.__exit__()  # nobody plans while the node comes
        with playing_nodes(scene.api, [LATE], timing=TIMING):
            eventually(lambda: _nodes(scene, "web") == ["full-late-l40s"])
            scene.start()
            scene.wait_reason("web", "AllReady")
            scene.more_turns()
            assert scene.live_uids("web") == uids, "it counts where it landed"
            assert scene.status("web")["placements"][0]["node"] == "full-late-l40s"
            assert _most_live(history) == 1
            scene.clear()


def test_a_second_replica_waits_while_the_node_is_full(scene: Scene) -> None:
    with PodHistory(scene) as history:
        scene.apply("web", _spec(products=[L4], replicas=2))
        eventually(lambda: len(_unbound(scene, "web")) == 1)
        eventually(lambda: sum(map(is_ready, scene.pods("web"))) == 1)
        (pod,) = _unbound(scene, "web")
        names = {term.get("key") for term in _expressions(pod)}
        assert names == {"kubernetes.io/hostname"}, "the operator's --node-selector; it is pinned to no node"
        assert {term["operator"] for term in _expressions(pod)} == {"In"}, "a full node is nothing to keep off"
        fits = {c["type"]: c["status"] for c in scene.status("web")["conditions"]}
        assert fits["Fits"] == "False"
        with playing_nodes(scene.api, [SECOND], timing=TIMING):
            scene.wait_reason("web", "AllReady", seconds=90)
            assert _nodes(scene, "web") == ["full-l4", "full-late-l4"]
            scene.more_turns()
            assert _most_live(history) == 2
            scene.clear()


def test_room_that_comes_free_is_taken_and_nobody_is_there_twice(scene: Scene) -> None:
    scene.apply("holder", _spec(products=[L4], when_full="Report"))
    scene.wait_reason("holder", "AllReady")
    with PodHistory(scene) as history:
        scene.apply("web", _spec(products=[L4]))
        eventually(lambda: len(_unbound(scene, "web")) == 1)
        scene.api.kubectl("delete", "slm", "holder", "-n", scene.namespace)
        scene.wait_reason("web", "AllReady", seconds=90)
        assert _nodes(scene, "web") == ["full-l4"]
        scene.more_turns()
        assert max(sum(name_of(p).startswith("web") for p in w.values() if is_live(p)) for w in history.worlds()) == 1


def test_fewer_replicas_and_report_end_what_waits(scene: Scene) -> None:
    scene.apply("web", _spec(products=[L40S], replicas=3))
    eventually(lambda: len(_unbound(scene, "web")) == 3)
    scene.apply("web", _spec(products=[L40S], replicas=1))
    eventually(lambda: len(scene.pods("web")) == 1)
    scene.apply("web", _spec(products=[L40S], replicas=1, when_full="Report"))
    eventually(lambda: not scene.pods("web"))
    scene.wait_reason("web", "NoMatchingGpu")


def test_shares_of_a_new_node_are_started_one_at_a_time(scene: Scene) -> None:
    with PodHistory(scene) as history:
        scene.apply("web", _spec(products=[H100], mode="MPS", replicas=4))
        eventually(lambda: len(_unbound(scene, "web")) == 1, seconds=90)
        (waits,) = _unbound(scene, "web")
        assert waits["spec"]["nodeSelector"]["nvidia.com/gpu.replicas"] == "2"
        eventually(lambda: sum(map(is_ready, scene.pods("web"))) == 2, seconds=60)
        assert len(_unbound(scene, "web")) == 1, "one waits at a time"
        with playing_nodes(scene.api, [SHARED], timing=TIMING):
            scene.wait_reason("web", "AllReady", seconds=120)
            assert _nodes(scene, "web") == ["full-h100"] * 2 + ["full-late-h100"] * 2
            for world in history.worlds():
                starting = [pod for pod in world.values() if "nodeName" in pod["spec"] and not is_ready(pod)]
                on = [pod["spec"]["nodeName"] for pod in starting if is_live(pod)]
                assert len(on) == len(set(on)), on
                assert all(pod["status"].get("phase") != "Failed" for pod in world.values())
            scene.clear()
