"""Every query of every dashboard, asked of a real Prometheus as Grafana would: none is dead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.board_scene import NAMES, BoardScene, open_board_scene
from tests.support.grafana import Asked, Target, load_dashboards, missing_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

PATIENCE_SECONDS = 60.0


@pytest.fixture
def scene(control_plane: ControlPlane, tmp_path: Path) -> Iterator[BoardScene]:
    with open_board_scene(control_plane, folder=tmp_path) as opened:
        yield opened


@pytest.mark.timeout(500)
def test_no_panel_is_dead(scene: BoardScene) -> None:
    scene.unfold()
    asked = Asked(url=scene.loop.prometheus.url)
    left = [
        (board.name, target, [asked.chosen(board, {"namespace": scene.namespace, "name": name}) for name in NAMES])
        for board in load_dashboards()
        for target in (*board.targets(), *board.marks())
    ]
    assert {name for name, _, _ in left} == {"slmpack-cluster", "slmpack-deployment", "slmpack-power"}
    nameless: list[str] = []

    def is_dead(name: str, target: Target, choices: list[dict[str, str]]) -> bool:
        now = scene.now
        answers = (asked.answer(target, chosen, at=now, seconds=now - scene.began) for chosen in choices)
        series = next(filter(None, answers), [])
        nameless.extend(f"{name}: {target}: no label {label}" for label in missing_labels(target, series))
        return not series

    # What has shown once is alive; a state that lasts shorter than a step of the picture may take another look.
    deadline = scene.now + PATIENCE_SECONDS
    while left := [it for it in left if is_dead(*it)]:
        assert scene.now < deadline, "dead: " + "\n".join(f"{name}: {target}" for name, target, _ in left)
        time.sleep(1.0)
    assert nameless == []
