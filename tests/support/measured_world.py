"""A Prometheus that answers every question well about two replicas of one SLMDeployment, and what is made of that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import inf

from slmpack.adapters.measuring import MetricsSettings
from slmpack.adapters.metric_names import MetricNames
from slmpack.adapters.prometheus import PrometheusClient, PrometheusSettings
from slmpack.adapters.prometheus_loads import PrometheusLoads
from slmpack.adapters.promql import DEPLOYMENT, EngineQueries, gateway_query, gpu_queries
from slmpack.domain.load import Latencies, LoadSample
from slmpack.domain.snapshot import Key
from slmpack.ports import EnginePod, Watched
from tests.support.fake_clock import FakeClock
from tests.support.fake_prometheus import FakePrometheus, Vector

__all__ = [
    "CHAT",
    "GATEWAY",
    "GPU",
    "HEALTHY",
    "LATENCIES",
    "NAMES",
    "QUERIES",
    "TIMEOUT",
    "WATCHED",
    "WINDOWS",
    "World",
    "by_bound",
    "engine",
    "healthy_world",
    "make_source",
    "of_chat",
    "per_engine",
    "pod",
    "unknown",
]

CHAT = Key("team", "chat")
TIMEOUT = 2.0
NAMES = MetricNames()
QUERIES = EngineQueries(names=NAMES, deployments=(CHAT,))
GPU = gpu_queries(NAMES)
GATEWAY = gateway_query(MetricsSettings().gateway_query, [CHAT])
WINDOWS = {
    "arrivals_s": ("arrivals", 3.5), "arrivals_peak_s": ("arrivals_peak", 5.0), "arrivals_high_s": ("arrivals_high", 4.5),
    "arrivals_mean_s": ("arrivals_mean", 3.0), "completions_s": ("completions", 3.25), "prompt_tok_s": ("prompt_rate", 700.0),
    "generation_tok_s": ("generation_rate", 175.0), "input_tokens": ("input_tokens", 200.0), "output_tokens": ("output_tokens", 50.0),
    "ttft_s": ("ttft", 0.4), "itl_s": ("itl", 0.02), "itl_p95_s": ("itl_p95", 0.03), "queue_s": ("queue", 0.1),
}  # fmt: skip


LATENCIES = {
    "ttft_of": ("ttft_buckets", {"0.1": 40.0, "0.5": 119.5, "+Inf": 120.0}),
    "tpot_of": ("tpot_buckets", {"0.025": 90.0, "0.05": 100.0, "+Inf": 100.0}),
}


def engine(pod: str, port: int = 8000) -> dict[str, str]:
    return {"namespace": "team", "pod": pod, "instance": f"10.0.0.1:{port}", "engine": "0"}


def of_chat(value: float | str) -> Vector:
    return [({"namespace": "team", DEPLOYMENT: "chat"}, value)]


def by_bound(requests: Mapping[str, float | str]) -> Vector:
    """In no order, as Prometheus answers."""
    return [({"namespace": "team", DEPLOYMENT: "chat", "le": le}, requests[le]) for le in reversed(list(requests))]


def per_engine(*values: float | str) -> Vector:
    return [(engine(f"chat-{number}"), value) for number, value in enumerate(values)]


def pod(name: str, *, ready: int = 1, age: timedelta = timedelta(hours=1)) -> EnginePod:
    return EnginePod(
        key=Key("team", name), uid=name, deployment=CHAT, address="", ports=(8000,), engines=1, ready=ready,
        ready_since=FakeClock().now() - age,
    )  # fmt: skip


WATCHED = Watched(
    deployments=frozenset({CHAT}), scaled=frozenset({CHAT}), pods=(pod("chat-0"), pod("chat-1")),
    gpu_users=frozenset({Key("team", "chat-0"), Key("them", "train-0")}),
)  # fmt: skip


@dataclass
class World:
    """A healthy Prometheus, and who asks it."""

    server: FakePrometheus
    source: PrometheusLoads
    clock: FakeClock
    watched: Watched = WATCHED

    def say(self, query: str, vector: Vector) -> None:
        self.server.vectors[query] = vector

    async def sample(self) -> LoadSample:
        reading = await self.source.read(self.watched)
        assert reading.trouble == ""
        return reading.loads[CHAT]


def make_source(url: str, clock: FakeClock, **more: object) -> PrometheusLoads:
    client = PrometheusClient(PrometheusSettings(url=url, timeout_s=TIMEOUT, **more), clock)  # type: ignore[arg-type]
    return PrometheusLoads(
        client, names=NAMES, clock=clock, gateway=MetricsSettings().gateway_query, max_age=timedelta(seconds=60),
        deadline=timedelta(seconds=3 * TIMEOUT),
    )  # fmt: skip


@asynccontextmanager
async def healthy_world() -> AsyncIterator[World]:
    async with FakePrometheus() as server:
        clock = FakeClock()
        found = World(server, make_source(server.url, clock), clock)
        found.say(QUERIES.fresh(), per_engine(server.now - 20, server.now - 5))
        found.say(QUERIES.running(), per_engine(4, 2))
        found.say(QUERIES.waiting(), per_engine(1, 0))
        found.say(QUERIES.kv_usage(), per_engine(0.5, 0.75))
        for query, value in WINDOWS.values():
            found.say(getattr(QUERIES, query)(), of_chat(value))
        for query, requests in LATENCIES.values():
            found.say(getattr(QUERIES, query)(), by_bound(requests))
        gpu = {"UUID": "GPU-a", "Hostname": "node-a"}
        found.say(GPU["seen"], [(gpu, server.now - 10)])
        found.say(GPU["energy_w"], [(gpu, 310.0)])
        found.say(GPU["power_w"], [(gpu, 290.0)])
        found.say(GPU["pods"], [({**gpu, "exported_pod": "chat-0", "exported_namespace": "team"}, 1)])
        found.say(GPU["fb_used"], [(gpu, 5 * 2**30)])
        found.say(GATEWAY, of_chat(7))
        yield found


HEALTHY = LoadSample(
    at=FakeClock().now() - timedelta(seconds=5), reporting=2, running=6.0, waiting=1.0, kv_usage=0.75, gateway_waiting=7.0,
    ttft_of=Latencies(at_most=((0.1, 40.0), (0.5, 119.5), (inf, 120.0))),
    tpot_of=Latencies(at_most=((0.025, 90.0), (0.05, 100.0), (inf, 100.0))),
    **{field: value for field, (_, value) in WINDOWS.items()},  # type: ignore[arg-type]
)  # fmt: skip


def unknown(*troubles: str, reporting: int) -> LoadSample:
    """Nothing but what the gateway says."""
    return LoadSample(at=HEALTHY.at, reporting=reporting, gateway_waiting=7.0, trouble=troubles)
