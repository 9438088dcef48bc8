"""Nodes cut by MIG, in either strategy, on the real control plane: which slices are taken, and that starts overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slmpack.devcluster.nodes import a100_mig_node, mig_invalid_node, mig_single_node
from slmpack.devcluster.worker import Timing
from tests.support.operator import eventually, playing_nodes
from tests.support.scene import PodHistory, Stage, is_live, is_ready, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Pod, Scene

SINGLE, MIXED, INVALID = "cut-alike", "cut-mixed", "cut-anyhow"
NODES = [
    mig_single_node(SINGLE, profile="1g.10gb", count=3),
    a100_mig_node(MIXED, profiles={"1g.10gb": 2, "3g.40gb": 1}),
]
TIMING = Timing(pull=0.02, create=0.02, start=1.2, stop=0.05)


@pytest.fixture
def scene(control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    nodes = getattr(request, "param", NODES)
    with (
        playing_nodes(control_plane, nodes, timing=TIMING),
        open_scene(Stage.prepare(control_plane, nodes=nodes), folder=tmp_path) as opened,
    ):
        yield opened


def _taken(pods: list[Pod]) -> list[tuple[str, str]]:
    """Node and extended resource of each pod."""
    limits = [(pod["spec"]["nodeName"], pod["spec"]["containers"][0]["resources"]["limits"]) for pod in pods]
    return sorted((node, name) for node, names in limits for name in names if name.startswith("nvidia.com/"))


def test_slices_of_both_strategies_are_taken_the_smallest_first_and_start_beside_one_another(scene: Scene) -> None:
    with PodHistory(scene) as history:
        scene.apply("web", slm_spec(replicas=6, mode="MIG"))
        scene.wait_reason("web", "AllReady")
        worlds = history.worlds()
    assert _taken(scene.pods()) == [
        (SINGLE, "nvidia.com/gpu"),
        (SINGLE, "nvidia.com/gpu"),
        (SINGLE, "nvidia.com/gpu"),
        (MIXED, "nvidia.com/mig-1g.10gb"),
        (MIXED, "nvidia.com/mig-1g.10gb"),
        (MIXED, "nvidia.com/mig-3g.40gb"),
    ]
    starting = [[pod for pod in world.values() if is_live(pod) and not is_ready(pod)] for world in worlds]
    assert max(map(len, starting)) > 1, "MIG instances start in parallel"
    conditions = {condition["type"]: condition for condition in scene.status("web")["conditions"]}
    limit = conditions["MemoryLimitEnforced"]
    assert (limit["status"], limit["reason"]) == ("True", "MigHardware")


def test_one_slice_too_few_is_told_with_what_the_labels_can_and_cannot_say(scene: Scene) -> None:
    scene.apply("web", slm_spec(replicas=7, mode="MIG"))
    eventually(lambda: scene.status("web").get("readyReplicas") == 6, seconds=60)
    scene.wait_reason("web", "InsufficientGpus")
    message = scene.message("web")
    assert f"node {SINGLE} has 0 of 3 1g.10gb free" in message or f"node {MIXED} has 0 of 2 1g.10gb" in message, message


@pytest.mark.parametrize("scene", [[mig_invalid_node(INVALID)]], indirect=True, ids=["not cut alike"])
def test_a_node_whose_gpus_are_not_cut_alike_offers_nothing_and_says_so(scene: Scene) -> None:
    scene.apply("web", slm_spec(mode="MIG"))
    scene.wait_reason("web", "SingleStrategyMig")
    assert scene.pods() == []
