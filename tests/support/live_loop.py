"""Everything that a closed loop needs, put together: nodes, operator, Prometheus and a simulated load on one SLMDeployment."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.devcluster.worker import Timing
from slmpack.domain.inventory import read_nodes
from slmpack.domain.plan import CreatePod
from slmpack.domain.planner import plan_cluster
from slmpack.domain.sharing import limit_bytes
from slmpack.simulate.cluster import Cluster
from slmpack.simulate.ground import Engines, Ground
from slmpack.simulate.power import board_of
from slmpack.simulate.trace import Trace
from slmpack.simulate.truth import draw_truth
from tests.support.live_cluster import ENGINES, GPUS, LiveCluster, LiveGpu, Service
from tests.support.operator import eventually, playing_nodes
from tests.support.prometheus import Prometheus
from tests.support.scene import Scene, Stage, is_live, is_ready, open_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

__all__ = ["Loop", "World", "open_loop", "poisson_trace"]

Json = dict[str, Any]
NAME = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is played, and what it really is under the hidden truth of a seed."""

    spec: Json
    nodes: tuple[Json, ...]
    trace: Trace
    seed: int
    ground: Ground
    service: Service
    gpus: tuple[LiveGpu, ...]

    @classmethod
    def make(cls, spec: Json, nodes: Sequence[Json], trace: Trace, *, seed: int, folder: Path) -> World:
        """The SLMDeployment is called chat; every replica has the share and settings that the planner gives the first."""
        manifest = {
            "apiVersion": "slmpack.dev/v1alpha1",
            "kind": "SLMDeployment",
            "metadata": {"name": NAME, "namespace": "default"},
            "spec": spec,
        }
        (folder / "world.yaml").write_text(yaml.safe_dump_all([manifest, *nodes]))
        manifests = read_manifests([str(folder / "world.yaml")])
        question = Question(manifests=manifests, cluster=False, kubeconfig=None, model_seconds=5)
        seen = asyncio.run(observe_world(question))
        snapshot, policy = seen.snapshot, seen.policy
        (create,) = (it for it in plan_cluster(snapshot, policy).actions if isinstance(it, CreatePod))
        read = read_nodes(tuple(snapshot.nodes), policy.gpus)
        ground = Ground(views=tuple(snapshot.deployments), nodes=tuple(snapshot.nodes), policy=policy, read=read)
        share = create.placement.share
        engine = Engines(ground=ground, truth=draw_truth(seed)).of(0, create.placement.node, share, create.settings)
        power = policy.performance.constants_for(create.demand.engine_version).power
        return cls(
            spec=spec,
            nodes=tuple(nodes),
            trace=trace,
            seed=seed,
            ground=ground,
            service=Service(
                name=NAME,
                model=spec["model"]["source"].removeprefix("hf://"),
                max_model_len=create.settings.max_model_len,
                engine=engine,
                used_mib=limit_bytes(share) / 2**20,
            ),
            gpus=tuple(
                LiveGpu(
                    node=node.name,
                    product=node.product,
                    board=board_of(node.gpu, power),
                    total_mib=node.gpu.memory_total_mib,
                )
                for node in read
                if node.gpu is not None
            ),
        )

    def warm_up(self) -> None:
        """Compile the simulator before anything waits for it."""
        boards = [gpu.board for gpu in self.gpus]
        trace = poisson_trace([(1.0, 20.0)], input_tokens=64, output_tokens=8, seed=self.seed)
        cluster = Cluster(trace, boards=boards, longest=[self.service.max_model_len], seed=self.seed)
        replica = cluster.add(tenant=0, gpu=0, engine=self.service.engine, ready_at=0.0)
        cluster.advance(0.5)
        cluster.scrape()
        cluster.remove(replica)
        cluster.advance(1.0)
        cluster.outcome()


