"""Series whose rates are known by construction, for a real Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STEP", "World", "known_world"]

STEP = 15
START, END = -3780, 900
"""Of the series, in seconds from the instant that is asked about."""

Value = Callable[[int], float | None]
"""By seconds from that instant; None: no scrape."""
Labels = Mapping[str, str]


def counter(rate: float, *, since: int = START, until: int = END, reset: int | None = None) -> Value:
    """Grows from zero; with `reset` the engine restarts between that scrape and the one before."""

    def value(at: int) -> float | None:
        if not since <= at <= until:
            return None
        began = since if reset is None or at < reset else reset - STEP
        return rate * (at - began)

    return value


def gauge(number: float, *, rising: float = 0.0, since: int = START, until: int = END) -> Value:
    return lambda at: number + rising * (at - since) if since <= at <= until else None


@dataclass
class World:
    """Series, before they are written."""

    series: dict[str, list[tuple[dict[str, str], Value]]]

    def add(self, name: str, labels: Labels, value: Value) -> None:
        self.series.setdefault(name, []).append((dict(labels), value))

    def engine(
        self, pod: str, *, port: int = 8000, namespace: str = "team", jobs: tuple[str, ...] = ("vllm",)
    ) -> list[dict[str, str]]:
        at = {"namespace": namespace, "pod": pod, "instance": f"{pod}.ip:{port}", "engine": "0", "model_name": "m"}
        return [{**at, "job": job} for job in jobs]

    def write(self, path: Path, *, instant: int) -> None:
        lines = []
        for name, found in sorted(self.series.items()):
            for labels, value in found:
                inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
                scrapes = ((at, value(at)) for at in range(START, END + 1, STEP))
                lines += [f"{name}{{{inside}}} {number} {instant + at}" for at, number in scrapes if number is not None]
        path.write_text("\n".join([*lines, "# EOF", ""]))


def serve(
    world: World, engines: list[dict[str, str]], *, finished: Value, aborted: Value, running: Value, waiting: Value
) -> None:
    for labels in engines:
        world.add("vllm:request_success_total", {**labels, "finished_reason": "stop"}, finished)
        world.add("vllm:request_success_total", {**labels, "finished_reason": "abort"}, aborted)
        world.add("vllm:num_requests_running", labels, running)
        world.add("vllm:num_requests_waiting", labels, waiting)


def histogram(
    world: World, name: str, engines: list[dict[str, str]], *, total: Value, buckets: Mapping[str, Value]
) -> None:
    for labels in engines:
        world.add(f"{name}_sum", labels, total)
        world.add(f"{name}_count", labels, buckets["+Inf"])
        for bound, value in buckets.items():
            world.add(f"{name}_bucket", {**labels, "le": bound}, value)


def known_world() -> World:
    """Two engines of one SLMDeployment, one that has gone, a pack, strangers, GPUs and gateways."""
    world = World(series={})
    # Two jobs scrape this one, and it restarted half a minute ago.
    first = world.engine("chat-0", jobs=("vllm", "pods"))
    serve(
        world,
        first,
        finished=counter(2.0, reset=-30),
        aborted=counter(0.5, reset=-30),
        running=gauge(4),
        waiting=gauge(1),
    )
    # This one has gone, this one has come: with every quarter of a minute it has one and a half requests more.
    gone = world.engine("chat-1")
    serve(
        world,
        gone,
        finished=counter(5.0, until=-1800),
        aborted=counter(0, until=-1800),
        running=gauge(9, until=-1800),
        waiting=gauge(0, until=-1800),
    )
    new = world.engine("chat-2")
    serve(
        world,
        new,
        finished=counter(1.0, since=-1200),
        aborted=counter(0, since=-1200),
        running=gauge(0, rising=0.1, since=-1200),
        waiting=gauge(2, since=-1200),
    )
    serve(
        world,
        world.engine("chat-1-0"),
        finished=counter(0.25),
        aborted=counter(0),
        running=gauge(1),
        waiting=gauge(0),
    )
    for port in (8000, 8001):
        serve(
            world,
            world.engine("pack-0", port=port),
            finished=counter(1.0),
            aborted=counter(0),
            running=gauge(3),
            waiting=gauge(0),
        )
    for stranger in (world.engine("vllm-7d9f-x2x4z"), world.engine("chat-0", namespace="other")):
        serve(world, stranger, finished=counter(50), aborted=counter(0), running=gauge(70), waiting=gauge(7))

    histogram(
        world,
        "vllm:time_to_first_token_seconds",
        first,
        total=counter(0.4),
        buckets={"0.1": counter(1), "0.5": counter(2), "+Inf": counter(2)},
    )
    histogram(
        world,
        "vllm:time_to_first_token_seconds",
        new,
        total=counter(0.4),
        buckets={"0.1": counter(0), "0.5": counter(1), "+Inf": counter(1)},
    )
    # Of single requests: one engine restarted half a minute ago, one went a minute ago, the new one is too old to tell.
    for engines, since in ((first, {"reset": -30}), (world.engine("chat-3"), {"until": -60})):
        rates = {"0.05": 1.0, "0.1": 1.5, "+Inf": 2.0}
        histogram(
            world,
            "vllm:request_time_per_output_token_seconds",
            engines,
            total=counter(0.1, **since),
            buckets={bound: counter(rate, **since) for bound, rate in rates.items()},
        )
    # The new one is an old version.
    both = {"0.05": counter(10), "0.1": counter(10), "+Inf": counter(10)}
    histogram(world, "vllm:inter_token_latency_seconds", first, total=counter(0.2), buckets=both)
    histogram(world, "vllm:time_per_output_token_seconds", first, total=counter(99), buckets=both)
    histogram(
        world,
        "vllm:time_per_output_token_seconds",
        new,
        total=counter(0.6),
        buckets={"0.05": counter(5), "0.1": counter(10), "+Inf": counter(10)},
    )
    for labels in first:
        world.add("vllm:kv_cache_usage_perc", labels, gauge(0.5))
        world.add("vllm:gpu_cache_usage_perc", labels, gauge(0.9))
    world.add("vllm:gpu_cache_usage_perc", new[0], gauge(0.7))
    for engines, prompts, answers, count in ((first, 250.0, 75.0, 2.5), (new, 450.0, 100.0, 1.0)):
        histogram(
            world, "vllm:request_prompt_tokens", engines, total=counter(prompts), buckets={"+Inf": counter(count)}
        )
        histogram(
            world, "vllm:request_generation_tokens", engines, total=counter(answers), buckets={"+Inf": counter(count)}
        )
        histogram(
            world,
            "vllm:request_queue_time_seconds",
            engines,
            total=counter(count / 10),
            buckets={"+Inf": counter(count)},
        )
        for labels in engines:
            world.add("vllm:prompt_tokens_total", labels, counter(prompts))
            world.add("vllm:generation_tokens_total", labels, counter(answers))
    # Nobody has asked the pack anything of late: a mean of nothing is NaN.
    histogram(
        world,
        "vllm:time_to_first_token_seconds",
        world.engine("pack-0"),
        total=counter(0),
        buckets={"0.1": counter(0), "+Inf": counter(0)},
    )

    _gpus(world)
    _gateways(world)
    return world


def _gpus(world: World) -> None:
    for job in ("dcgm", "gpus"):
        whole = {
            "UUID": "GPU-a",
            "Hostname": "node-a",
            "gpu": "0",
            "job": job,
            "pod": "dcgm-exporter-1",
            "namespace": "gpu",
        }
        mine = {**whole, "exported_pod": "chat-0", "exported_namespace": "team"}
        world.add("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", mine, counter(300_000))
        world.add("DCGM_FI_DEV_POWER_USAGE", mine, gauge(280))
        world.add("DCGM_FI_PROF_GR_ENGINE_ACTIVE", mine, gauge(0.8))
        world.add("DCGM_FI_PROF_DRAM_ACTIVE", mine, gauge(0.4))
        world.add("DCGM_FI_DEV_FB_USED", mine, gauge(1000))
        world.add("DCGM_FI_DEV_XID_ERRORS", mine, lambda at: 79.0 if at >= -30 else 0.0)
    # A minute ago the pods on this GPU changed, and with them the labels: what its counter says of two minutes is too low.
    new = {"UUID": "GPU-c", "Hostname": "node-c", "exported_pod": "new-0", "exported_namespace": "other"}
    world.add("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", new, counter(300_000, since=-60))
    world.add("DCGM_FI_DEV_POWER_USAGE", new, gauge(299, since=-60))
    # MIG, newer names, no energy counter; power is the GPU's and said once for each instance.
    for instance, used in (("1", 2000), ("2", 3000)):
        part = {
            "UUID": "GPU-b",
            "hostname": "node-b",
            "GPU_I_ID": instance,
            "pod": f"mine-{instance}",
            "namespace": "team",
        }
        world.add("DCGM_FI_DEV_BOARD_POWER_WATTS", part, gauge(150))
        world.add("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", part, gauge(0.9))
        world.add("DCGM_FI_DEV_FB_USED", part, gauge(used))
        world.add("DCGM_FI_DEV_XID_ERROR", part, gauge(31))


def _gateways(world: World) -> None:
    for priority, number in (("0", 3), ("1", 2)):
        of = {"namespace": "team", "inference_pool": "chat", "priority": priority, "fairness_id": "x"}
        world.add("llm_d_epp_flow_control_queue_size", of, gauge(number))
        world.add("inference_extension_flow_control_queue_size", of, gauge(number))
    world.add("inference_extension_flow_control_queue_size", {"namespace": "team", "inference_pool": "pack"}, gauge(4))
    world.add(
        "interceptor_request_concurrency", {"route_namespace": "team", "route_name": "chat", "pod": "i-1"}, gauge(6)
    )
    cluster = {"envoy_cluster_name": "httproute/team/chat/rule/0"}
    world.add("envoy_cluster_upstream_cx_none_healthy", {**cluster, "pod": "envoy-1"}, counter(0.1))
    world.add(
        "nginx_ingress_controller_requests",
        {"exported_namespace": "team", "exported_service": "chat", "status": "503"},
        counter(0.2),
    )
    world.add(
        "nginx_ingress_controller_requests",
        {"exported_namespace": "team", "exported_service": "chat", "status": "200"},
        counter(9),
    )
