"""The simulated cluster in real time, as the pods of a real API server have it: what Prometheus scrapes in a closed loop.

Pods that the stand-in kubelets made Ready are replicas of the simulator's cluster, under its hidden truth; requests of a
trace reach them as through a Service. Their engines' and GPUs' metrics are served word for word (`live_metrics`).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from slmpack.simulate.cluster import Cluster
from tests.support.live_metrics import (
    EngineFigures,
    GpuFigures,
    Histogram,
    MetricsServer,
    expose_engine,
    expose_gpus,
    token_buckets,
    vllm_buckets,
)
from tests.support.scene import is_live, is_ready, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slmpack.simulate.costs import EngineSpec
    from slmpack.simulate.power import Board
    from slmpack.simulate.readings import Outcome, Scrape
    from slmpack.simulate.trace import Trace
    from tests.support.scene import Pod, Scene

__all__ = ["ENGINES", "GPUS", "LiveCluster", "LiveGpu", "Moment", "Service"]

ENGINES, GPUS = "engines", "gpus"
"""Jobs of the scrape configuration."""
STEP_SECONDS = 0.25
TTFT, ITL, QUEUE = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:request_queue_time_seconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGpu:
    """A node's one GPU."""

    node: str
    product: str
    board: Board
    total_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The SLMDeployment that the trace's requests are for."""

    name: str
    model: str
    max_model_len: int
    engine: EngineSpec
    """Of each of its replicas."""
    used_mib: float
    """Of a GPU, by each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was so at one step."""

    at: float
    """Seconds since the trace began."""
    ready: int
    gpus: int
    """That hold a replica."""
    watts: tuple[float, ...]
    """By GPU."""


