"""A changed spec on the real control plane: one replica at a time, and what happens where the new one never is Ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import L4, mps_node, whole_node
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
    spec_hash,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slmpack.devcluster.kubelet import Kubelets
    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Pod, Scene, World

L40S, H100 = "NVIDIA-L40S", "NVIDIA-H100-80GB-HBM3"
NODES = [
    whole_node("roll-l4", product=L4, gpus=3),
    whole_node("roll-l40s", product=L40S, gpus=2),
    mps_node("roll-h100", product=H100, replicas=4),
]
BUDGET_SECONDS = 6
TIMING = Timing(pull=0.02, create=0.02, start=0.3, stop=0.05)
ROOMY: dict[str, dict[str, Any]] = {
    "whole GPUs": {"mode": "Exclusive", "products": [L4]},
    "MPS shares": {"mode": "MPS", "products": [H100]},
}
FULL: dict[str, Any] = {"mode": "Exclusive", "products": [L40S]}
TURNED = {"env": [{"name": "TURN", "value": "2"}]}


@pytest.fixture(scope="module")
def kubelets(control_plane: ControlPlane) -> Iterator[Kubelets]:
    with playing_nodes(control_plane, NODES, timing=TIMING) as playing:
        yield playing


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane, kubelets: Kubelets) -> Stage:
    return Stage.prepare(control_plane, nodes=NODES)


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(stage, folder=tmp_path) as opened:
        yield opened


def _never_ready(**settings: Any) -> dict[str, Any]:
    engine = {"startupTimeoutSeconds": BUDGET_SECONDS}
    return slm_spec(engine=engine, pod={"annotations": {FAULT: "NeverReady"}}, **settings)


def _live(world: World) -> list[Pod]:
    return [pod for pod in world.values() if is_live(pod)]


def _ready(world: World) -> list[Pod]:
    return [pod for pod in _live(world) if is_ready(pod)]


def _says_rollout(scene: Scene, ended: set[str]) -> bool:
    """One event for each ended pod."""
    said = [event["related"]["name"] for event in scene.events("Rollout") if "related" in event]
    return sorted(said) == sorted(ended)


@pytest.mark.parametrize("kind", ROOMY)
def test_with_a_free_share_the_new_one_is_ready_before_the_old_one_ends(scene: Scene, kind: str) -> None:
    scene.apply("web", slm_spec(replicas=2, **ROOMY[kind]))
    scene.wait_reason("web", "AllReady")
    old = scene.pods("web")
    with PodHistory(scene) as history:
        scene.apply("web", slm_spec(replicas=2, pod=TURNED, **ROOMY[kind]))
        scene.wait_reason("web", "AllReady")
        eventually(lambda: len(scene.pods("web")) == 2)
        worlds = history.worlds()
    for world in worlds:
        assert len(_ready(world)) >= 2
        assert len(_live(world)) <= 3
        assert sum(not is_finished(pod) for pod in world.values()) <= 3  # the ending one still holds its share
    new = list(worlds[-1].values())
    assert len({spec_hash(pod) for pod in new} | {spec_hash(old[0])}) == 2
    assert all(is_ready(pod) for pod in new)
    assert len({uid for world in worlds for uid in world}) == 4, "nothing was started twice"
    eventually(lambda: _says_rollout(scene, {name_of(pod) for pod in old}), what=str(scene.events("Rollout")))


def test_without_a_free_share_one_old_one_ends_first(scene: Scene) -> None:
    scene.apply("web", slm_spec(replicas=2, **FULL))
    scene.wait_reason("web", "AllReady")
    old = scene.pods("web")
    with PodHistory(scene) as history:
        scene.apply("web", slm_spec(replicas=2, pod=TURNED, **FULL))
        scene.wait_reason("web", "AllReady")
        eventually(lambda: len(scene.pods("web")) == 2)
        worlds = history.worlds()
    first_end = next(world for world in worlds if len(_live(world)) < 2)
    assert {spec_hash(pod) for pod in first_end.values()} == {spec_hash(old[0])}, "an old one ends before a new one"
    for world in worlds:
        assert len(_ready(world)) >= 1, "never two at once"
        assert sum(not is_finished(pod) for pod in world.values()) <= 2
    assert {spec_hash(old[0])}.isdisjoint({spec_hash(pod) for pod in worlds[-1].values()})
    assert len({uid for world in worlds for uid in world}) == 4, "nothing was started twice"
    eventually(lambda: _says_rollout(scene, {name_of(pod) for pod in old}), what=str(scene.events("Rollout")))


def test_a_stopped_rollout_keeps_the_others_and_the_old_spec_brings_all_back(scene: Scene) -> None:
    scene.apply("web", slm_spec(replicas=2, **FULL))
    scene.wait_reason("web", "AllReady")
    old = scene.live_uids("web")
    scene.apply("web", _never_ready(replicas=2, **FULL))
    scene.wait_reason("web", "RolloutStopped")
    kept = scene.live_uids("web")
    assert len(kept) == 1
    assert kept.items() <= old.items()
    failed = next(pod for pod in scene.pods("web") if is_finished(pod))
    message = scene.message("web")
    assert name_of(failed) in message
    assert "apply the previous one to go back" in message
    scene.apply("web", slm_spec(replicas=2, **FULL))
    scene.wait_reason("web", "AllReady")
    eventually(lambda: len(scene.pods("web")) == 2, what="the failed pod goes")
    after = scene.live_uids("web")
    assert kept.items() <= after.items()
    assert failed["metadata"]["uid"] not in after.values()


def test_deleting_the_failed_pod_of_a_stopped_rollout_tries_once_more(scene: Scene) -> None:
    free = ROOMY["whole GPUs"]
    scene.apply("web", slm_spec(replicas=2, **free))
    scene.wait_reason("web", "AllReady")
    old = scene.live_uids("web")
    with PodHistory(scene) as history:
        scene.apply("web", _never_ready(replicas=2, **free))
        scene.wait_reason("web", "RolloutStopped")
        first = next(pod for pod in scene.pods("web") if is_finished(pod))
        scene.delete_pod(name_of(first))

        def failed_again() -> bool:
            uids = {pod["metadata"]["uid"] for pod in scene.pods("web") if is_finished(pod)}
            return bool(uids - {first["metadata"]["uid"]})

        eventually(failed_again, seconds=60, what=scene.operator.log)
        scene.wait_reason("web", "RolloutStopped")
        scene.more_turns(5)
        worlds = history.worlds()
    assert scene.live_uids("web") == old
    tried = {uid for world in worlds for uid in world} - set(old.values())
    assert len(tried) == 2


def test_a_replica_that_is_not_ready_in_time_makes_way_for_the_next(scene: Scene, kubelets: Kubelets) -> None:
    with PodHistory(scene) as history:
        scene.apply("slow", _never_ready(mode="MPS", products=[H100]))
        eventually(lambda: scene.pods("slow"), what=scene.operator.log)
        scene.apply("next", slm_spec(mode="MPS", products=[H100]))
        scene.wait_reason("next", "WaitingForStart")
        assert "one at a time" in scene.message("next")
        scene.wait_reason("slow", "NotReadyInTime")
        scene.wait_reason("next", "AllReady")
        worlds = history.worlds()
    failed = next(pod for pod in scene.pods("slow") if name_of(pod) == "slow-0")
    assert failed["status"]["phase"] == "Failed"
    assert "deletionTimestamp" not in failed["metadata"]
    assert f"not Ready within {BUDGET_SECONDS} s" in failed["metadata"]["annotations"]["slmpack.dev/ended"]
    assert kubelets.log(scene.namespace, "slow-0")
    assert "slow-0" in {event.get("related", {}).get("name") for event in scene.events("NotReadyInTime")}
    started = next(world for world in worlds if any(name_of(pod) == "next-0" for pod in world.values()))
    assert is_finished(started[failed["metadata"]["uid"]]), "the next one starts when the slow one has ended"
