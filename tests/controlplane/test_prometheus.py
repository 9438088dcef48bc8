"""Every query against a real Prometheus, which holds series whose rates are known by construction.

Four scrapes 15 s apart lie in a window of a minute. All numbers that are expected here were worked out by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from pathlib import Path

import pytest

from slmpack.adapters.measuring import MetricsSettings
from slmpack.adapters.metric_names import EngineNames, LabelNames, MetricNames
from slmpack.adapters.prometheus import PrometheusClient, PrometheusSettings, Series
from slmpack.adapters.prometheus_loads import PrometheusLoads
from slmpack.adapters.promql import DEPLOYMENT, GATEWAY_QUEUE, EngineQueries, gateway_query, gpu_queries
from slmpack.domain.load import GpuReading, Latencies, LoadSample
from slmpack.domain.snapshot import Key
from slmpack.ports import EnginePod, Watched
from tests.support.fake_clock import FakeClock
from tests.support.known_series import STEP, known_world
from tests.support.prometheus import Prometheus, promtool

CHAT, PACK, NUMBERED, OTHER = Key("team", "chat"), Key("team", "pack"), Key("team", "chat-1"), Key("other", "chat")
OURS = (CHAT, PACK, NUMBERED)


@dataclass(frozen=True)
class Asked:
    """A Prometheus with the world in it."""

    prometheus: Prometheus
    instant: float

    async def ask(self, query: str) -> tuple[Series, ...]:
        client = PrometheusClient(PrometheusSettings(url=self.prometheus.url, timeout_s=30), FakeClock())
        return await client.ask(query, at=self.instant)

    async def of(self, query: str, key: Key) -> float | None:
        found = [
            it.value
            for it in await self.ask(query)
            if (it.labels["namespace"], it.labels[DEPLOYMENT]) == (key.namespace, key.name)
        ]
        assert len(found) <= 1, query
        return found[0] if found else None


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with Prometheus.start() as prometheus:
        (now,) = prometheus.query("vector(time())")
        instant = int(float(now["value"][1])) // 60 * 60
        prometheus.kill()
        text = tmp_path_factory.mktemp("series") / "world.txt"
        known_world().write(text, instant=instant)
        made = promtool("tsdb", "create-blocks-from", "openmetrics", str(text), str(prometheus.folder / "data"))
        assert made.returncode == 0, made.stderr
        prometheus.resume()
        yield Asked(prometheus, float(instant))


QUERIES = EngineQueries(names=MetricNames(), deployments=OURS)
CHAT_IS = {
    "arrivals": 2.5 + 1.0 + 0.1,
    "arrivals_now": 3.6,
    "arrivals_peak": 3.6,
    "arrivals_high": 7.5,
    "completions": 3.5,
    "input_tokens": (250 + 450) / 3.5,
    "output_tokens": (75 + 100) / 3.5,
    "prompt_rate": 700.0,
    "generation_rate": 175.0,
    # Three requests a second: one under 0.1 s, all under 0.5 s. Rank 2.85 is 1.85 of the second bucket's 2.
    "ttft": 0.1 + 0.4 * 1.85 / 2,
    "itl": (0.2 + 0.6) / 20,
    # 20 a second: 15 under 0.05 s. Rank 19 is 4 of the second bucket's 5.
    "itl_p95": 0.05 + 0.05 * 4 / 5,
    "queue": 0.1,
}


@pytest.mark.parametrize("query", CHAT_IS)
async def test_a_window_says_what_was_worked_out_by_hand(asked: Asked, query: str) -> None:
    assert await asked.of(getattr(QUERIES, query)(), CHAT) == pytest.approx(CHAT_IS[query], rel=1e-6)


async def test_the_mean_of_an_hour_counts_pods_that_have_gone_and_come(asked: Asked) -> None:
    # Half an hour of 7.5 a second, ten minutes of 2.5, twenty of 3.6; the seams are one minute wide.
    by_hand = (1800 * 7.5 + 600 * 2.5 + 1200 * 3.6) / 3600
    assert await asked.of(QUERIES.arrivals_mean(), CHAT) == pytest.approx(by_hand, rel=0.02)


async def _by_bound(asked: Asked, query: str, key: Key) -> dict[str, float]:
    return {
        it.labels["le"]: it.value
        for it in await asked.ask(query)
        if (it.labels["namespace"], it.labels[DEPLOYMENT]) == (key.namespace, key.name)
    }


async def test_single_requests_are_those_of_two_minutes(asked: Asked) -> None:
    # One and two a second, and none and one: an engine that two jobs scrape counts once.
    assert await _by_bound(asked, QUERIES.ttft_buckets(), CHAT) == pytest.approx({"0.1": 120, "0.5": 360, "+Inf": 360})
    # One restarted within the window. The other's last scrape is a minute old: Prometheus has 45 s of it, and takes it to
    # have been there for the 15 s before them too, and for half of a step after.
    seconds = 120 + (15 + 45 + 7.5)
    expected = {"0.05": 1.0 * seconds, "0.1": 1.5 * seconds, "+Inf": 2.0 * seconds}
    assert await _by_bound(asked, QUERIES.tpot_buckets(), CHAT) == pytest.approx(expected)
    assert await _by_bound(asked, QUERIES.tpot_buckets(), PACK) == {}
    assert await _by_bound(asked, QUERIES.ttft_buckets(), PACK) == {"0.1": 0, "+Inf": 0}


async def test_a_name_that_ends_in_a_number_is_another_deployment(asked: Asked) -> None:
    assert await asked.of(QUERIES.completions(), NUMBERED) == pytest.approx(0.25)


async def test_an_engine_that_two_jobs_scrape_is_one(asked: Asked) -> None:
    found = {
        it.labels["instance"]: it.value for it in await asked.ask(QUERIES.running()) if it.labels["namespace"] == "team"
    }
    assert found == {
        "chat-0.ip:8000": 4.0,
        "chat-2.ip:8000": pytest.approx(120.0),
        "chat-1-0.ip:8000": 1.0,
        "pack-0.ip:8000": 3.0,
        "pack-0.ip:8001": 3.0,
    }


async def test_engines_of_one_pod_are_told_apart(asked: Asked) -> None:
    assert await asked.of(QUERIES.completions(), PACK) == pytest.approx(2.0)


async def test_the_newer_name_counts_where_a_version_has_both(asked: Asked) -> None:
    found = {it.labels["pod"]: it.value for it in await asked.ask(QUERIES.kv_usage())}
    assert found == {"chat-0": 0.5, "chat-2": 0.7}


async def test_nothing_in_a_histogram_is_not_a_number(asked: Asked) -> None:
    value = await asked.of(QUERIES.ttft(), PACK)
    assert value is not None
    assert value != value  # noqa: PLR0124 - NaN


async def test_other_namespaces_are_not_mixed_in(asked: Asked) -> None:
    both = replace(QUERIES, deployments=(CHAT, OTHER))
    assert await asked.of(both.completions(), CHAT) == pytest.approx(3.5)
    assert await asked.of(both.completions(), OTHER) == pytest.approx(50)


async def test_a_label_that_was_copied_to_series_names_the_deployment(asked: Asked) -> None:
    # `model_name` stands for it: here it has the same value everywhere, as if all pods were of one SLMDeployment.
    copied = MetricNames(labels=LabelNames(deployment="model_name"))
    of_all = EngineQueries(names=copied, deployments=(Key("team", "m"),))
    assert await asked.of(of_all.completions(), Key("team", "m")) == pytest.approx(3.5 + 0.25 + 2.0 + 50)
    assert await asked.of(of_all.ttft(), Key("team", "m")) == pytest.approx(CHAT_IS["ttft"])


async def test_the_time_of_a_scrape_is_told(asked: Asked) -> None:
    times = {it.labels["pod"]: it.value for it in await asked.ask(QUERIES.fresh())}
    assert times.pop("chat-0") == asked.instant
    assert "chat-1" not in times
    assert set(times.values()) == {asked.instant}


async def test_gpus(asked: Asked) -> None:
    found: dict[str, dict[str, float]] = {}
    for name, text in gpu_queries(MetricNames()).items():
        for it in await asked.ask(text):
            found.setdefault(f"{it.labels['UUID']} {name}", {})[
                "/".join(filter(None, (it.labels.get("exported_pod", ""), it.labels.get("GPU_I_ID", ""))))
            ] = it.value
    assert found == {
        "GPU-a seen": {"": asked.instant},
        "GPU-a energy_w": {"": pytest.approx(300)},
        "GPU-a power_w": {"": 280},
        "GPU-a gr_engine_active": {"": pytest.approx(0.8)},
        "GPU-a dram_active": {"": pytest.approx(0.4)},
        "GPU-a fb_used": {"chat-0": 1000 * 2**20},
        "GPU-a xid": {"": 79},
        "GPU-a pods": {"chat-0": 1},
        "GPU-b seen": {"": asked.instant},
        "GPU-b power_w": {"": 150},
        "GPU-b fb_used": {"1": 2000 * 2**20, "2": 3000 * 2**20},
        "GPU-b pods": {"": 1},
        "GPU-c seen": {"": asked.instant},
        "GPU-c power_w": {"": 299},
        "GPU-c pods": {"new-0": 1},
    }


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (GATEWAY_QUEUE, {"chat": 5, "pack": 4}),
        ('sum(interceptor_request_concurrency{route_namespace="$namespace",route_name="$name"})', {"chat": 6}),
        (
            'sum(increase(envoy_cluster_upstream_cx_none_healthy{envoy_cluster_name=~"httproute/$namespace/$name/.+"}[1m]))',
            {"chat": 6},
        ),
        (
            'sum(increase(nginx_ingress_controller_requests{exported_namespace="$namespace",exported_service="$name",status="503"}[1m]))',
            {"chat": 12},
        ),
    ],
    ids=["inference extension", "KEDA HTTP add-on", "Envoy", "ingress-nginx"],
)
async def test_requests_that_wait_at_a_gateway(asked: Asked, template: str, expected: dict[str, float]) -> None:
    assert template in DOCUMENTED
    found = await asked.ask(gateway_query(template, OURS))
    assert {it.labels[DEPLOYMENT]: it.value for it in found} == pytest.approx(expected)
    assert {it.labels["namespace"] for it in found} == {"team"}


def _pod(name: str, *, engines: int = 1, ready: int = 1) -> EnginePod:
    deployment = Key("team", name.rpartition("-")[0])
    return EnginePod(
        key=Key("team", name),
        uid=name,
        deployment=deployment,
        address="",
        ports=tuple(range(8000, 8000 + engines)),
        engines=engines,
        ready=ready,
        ready_since=FakeClock().now() - timedelta(hours=1),
    )


def _watched(*pods: EnginePod) -> Watched:
    return Watched(
        deployments=frozenset(OURS),
        scaled=frozenset(OURS),
        pods=pods,
        gpu_users=frozenset({Key("team", "chat-0"), Key("team", "mine-1")}),
    )


ALL = (_pod("chat-0"), _pod("chat-2"), _pod("chat-1-0"), _pod("pack-0", engines=2, ready=2))


def _source(
    prometheus: Prometheus, *, names: MetricNames | None = None, timeout: float = 10
) -> tuple[PrometheusLoads, FakeClock]:
    clock = FakeClock()
    client = PrometheusClient(PrometheusSettings(url=prometheus.url, timeout_s=timeout), clock)
    settings = MetricsSettings()
    source = PrometheusLoads(
        client,
        names=names or MetricNames(),
        clock=clock,
        gateway=settings.gateway_query,
        max_age=settings.max_age,
        deadline=timedelta(seconds=3 * timeout),
    )
    return source, clock


async def test_a_whole_round(asked: Asked) -> None:
    """By a clock of ours that is years from Prometheus': no age is judged by it."""
    source, clock = _source(asked.prometheus)
    reading = await source.read(_watched(*ALL))
    assert reading.trouble == ""
    chat = reading.loads[CHAT]
    assert timedelta(0) <= clock.now() - chat.at <= timedelta(seconds=STEP + 1)
    assert (chat.reporting, chat.trouble) == (2, ())
    _has(
        chat, waiting=3.0, kv_usage=0.7, gateway_waiting=5, arrivals_s=3.6, arrivals_peak_s=3.6, ttft_s=CHAT_IS["ttft"]
    )
    assert chat.ttft_of is not None
    assert chat.tpot_of is not None
    assert dict(chat.ttft_of.at_most) == pytest.approx({0.1: 120, 0.5: 360, inf: 360})
    # How much is left in the window of the engine that went depends on when this runs.
    assert 240 <= round(chat.tpot_of.requests, 3) <= 375
    parts = {bound: requests / chat.tpot_of.requests for bound, requests in chat.tpot_of.at_most}
    assert parts == pytest.approx({0.05: 0.5, 0.1: 0.75, inf: 1})
    pack = reading.loads[PACK]
    assert (pack.ttft_of, pack.tpot_of) == (Latencies(at_most=((0.1, 0.0), (inf, 0.0))), None)
    assert (pack.reporting, pack.running, pack.ttft_s, pack.gateway_waiting) == (2, 6.0, None, 4.0)
    lacking = "prompt_tok_s, generation_tok_s, input_tokens, output_tokens, itl_s, itl_p95_s, queue_s"
    assert pack.trouble == (
        "kv_usage: not every replica tells it",
        f"{lacking}: no such series, or not two scrapes of it within 60 s",
    )
    gpus = {it.uuid: it for it in reading.gpus}
    assert (gpus["GPU-a"].node, gpus["GPU-a"].pods) == ("node-a", ("team/chat-0",))
    _has(gpus["GPU-a"], power_w=300, gr_engine_active=0.8, dram_active=0.4, fb_used_bytes=1000 * 2**20)
    assert (gpus["GPU-b"].node, gpus["GPU-b"].pods) == ("node-b", ("team/mine-1",))
    _has(gpus["GPU-b"], power_w=150, gr_engine_active=None, fb_used_bytes=5000 * 2**20, xid=None)


