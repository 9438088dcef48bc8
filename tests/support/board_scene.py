"""A scene in which every panel of every dashboard has something to show, trouble included.

The operator is real, on a real API server, and so are Prometheus and the rules; engines, GPUs and their load are simulated.
More load comes than replicas that pay would carry; one SLMDeployment's replica hangs in its start while another waits for
its turn; of a third, more are wanted than pay; a node time-slices and offers nothing; a GPU reports an XID.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmpack.devcluster.nodes import A100, H100, L4, mps_node, timesliced_node
from tests.support.live_cluster import ENGINES, GPUS
from tests.support.live_loop import Loop, World, open_loop, poisson_trace
from tests.support.scene import FAULT, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.control_plane import ControlPlane

__all__ = ["NAMES", "BoardScene", "open_board_scene"]

RULES = sorted((Path(__file__).parents[2] / "monitoring" / "rules").glob("*.yaml"))
NODES = [
    mps_node("board-a", replicas=4, product=H100),
    mps_node("board-b", replicas=2, product=L4),
    mps_node("board-c", replicas=2, product=A100),
    timesliced_node("board-d", replicas=4, product=L4),
]
SEED = 5
LOW, HIGH = 2.0, 120.0
"""Requests a second: a fraction of what one H100 carries, and more than it can."""
QUIET_SECONDS, BUSY_SECONDS = 10.0, 600.0
CHAT: dict[str, Any] = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "engine": {"maxModelLen": 2048},
    "sharing": {"mode": "MPS", "gpuProducts": [H100]},
    "bounds": {"ttft": "2s", "itl": "60ms"},
    "scaling": {"min": 1, "max": 4, "maxWattsPerGPU": 2000},
    "pod": {"terminationGracePeriodSeconds": 1},
}
TIGHT = slm_spec(replicas=3, mode="MPS", products=[L4]) | {"workload": {"inFlight": 4}}
STUCK = slm_spec(replicas=2, mode="MPS", products=[A100], pod={"annotations": {FAULT: "NeverReady"}})
XID = 79
"""The GPU has fallen off the bus."""
NAMES = ("chat", "tight", "stuck")
"""What the dashboard of one SLMDeployment may be asked about; not every panel shows something for each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardScene:
    """It runs; `unfold` it first."""

    loop: Loop
    began: float
    """By Prometheus' clock."""

    @property
    def now(self) -> float:
        """By Prometheus' clock."""
        now = self.loop.prometheus.value("vector(time())")
        assert now is not None
        return now

    @property
    def namespace(self) -> str:
        """Of its SLMDeployments."""
        return self.loop.scene.namespace

    def unfold(self) -> None:
        """Until all of the trouble is there, and recorded."""
        loop, live, prometheus = self.loop, self.loop.live, self.loop.prometheus
        loop.scene.apply("tight", TIGHT)
        loop.scene.apply("stuck", STUCK)
        loop.apply(CHAT)
        loop.scene.wait_reason("chat", "AllReady")
        loop.until(loop.is_settled, seconds=90, what="measured")
        live.begin()
        loop.until(lambda: live.now > QUIET_SECONDS, seconds=30, what="busy")
        live.xids["board-b"] = XID
        loop.until(lambda: loop.condition("ScalingLimited")[1] == "DoesNotPay", seconds=120, what="refused")
        loop.until(lambda: prometheus.query("slmpack_scale_refused"), seconds=10, what="told by the operator")
        loop.until(lambda: prometheus.query("gpu:xid:new10m"), seconds=20, what="an XID recorded")
        cost = "slmpack:joules_per_token:mean5m"
        loop.until(lambda: prometheus.value(cost), seconds=60, what="a token's cost recorded")


@contextmanager
def open_board_scene(control_plane: ControlPlane, *, folder: Path) -> Iterator[BoardScene]:
    """The scene before anything is deployed; Prometheus scrapes and evaluates every second."""
    phases = [(QUIET_SECONDS, LOW), (BUSY_SECONDS, HIGH)]
    trace = poisson_trace(phases, input_tokens=512, output_tokens=256, seed=SEED)
    world = World.make(CHAT, NODES, trace, seed=SEED, folder=folder)
    metrics = {"period": 1.0, "timeout": 2.0, "max_age": 5.0}
    with open_loop(control_plane, world, interval="1s", metrics=metrics, start_seconds=1.2, folder=folder) as loop:
        operator = loop.scene.operator.url.removeprefix("http://")
        jobs = [loop.live.server.scrape(job) for job in (ENGINES, GPUS)]
        jobs.append({"job_name": "operator", "honor_labels": True, "static_configs": [{"targets": [operator]}]})
        loop.prometheus.configure(jobs, interval="1s", rules=RULES)
        loop.prometheus.reload()
        began = loop.prometheus.value("vector(time())")
        assert began is not None
        yield BoardScene(loop=loop, began=began)