def poisson_trace(
    phases: Sequence[tuple[float, float]], *, input_tokens: float, output_tokens: float, seed: int
) -> Trace:
    """Poisson arrivals, seconds and requests a second of each phase; lengths are Poisson with these means."""
    chance = np.random.Generator(np.random.PCG64(seed))
    arrivals, began = [], 0.0
    for seconds, rate in phases:
        arrivals.append(began + np.sort(chance.uniform(0.0, seconds, chance.poisson(seconds * rate))))
        began += seconds
    arrival = np.concatenate(arrivals)
    lengths = [np.maximum(1, chance.poisson(mean, len(arrival))) for mean in (input_tokens, output_tokens)]
    return Trace(
        arrival_s=arrival,
        input_tokens=lengths[0].astype(np.int64),
        output_tokens=lengths[1].astype(np.int64),
        tenant=np.zeros(len(arrival), dtype=np.int64),
        tenants=(NAME,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Everything that runs."""

    scene: Scene
    prometheus: Prometheus
    live: LiveCluster

    def apply(self, spec: Json) -> None:
        """Create the SLMDeployment, or replace its spec."""
        self.scene.apply(NAME, spec)

    def scaling(self) -> Json:
        """status.scaling; empty until it is about the present spec."""
        found: Json = self.scene.status(NAME).get("scaling", {})
        return found

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        conditions = self.scene.status(NAME).get("conditions", [])
        return next(((it["status"], it["reason"], it["message"]) for it in conditions if it["type"] == kind), ("",) * 3)

    def nodes(self) -> list[str]:
        """Where the replicas are that are Ready and stay."""
        return sorted(pod["spec"]["nodeName"] for pod in self.scene.pods(NAME) if is_live(pod) and is_ready(pod))

    def is_settled(self) -> bool:
        """All replicas that are wanted are Ready, and all is known of them."""
        desired = self.scaling().get("desired")
        return self.condition("ScalingActive")[0] == "True" and desired == len(self.nodes())

    def watts(self) -> dict[str, float]:
        """By node, as Prometheus has it."""
        found = self.prometheus.query("max by (Hostname) (DCGM_FI_DEV_POWER_USAGE)")
        return {it["metric"]["Hostname"]: float(it["value"][1]) for it in found}

    def until(self, is_true: Callable[[], object], *, seconds: float, what: str) -> None:
        """Wait; the message of a failure has all that helps."""
        try:
            eventually(is_true, seconds=seconds)
        except AssertionError:
            pytest.fail(f"not {what} within {seconds:.0f} s, at {self.live.now:.0f} s\n{self._told()}")

    def _told(self) -> str:
        status = json.dumps(self.scaling(), indent=1)
        conditions = [self.condition(kind) for kind in ("Ready", "ScalingActive", "ScalingLimited")]
        return f"{status}\n{conditions}\n{self.nodes()}\n{self.scene.operator.log[-3000:]}"


@contextmanager
def open_loop(
    control_plane: ControlPlane, world: World, *, interval: str, metrics: Json, start_seconds: float, folder: Path
) -> Iterator[Loop]:
    """A loop without an SLMDeployment yet; Prometheus scrapes each `interval`, `metrics` are the operator's settings."""
    world.warm_up()
    timing = Timing(pull=0.02, create=0.02, start=start_seconds, stop=0.05)
    with playing_nodes(control_plane, world.nodes, timing=timing), Prometheus.start() as prometheus:
        config = {"metrics": {"url": prometheus.url, **metrics}}
        stage = Stage.prepare(control_plane, nodes=world.nodes, config=config)
        with (
            open_scene(stage, folder=folder) as scene,
            LiveCluster(scene, world.service, gpus=world.gpus, trace=world.trace, seed=world.seed) as live,
        ):
            prometheus.configure([live.server.scrape(job) for job in (ENGINES, GPUS)], interval=interval)
            prometheus.reload()
            yield Loop(scene=scene, prometheus=prometheus, live=live)
