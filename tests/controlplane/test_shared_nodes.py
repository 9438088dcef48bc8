"""Nodes that share GPUs by MPS, on the real control plane: one start at a time, whatever happens to node and operator."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import mps_node
from slmpack.devcluster.worker import Timing
from tests.support.operator import eventually, playing_nodes
from tests.support.scene import (
    FAULT,
    PodHistory,
    Stage,
    is_finished,
    is_live,
    is_ready,
    name_of,
    open_scene,
    slm_spec,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from slmpack.devcluster.kubelet import Kubelets
    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Pod, Scene, World

NODE, GPU = "shared-h100", "nvidia.com/gpu"
NODES = [mps_node(NODE, replicas=4)]
TIMING = Timing(pull=0.02, create=0.02, start=1.2, stop=0.05)
BUDGET_SECONDS = 5
IMAGE_USER = "devcluster.slmpack.dev/image-user"


@pytest.fixture
def kubelets(control_plane: ControlPlane) -> Iterator[Kubelets]:
    with playing_nodes(control_plane, NODES, timing=TIMING) as playing:
        yield playing


@pytest.fixture
def scene(control_plane: ControlPlane, kubelets: Kubelets, tmp_path: Path) -> Iterator[Scene]:
    assert kubelets
    with open_scene(Stage.prepare(control_plane, nodes=NODES), folder=tmp_path) as opened:
        yield opened


def _shares(replicas: int, **settings: Any) -> dict[str, Any]:
    spec = slm_spec(replicas=replicas, mode="MPS", **settings)
    return spec | {"sharing": spec["sharing"] | {"maxPerGPU": 4}}


def _do(kubelets: Kubelets, work: Coroutine[Any, Any, None]) -> None:
    asyncio.run_coroutine_threadsafe(work, kubelets.loop).result(timeout=60)


def _uids(pods: list[Pod]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def _assert_serial(worlds: list[World]) -> None:
    """At no time did one start beside another's start or stop."""
    was_ready: set[str] = set()
    for world in worlds:
        was_ready |= _uids([pod for pod in world.values() if is_ready(pod)])
        running = [pod for pod in world.values() if not is_finished(pod)]
        starting = [name_of(pod) for pod in running if is_live(pod) and pod["metadata"]["uid"] not in was_ready]
        stopping = [name_of(pod) for pod in running if "deletionTimestamp" in pod["metadata"]]
        assert len(starting) <= 1, starting
        assert not (starting and stopping), (starting, stopping)


def _starting(scene: Scene, name: str = "") -> list[Pod]:
    return [pod for pod in scene.pods(name) if is_live(pod) and not is_ready(pod)]


def _kill_beside_a_start(scene: Scene, seen: set[str]) -> set[str]:
    """Kill the operator while a new pod starts and the others wait for their turn; the pods that there are."""
    eventually(lambda: _uids(_starting(scene)) - seen, seconds=60, what=scene.operator.log)
    there = _uids(scene.pods())
    scene.operator.process.kill()
    scene.operator.process.wait()
    return there


def test_a_killed_operator_keeps_the_turns(scene: Scene) -> None:
    with PodHistory(scene) as history:
        scene.apply("web", _shares(4))
        seen: set[str] = set()
        for _ in range(3):
            seen |= _kill_beside_a_start(scene, seen)
            scene.start()
        scene.wait_reason("web", "AllReady")
        worlds = history.worlds()
    _assert_serial(worlds)
    assert len(worlds[-1]) == 4
    assert len({uid for world in worlds for uid in world}) == 4, "none failed, none was made twice"


def test_after_a_reboot_replicas_come_back_one_after_another(scene: Scene, kubelets: Kubelets) -> None:
    scene.apply("web", _shares(2))
    scene.apply("api", _shares(1))
    for name in ("web", "api"):
        scene.wait_reason(name, "AllReady")
    before = _uids(scene.pods())
    with PodHistory(scene) as history:
        _do(kubelets, kubelets.reboot_node(NODE))
        eventually(lambda: all(is_finished(pod) for pod in scene.pods() if pod["metadata"]["uid"] in before))
        for name in ("web", "api"):
            scene.wait_reason(name, "AllReady", seconds=120)
        worlds = history.worlds()
    _assert_serial(worlds)
    after = {uid for world in worlds for uid in world} - before
    assert len(after) == 3, "each was started once"
    assert all(is_ready(pod) for uid, pod in worlds[-1].items() if uid in after)


def test_after_a_restart_of_the_device_plugin_too(scene: Scene, kubelets: Kubelets) -> None:
    scene.apply("web", _shares(3))
    scene.wait_reason("web", "AllReady")
    before = _uids(scene.pods())
    with PodHistory(scene) as history:
        _do(kubelets, kubelets.restart_device_plugin(NODE))
        eventually(lambda: all(is_finished(pod) for pod in scene.pods() if pod["metadata"]["uid"] in before))
        scene.wait_reason("web", "AllReady", seconds=120)
        worlds = history.worlds()
    _assert_serial(worlds)
    dead = [pod for uid, pod in worlds[-1].items() if uid in before]
    ends = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] for pod in dead]
    assert ends, "their logs are kept"
    assert all("MPS control daemon went away" in message for message in ends)
    assert scene.api.request("GET", f"/api/v1/nodes/{NODE}")["status"]["allocatable"][GPU] == "4"


@pytest.mark.parametrize("operator", ["up", "down"])
def test_a_replica_that_never_is_ready_passes_its_turn_on(scene: Scene, operator: str) -> None:
    stuck = _shares(1, engine={"startupTimeoutSeconds": BUDGET_SECONDS}, pod={"annotations": {FAULT: "NeverReady"}})
    with PodHistory(scene) as history:
        scene.apply("stuck", stuck)
        eventually(lambda: _starting(scene, "stuck"), seconds=60, what=scene.operator.log)
        scene.apply("web", _shares(2))
        scene.wait_reason("web", "WaitingForStart")
        if operator == "down":
            scene.operator.process.kill()
            scene.operator.process.wait()
            time.sleep(BUDGET_SECONDS + 1)
            assert not scene.pods("web")
            scene.start()
        scene.wait_reason("web", "AllReady", seconds=120)
        assert any(is_finished(pod) for pod in scene.pods("stuck")), "kept, with its log"
        worlds = history.worlds()
    _assert_serial(worlds)


def test_an_engine_of_another_user_is_ended_and_harms_nobody(scene: Scene) -> None:
    """One MPS daemon serves one user at a time: the image's user decides, for spec.pod names none."""
    engine = {"startupTimeoutSeconds": BUDGET_SECONDS}
    scene.apply("root", _shares(1))
    scene.wait_reason("root", "AllReady")
    scene.apply("other", _shares(1, engine=engine, pod={"annotations": {IMAGE_USER: "1000"}}))
    scene.wait_reason("other", "NotReadyInTime")
    assert scene.status("root")["reason"] == "AllReady"
    scene.apply("late", _shares(1))
    scene.wait_reason("late", "AllReady", seconds=120)


def test_the_limit_is_set_and_said_to_be_unverified(scene: Scene) -> None:
    scene.apply("web", _shares(1))
    scene.wait_reason("web", "AllReady")
    (condition,) = [c for c in scene.status("web")["conditions"] if c["type"] == "MemoryLimitEnforced"]
    assert (condition["status"], condition["reason"]) == ("Unknown", "NotVerified")
    assert "has not been verified from inside" in condition["message"]
