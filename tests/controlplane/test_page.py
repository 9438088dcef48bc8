"""The page of a real operator: it shows what was planned, costs the API server nothing, and a standby says that it is one."""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING

import pytest

from slmpack.controller.loop import Pace
from slmpack.devcluster.nodes import H100, mps_node, whole_node
from slmpack.devcluster.worker import Timing
from tests.support.operator import Operator, eventually, playing_nodes
from tests.support.scene import Stage, is_ready, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane
    from tests.support.scene import Scene

NODES = [whole_node("page-l4"), mps_node("page-h100", product=H100, replicas=4)]
TIMING = Timing(pull=0.02, create=0.02, start=0.3, stop=0.05)


@pytest.fixture(scope="module")
def stage(control_plane: ControlPlane) -> Iterator[Stage]:
    with playing_nodes(control_plane, NODES, timing=TIMING):
        yield Stage.prepare(control_plane, nodes=NODES, config={"page": True})


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Iterator[Scene]:
    with open_scene(stage, folder=tmp_path) as opened:
        yield opened


def _words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_it_shows_what_runs_and_what_has_no_place(scene: Scene) -> None:
    scene.apply("chat", slm_spec(replicas=1, mode="MPS"))
    scene.apply("whole", slm_spec(replicas=2, products=["NVIDIA-L4"]))
    eventually(lambda: sum(map(is_ready, scene.pods())) == 2, seconds=60, what=scene.operator.log)
    scene.more_turns()
    with urllib.request.urlopen(scene.operator.url, timeout=10) as answer:
        page = answer.read().decode()
        assert answer.headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
    assert f'<meta http-equiv="refresh" content="{Pace().tick:.0f}">' in page
    words = _words(page)
    assert re.search(r"planned \d+ s ago, at ", words)
    for name in ("page-l4", "page-h100", "chat", "whole"):
        assert name in words
    assert re.search(r"1 unplaced, InsufficientGpus", words)
    assert len(re.findall(r'<li class="block ready', page)) == 2


def test_asking_for_it_makes_no_turn(scene: Scene) -> None:
    eventually(lambda: "planned" in scene.operator.get("/")[1])
    before = scene.operator.turns()
    for _ in range(20):
        assert scene.operator.get("/")[0] == 200
    assert scene.operator.turns() - before <= 2, "a tick may fall in between, but nobody's request makes one"


def test_a_standby_says_that_it_is_one(scene: Scene, stage: Stage, tmp_path: Path) -> None:
    config = {
        "kubeconfig": str(scene.api.kubeconfig(stage.token, user="slmpack")),
        "namespace": scene.namespace,
        "lease_namespace": stage.system,
        "identity": "another-pod",
        "node_selector": f"kubernetes.io/hostname in ({','.join(stage.nodes)})",
        "page": True,
    }
    with Operator(config, log=tmp_path / "standby.log") as standby:
        eventually(lambda: "standby" in standby.get("/readyz")[1])
        words = _words(standby.get("/")[1])
    assert "This operator stands by and plans nothing; another one does." in words
    assert "Nothing has been planned yet." in words