def _has(found: LoadSample | GpuReading, **expected: float | None) -> None:
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)


async def test_a_replica_that_is_not_scraped_makes_the_sum_unknown(asked: Asked) -> None:
    source, _ = _source(asked.prometheus)
    reading = await source.read(_watched(*ALL, _pod("chat-7")))
    chat = reading.loads[CHAT]
    assert chat == LoadSample(
        at=chat.at,
        reporting=2,
        gateway_waiting=5.0,
        trouble=("2 of 3 Ready replicas report: no fresh scrape of chat-7",),
    )


async def test_without_replicas_the_gateway_is_all_there_is(asked: Asked) -> None:
    source, clock = _source(asked.prometheus)
    reading = await source.read(_watched())
    # Others' series of that name are still there: pods that have gone a moment ago.
    assert (reading.loads[CHAT].reporting, reading.loads[CHAT].running, reading.loads[CHAT].gateway_waiting) == (
        0,
        0.0,
        5.0,
    )
    assert reading.loads[NUMBERED].trouble == (
        "gateway_waiting: nothing runs, and no gateway tells of requests that wait",
    )
    assert reading.loads[NUMBERED].at == clock.now()


async def test_names_that_nobody_exposes_are_told(asked: Asked) -> None:
    source, _ = _source(asked.prometheus, names=MetricNames(engine=EngineNames(running=("sglang:running",))))
    reading = await source.read(_watched(*ALL))
    assert reading.loads[CHAT].trouble == ("0 of 2 Ready replicas report: no fresh scrape of chat-0, chat-2",)


async def test_a_prometheus_that_dies_hangs_and_comes_back() -> None:
    with Prometheus.start() as prometheus:
        source, clock = _source(prometheus, timeout=3)
        assert (await source.read(_watched(*ALL))).loads[CHAT].trouble[0].startswith("0 of 2 Ready replicas report")
        prometheus.pause()
        assert "did not answer within 3 s" in (await source.read(_watched(*ALL))).trouble
        prometheus.kill()
        for _ in range(3):
            clock.advance(60)
            assert "does not answer: " in (await source.read(_watched(*ALL))).trouble
        prometheus.resume()
        assert "does not answer: " in (await source.read(_watched(*ALL))).trouble, "it is left alone for a while"
        clock.advance(60)
        assert (await source.read(_watched(*ALL))).trouble == ""
