"""The loop is closed: real API server, operator, kubelet stand-ins that start engines, real Prometheus, simulated load.

Nobody in the operator knows the truth that the simulated engines run under. Windows are the operator's own; only the
polling is faster, and Prometheus scrapes every second. No GPU is involved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slmpack.devcluster.nodes import H100, mps_node
from tests.support.live_loop import Loop, World, open_loop, poisson_trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

NODES = [mps_node("scaled-a", replicas=4, product=H100), mps_node("scaled-b", replicas=4, product=H100)]
SEED = 3
LOW, HIGH = 2.0, 80.0
"""Requests a second."""
QUIET_SECONDS, BUSY_SECONDS, AFTER_SECONDS = 5.0, 65.0, 600.0
SPEC: dict[str, Any] = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "engine": {"maxModelLen": 2048},
    "sharing": {"mode": "MPS"},
    "scaling": {"min": 1, "max": 8, "behaviour": {"scaleDown": {"stabilizationWindowSeconds": 10}}},
    "pod": {"terminationGracePeriodSeconds": 1},
}
CEILING = 345.0
"""Watts. A second replica on the first GPU is predicted at 310 W when it is added, one on the other GPU at 385 W or more.
What runs is not slowed: the first GPU draws 380 W later, when more load has come."""


@pytest.fixture
def loop(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Loop]:
    phases = [(QUIET_SECONDS, LOW), (BUSY_SECONDS, HIGH), (AFTER_SECONDS, LOW)]
    trace = poisson_trace(phases, input_tokens=512, output_tokens=256, seed=SEED)
    world = World.make(SPEC, NODES, trace, seed=SEED, folder=tmp_path)
    metrics = {"period": 1.0, "timeout": 2.0, "max_age": 5.0}
    with open_loop(control_plane, world, interval="1s", metrics=metrics, start_seconds=1.2, folder=tmp_path) as opened:
        yield opened


def _spec(**scaling: Any) -> dict[str, Any]:
    return SPEC | {"scaling": SPEC["scaling"] | scaling}


@pytest.mark.timeout(500)
def test_replicas_follow_the_load_under_the_ceiling_and_never_fall_on_the_unknown(loop: Loop) -> None:
    scene, live, prometheus = loop.scene, loop.live, loop.prometheus

    loop.apply(_spec(maxWattsPerGPU=CEILING))
    scene.wait_reason("chat", "AllReady")
    loop.until(loop.is_settled, seconds=90, what="measured")
    assert len(loop.nodes()) == 1
    idle = loop.watts()
    live.begin()

    # The load rises: replicas rise until the ceiling holds them, on one GPU, with its reason.
    loop.until(lambda: loop.condition("ScalingLimited")[1] == "PowerCeiling", seconds=90, what="held by the ceiling")
    assert loop.condition("ScalingLimited")[0] == "True"
    assert f"maxWattsPerGPU, {CEILING:g}" in loop.condition("ScalingLimited")[2]
    assert loop.scaling()["wished"] > loop.scaling()["desired"] >= 2
    assert scene.events("PowerCeiling")
    loop.until(lambda: len(loop.nodes()) == loop.scaling()["desired"], seconds=20, what="ready")
    assert set(loop.nodes()) == {"scaled-a"}
    held = loop.watts()
    assert held["scaled-a"] > idle["scaled-a"]
    assert held["scaled-b"] == idle["scaled-b"] < CEILING
    steady, until = loop.scaling()["desired"], live.now + 5.0
    loop.until(lambda: live.now > until, seconds=10, what="a while")
    assert loop.scaling()["desired"] == steady == len(loop.nodes())

    # Without the ceiling the other GPU is used, and more watts with it.
    loop.apply(_spec())
    loop.until(lambda: set(loop.nodes()) == {"scaled-a", "scaled-b"}, seconds=30, what="on both GPUs")
    loop.until(lambda: loop.watts()["scaled-b"] > held["scaled-b"], seconds=10, what="drawing more")
    loop.until(loop.is_settled, seconds=30, what="known, with all replicas")

    # Prometheus dies, and the load falls: nothing is known, so nothing is ended.
    falls = QUIET_SECONDS + BUSY_SECONDS
    loop.until(lambda: live.now > falls - 15.0, seconds=120, what="soon to fall")
    desired = len(loop.nodes())
    prometheus.kill()
    loop.until(lambda: loop.condition("ScalingActive")[:2] == ("False", "MetricsUnknown"), seconds=30, what="held")
    assert "refused" in loop.condition("ScalingActive")[2]
    loop.until(lambda: live.now > falls + 15.0, seconds=120, what="the load's fall")
    assert loop.scaling()["desired"] == desired
    assert loop.condition("ScalingActive")[:2] == ("False", "MetricsUnknown")
    assert len(loop.nodes()) == desired

    # It is back: replicas end, and a GPU comes free.
    prometheus.resume()
    loop.until(lambda: len(set(loop.nodes())) == 1, seconds=120, what="on one GPU")
    loop.until(loop.is_settled, seconds=30, what="known, with fewer replicas")
    assert loop.scaling()["desired"] < desired
    assert loop.scaling()["lastDirection"] == "Down"
    assert scene.events("LoadFell")
    loop.until(lambda: sum(loop.watts().values()) < sum(held.values()), seconds=30, what="drawing less")