class LiveCluster:
    """Plays a trace against the pods of a scene. Use it as a context manager; `begin` starts the trace."""

    def __init__(self, scene: Scene, service: Service, *, gpus: Sequence[LiveGpu], trace: Trace, seed: int) -> None:
        self._scene, self._service, self._gpus, self._trace = scene, service, tuple(gpus), trace
        self._cluster = Cluster(trace, boards=[gpu.board for gpu in gpus], longest=[service.max_model_len], seed=seed)
        self._replicas: dict[str, int] = {}
        """By uid of the pod."""
        self._busy = np.zeros(len(gpus))
        self._before: Scrape | None = None
        self._began: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="live cluster", daemon=True)
        self._error: Exception | None = None
        self.server = MetricsServer()
        self.moments: list[Moment] = []
        self.xids: dict[str, int] = {}
        """By node: the last error of its GPU."""

    def __enter__(self) -> Self:
        self.server.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.server.__exit__()
        if self._error is not None:
            raise AssertionError("the live cluster broke") from self._error

    def begin(self) -> None:
        """From now on the trace's requests come."""
        self._began = time.monotonic()

    @property
    def now(self) -> float:
        """Seconds since the trace began."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def outcome(self) -> Outcome:
        """What became of the requests; ask it after the end."""
        return self._cluster.outcome()

    def _play(self) -> None:
        try:
            while not self._stop.wait(STEP_SECONDS):
                self._step(self._scene.pods(self._service.name))
        except Exception as error:  # noqa: BLE001 - told by __exit__
            self._error = error

    def _step(self, pods: list[Pod]) -> None:
        self._cluster.advance(max(self.now, self._cluster.now))
        self._follow(pods)
        scrape = self._cluster.scrape()
        pages = self._engine_pages(pods, scrape) | self._gpu_pages(pods, scrape)
        engines = {
            f"/{ENGINES}/{name_of(pod)}": self._labels(pod) for pod in pods if pod["status"]["phase"] == "Running"
        }
        gpus = {f"/{GPUS}/{gpu.node}": {"node": gpu.node} for gpu in self._gpus}
        self.server.show(pages, targets={ENGINES: engines, GPUS: gpus})
        ready = int(np.count_nonzero(scrape.ready))
        held = len(set(scrape.gpu.tolist()))
        self.moments.append(Moment(at=scrape.at, ready=ready, gpus=held, watts=tuple(scrape.watts.tolist())))

    def _follow(self, pods: list[Pod]) -> None:
        """The Service's endpoints: Ready pods that are not being deleted."""
        serving = {pod["metadata"]["uid"]: pod for pod in pods if is_live(pod) and is_ready(pod)}
        for uid, pod in serving.items():
            if uid not in self._replicas:
                gpu = [it.node for it in self._gpus].index(pod["spec"]["nodeName"])
                self._replicas[uid] = self._cluster.add(
                    tenant=0, gpu=gpu, engine=self._service.engine, ready_at=self._cluster.now
                )
        for uid in self._replicas.keys() - serving.keys():
            self._cluster.remove(self._replicas.pop(uid))
        self._cluster.advance(self._cluster.now)

    def _labels(self, pod: Pod) -> Mapping[str, str]:
        return {
            "namespace": pod["metadata"]["namespace"],
            "pod": name_of(pod),
            "node": pod["spec"]["nodeName"],
            "slmdeployment": self._service.name,
        }

    def _engine_pages(self, pods: list[Pod], scrape: Scrape) -> dict[str, str]:
        outcome = self._cluster.outcome()
        pages = {}
        for pod in pods:
            replica = self._replicas.get(pod["metadata"]["uid"])
            if replica is not None:
                at = scrape.replica.tolist().index(replica)
                figures = self._figures(pod, at, scrape, self._by_request(replica, outcome))
                pages[f"/{ENGINES}/{name_of(pod)}"] = expose_engine(figures)
        return pages

    def _figures(self, pod: Pod, at: int, scrape: Scrape, histograms: Mapping[str, Histogram]) -> EngineFigures:
        started = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
        of_replica = {
            family: Histogram(counts=found.counts[at].tolist(), total=float(found.sums[at]))
            for family, found in ((TTFT, scrape.ttft), (ITL, scrape.itl), (QUEUE, scrape.queue))
        }
        return EngineFigures(
            model=self._service.model,
            started=started,
            max_model_len=self._service.max_model_len,
            kv_tokens=self._service.engine.kv_tokens,
            running=float(scrape.running[at]),
            waiting=float(scrape.waiting[at]),
            kv_usage=float(scrape.kv_usage[at]),
            completions=float(scrape.completions[at]),
            preemptions=float(scrape.preemptions[at]),
            prompt_tokens=float(scrape.prompt_tokens[at]),
            generation_tokens=float(scrape.generation_tokens[at]),
            histograms={**of_replica, **histograms},
        )

    def _by_request(self, replica: int, outcome: Outcome) -> dict[str, Histogram]:
        """Of the requests that a replica has finished."""
        mine = outcome.finished & (outcome.replica == replica)
        tokens = token_buckets(self._service.max_model_len)
        made = outcome.output_tokens[mine]
        seconds = outcome.ttft_s[mine] + outcome.tpot_s[mine] * np.maximum(0, made - 1)
        return {
            "vllm:request_prompt_tokens": _counted(self._trace.input_tokens[mine], tokens),
            "vllm:request_generation_tokens": _counted(made, tokens),
            "vllm:request_time_per_output_token_seconds": _counted(
                outcome.tpot_s[mine], vllm_buckets("vllm:request_time_per_output_token_seconds")
            ),
            "vllm:e2e_request_latency_seconds": _counted(seconds, vllm_buckets("vllm:e2e_request_latency_seconds")),
        }

    def _gpu_pages(self, pods: list[Pod], scrape: Scrape) -> dict[str, str]:
        if self._before is not None and scrape.at > self._before.at:
            self._busy = np.clip((scrape.active - self._before.active) / (scrape.at - self._before.at), 0.0, 1.0)
        self._before = scrape
        pages = {}
        for number, gpu in enumerate(self._gpus):
            users = [pod for pod in pods if is_live(pod) and pod["spec"].get("nodeName") == gpu.node]
            figures = GpuFigures(
                node=gpu.node,
                index=0,
                uuid=f"GPU-{gpu.node}",
                product=gpu.product,
                power_w=float(scrape.watts[number]),
                energy_j=float(scrape.joules[number]),
                busy=float(self._busy[number]),
                used_mib=self._service.used_mib * len(users),
                total_mib=gpu.total_mib,
                xid=self.xids.get(gpu.node, 0),
                pods=tuple((pod["metadata"]["namespace"], name_of(pod), _container(pod)) for pod in users),
            )
            pages[f"/{GPUS}/{gpu.node}"] = expose_gpus([figures])
        return pages


def _container(pod: Pod) -> str:
    name: str = pod["spec"]["containers"][0]["name"]
    return name


def _counted(values: Any, bounds: Sequence[float]) -> Histogram:
    places = np.searchsorted(np.asarray(bounds), values, side="left")
    counts = np.bincount(places, minlength=len(bounds) + 1).astype(float)
    return Histogram(counts=counts.tolist(), total=float(np.sum(values)))
