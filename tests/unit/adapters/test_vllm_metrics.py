"""vLLM's metrics: the names of a real server, and the older ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slmpack.adapters.vllm_metrics import NAMES, read_exposition
from slmpack.domain.profile_faults import EngineSample
from slmpack.ports import Unavailable
from tests.support.fake_vllm import FakeVllm

REAL = (Path(__file__).parents[2] / "data" / "vllm-metrics-0.32.prom").read_text(encoding="utf-8")


def test_a_real_server_s_exposition() -> None:
    found = read_exposition(REAL)
    assert found.kv_cache_tokens == 8192 * 128
    assert found.prefix_queries == 19
    assert found.started_at == pytest.approx(1.79522585897e9)
    for name in NAMES:
        assert getattr(found, name) is not None, name


def test_the_fake_server_has_the_real_one_s_series_and_labels() -> None:
    """What the sweep's tests rely on."""

    def series(text: str) -> dict[str, set[str]]:
        found = re.findall(r"^([a-z_:]+)(?:\{(.*)\})? \S+$", text, flags=re.MULTILINE)
        return {name: set(re.findall(r'([a-z_]+)="', labels)) for name, labels in found}

    real, fake = series(REAL), series(FakeVllm().exposition())
    assert set(fake) <= set(real)
    assert {name for name, labels in fake.items() if not labels <= real[name]} == set()
    assert read_exposition(FakeVllm(kv_tokens=1600).exposition()).kv_cache_tokens == 1600


def test_names_of_older_versions() -> None:
    text = """
vllm:gpu_cache_usage_perc{engine="0"} 0.5
vllm:gpu_prefix_cache_queries_total{engine="0"} 8
vllm:gpu_prefix_cache_hits_total{engine="0"} 2
vllm:time_per_output_token_seconds_sum{engine="0"} 3
vllm:time_per_output_token_seconds_count{engine="0"} 4
"""
    assert read_exposition(text) == EngineSample(
        kv_usage=0.5, prefix_queries=8, prefix_hits=2, itl_sum_s=3, itl_count=4
    )


def test_a_version_with_both_names_is_read_by_the_newer() -> None:
    text = 'vllm:gpu_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="0"} 0.6\n'
    assert read_exposition(text).kv_usage == 0.6


def test_engines_of_one_server_add_up() -> None:
    text = """
vllm:num_requests_running{engine="0"} 3
vllm:num_requests_running{engine="1"} 4
vllm:kv_cache_usage_perc{engine="0"} 0.2
vllm:kv_cache_usage_perc{engine="1"} 0.7
vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="10"} 1
vllm:cache_config_info{engine="1",kv_cache_size_tokens="200",block_size="16",num_gpu_blocks="10"} 1
"""
    assert read_exposition(text) == EngineSample(running=7, kv_usage=0.7, kv_cache_tokens=360)


@pytest.mark.parametrize(
    "labels",
    [
        'block_size="16"',
        'block_size="None",num_gpu_blocks="8"',
        'x="1"',
        'block_size="16",num_gpu_blocks="0"',
        'kv_cache_size_tokens="0"',
        pytest.param(f'block_size="16",num_gpu_blocks="{"9" * 5000}"', id="a number of 5000 digits"),
    ],
)
def test_a_kv_cache_of_unknown_size(labels: str) -> None:
    assert read_exposition(f"vllm:cache_config_info{{{labels}}} 1\n").kv_cache_tokens is None


def test_a_page_without_metrics_says_nothing() -> None:
    assert read_exposition("<html>not here</html>") == EngineSample()


def test_a_malformed_line_is_an_answer_that_cannot_be_used() -> None:
    with pytest.raises(Unavailable, match="no Prometheus text"):
        read_exposition('vllm:num_requests_running{engine="0"} many\n')


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "1e300", "9" * 400])
def test_a_figure_that_no_engine_has_is_none(value: str) -> None:
    text = f'vllm:num_requests_running{{engine="0"}} {value}\nvllm:num_requests_running{{engine="1"}} 3\n'
    assert read_exposition(text + "vllm:num_requests_waiting 2\n") == EngineSample(waiting=2)
