"""vLLM's metrics: their names by version, and the figures that we read from an exposition of them.

The first name of each figure was read on a running vLLM 0.32. Where a name changed, both are listed, the newer first:
gpu_cache_usage_perc is gone since 0.12, time_per_output_token_seconds since 0.15. gpu_prefix_cache_* was not seen on a
server: it is what the first V1 engines are remembered to have written.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from slmpack.domain.profile_faults import EngineSample
from slmpack.ports import Unavailable

__all__ = ["NAMES", "read_exposition"]

NAMES: Mapping[str, tuple[str, ...]] = {
    "started_at": ("process_start_time_seconds",),
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "preemptions": ("vllm:num_preemptions_total",),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "generated_tokens": ("vllm:generation_tokens_total",),
    "itl_sum_s": ("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
    "itl_count": ("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
}
"""By field of EngineSample: the names of its series, the newest first."""
CACHE_CONFIG = "vllm:cache_config_info"
WANTED = (CACHE_CONFIG, *(name for names in NAMES.values() for name in names))
HIGHEST = frozenset({"kv_usage", "started_at"})
"""Not summed over the engines of one server (data parallelism)."""
LARGEST = 1e15
"""No figure of an engine is as large; a larger one, a negative one and NaN are as good as none."""
MOST_DIGITS = 12
"""Of a size that is believed."""


def read_exposition(text: str) -> EngineSample:
    """The figures in a Prometheus text exposition; those that it does not have are None.

    Only our lines are parsed: the whole text would hold up a client that times tokens meanwhile. Raises Unavailable if
    one of them is malformed.
    """
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(WANTED))
    series: dict[str, list[Sample]] = {}
    try:
        for family in text_string_to_metric_families(lines):
            for sample in family.samples:
                series.setdefault(sample.name, []).append(sample)
    except ValueError as error:
        raise Unavailable(f"/metrics is no Prometheus text: {error}") from error
    found: dict[str, float] = {}
    for field, names in NAMES.items():
        samples = next((series[name] for name in names if name in series), [])
        values = [sample.value for sample in samples]
        if values and all(0 <= value < LARGEST for value in values):
            found[field] = max(values) if field in HIGHEST else sum(values)
    return EngineSample(**found, kv_cache_tokens=_kv_cache_tokens(series.get(CACHE_CONFIG, [])))


def _kv_cache_tokens(samples: list[Sample]) -> int | None:
    """Tokens of the KV caches of all engines, as newer versions say them, else blocks times block size."""
    sizes = [_size(sample.labels) for sample in samples]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _size(labels: Mapping[str, str]) -> int | None:
    blocks, block = _number(labels.get("num_gpu_blocks", "")), _number(labels.get("block_size", ""))
    return _number(labels.get("kv_cache_size_tokens", "")) or blocks * block or None


def _number(text: str) -> int:
    """0 for what is no size."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else 0
