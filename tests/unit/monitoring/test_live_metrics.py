"""What the stand-ins expose is what vLLM and dcgm-exporter expose, and Prometheus' parser reads it."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slmpack.adapters.metric_names import MetricNames
from slmpack.simulate.readings import ITL_BUCKETS, QUEUE_BUCKETS, TTFT_BUCKETS
from tests.support.live_metrics import (
    SAMPLE,
    EngineFigures,
    GpuFigures,
    Histogram,
    MetricsServer,
    expose_engine,
    expose_gpus,
    token_buckets,
    vllm_buckets,
)

TTFT = "vllm:time_to_first_token_seconds"
ENGINE = EngineFigures(
    model="tiny",
    started=1.7952260064521503e09,
    max_model_len=1024,
    kv_tokens=1_048_576,
    running=3,
    waiting=2,
    kv_usage=0.25,
    completions=7,
    preemptions=1,
    prompt_tokens=700,
    generation_tokens=900,
    histograms={TTFT: Histogram(counts=(0, 0, 4, *(0,) * 19, 3), total=2000.5)},
)
GPU = GpuFigures(
    node="n1",
    index=0,
    uuid="GPU-a",
    product="NVIDIA H100 80GB HBM3",
    power_w=300.5,
    energy_j=12.5,
    busy=0.5,
    used_mib=1024,
    total_mib=81559,
    pods=(("ml", "chat-0", "engine"), ("ml", "code-0", "engine")),
)


def _shape(text: str) -> list[str]:
    """Comments as they are, of series all but the value."""
    return [line if line.startswith("#") else line.rpartition(" ")[0] for line in text.splitlines()]


def _values(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def _without_sizes(lines: list[str]) -> list[str]:
    return [re.sub(r'(block_size|num_gpu_blocks)="\d+"', r'\1="N"', line) for line in lines]


def test_an_engine_says_every_line_that_a_real_one_says() -> None:
    sample = SAMPLE.read_text().split("\n", 1)[1]
    assert _without_sizes(_shape(expose_engine(ENGINE))) == _without_sizes(_shape(sample))


def test_an_engine_says_our_figures_and_nothing_of_the_sample() -> None:
    values = _values(expose_engine(replace(ENGINE, model="chat")))
    ours = {
        name: value for name, value in values.items() if name.startswith("vllm:") and value and "_created" not in name
    }
    of = "engine=0,model_name=chat"
    assert {name: value for name, value in ours.items() if "_bucket" not in name and "cache_config" not in name} == {
        f"vllm:num_requests_running{{{of}}}": 3,
        f"vllm:num_requests_waiting{{{of}}}": 2,
        f"vllm:num_requests_waiting_by_reason{{{of},reason=capacity}}": 2,
        f"vllm:engine_sleep_state{{{of},sleep_state=awake}}": 1,
        f"vllm:kv_cache_usage_perc{{{of}}}": 0.25,
        f"vllm:prefix_cache_queries_total{{{of}}}": 700,
        f"vllm:num_preemptions_total{{{of}}}": 1,
        f"vllm:prompt_tokens_total{{{of}}}": 700,
        f"vllm:prompt_tokens_by_source_total{{{of},source=local_compute}}": 700,
        f"vllm:generation_tokens_total{{{of}}}": 900,
        "vllm:request_success_total{engine=0,finished_reason=stop,model_name=chat}": 7,
        f"{TTFT}_count{{{of}}}": 7,
        f"{TTFT}_sum{{{of}}}": 2000.5,
    }
    buckets = [value for name, value in ours.items() if name.startswith(f"{TTFT}_bucket")]
    assert buckets == [4] * 20 + [7], "cumulative; the first two are zero"


def test_a_histogram_in_other_buckets_is_refused() -> None:
    wrong = replace(ENGINE, histograms={TTFT: Histogram(counts=(1, 2), total=3)})
    with pytest.raises(ValueError, match="2 counts for 23 buckets"):
        expose_engine(wrong)


def test_the_simulator_counts_in_vllms_buckets() -> None:
    assert vllm_buckets(TTFT) == TTFT_BUCKETS
    assert vllm_buckets("vllm:inter_token_latency_seconds") == ITL_BUCKETS
    assert vllm_buckets("vllm:request_time_per_output_token_seconds") == ITL_BUCKETS
    assert vllm_buckets("vllm:request_queue_time_seconds") == QUEUE_BUCKETS
    assert token_buckets(1024) == vllm_buckets("vllm:request_prompt_tokens")


def test_the_operator_finds_every_name_it_asks_for() -> None:
    engine, gpus = expose_engine(ENGINE), expose_gpus([GPU])
    for text, names in ((engine, MetricNames().engine), (gpus, MetricNames().gpu)):
        missing = [field for field, known in names if not any(f"# TYPE {name} " in text for name in known)]
        assert missing == []


def test_a_shared_gpu_is_repeated_for_each_pod_or_names_one() -> None:
    both = _values(expose_gpus([GPU]))
    device = "gpu=0,UUID=GPU-a,pci_bus_id=00000000:1B:00.0,device=nvidia0,modelName=NVIDIA H100 80GB HBM3,Hostname=n1"
    device += ",DCGM_FI_DRIVER_VERSION=580.95.05"
    power = {name: value for name, value in both.items() if name.startswith("DCGM_FI_DEV_POWER_USAGE")}
    assert power == {
        f"DCGM_FI_DEV_POWER_USAGE{{{device},container=engine,namespace=ml,pod=chat-0,vgpu=0}}": 300.5,
        f"DCGM_FI_DEV_POWER_USAGE{{{device},container=engine,namespace=ml,pod=code-0,vgpu=1}}": 300.5,
    }
    one = _values(expose_gpus([GPU], virtual=False))
    assert (
        one[f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION_total{{{device},container=engine,namespace=ml,pod=code-0}}"] == 12500
    )
    assert len(one) == len(both) / 2
    nobody = _values(expose_gpus([replace(GPU, pods=())]))
    assert nobody[f"DCGM_FI_DEV_FB_FREE{{{device}}}"] == 81559 - 1024


def test_pages_and_targets_are_served() -> None:
    with MetricsServer() as server:
        server.show({"/a": "up 1\n"}, targets={"engines": {"/a": {"pod": "a"}, "/b": {}}})
        with urllib.request.urlopen(f"http://{server.address}/a", timeout=5) as response:
            assert response.read() == b"up 1\n"
        with urllib.request.urlopen(f"http://{server.address}/targets/engines", timeout=5) as response:
            assert response.headers["Content-Type"] == "application/json"
            assert json.loads(response.read()) == [
                {"targets": [server.address], "labels": {"__metrics_path__": "/a", "pod": "a"}},
                {"targets": [server.address], "labels": {"__metrics_path__": "/b"}},
            ]
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            urllib.request.urlopen(f"http://{server.address}/b", timeout=5)
        caught.value.close()
