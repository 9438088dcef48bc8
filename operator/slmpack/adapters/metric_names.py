"""What vLLM, dcgm-exporter and Prometheus call things: every metric and label name, each of them configurable.

vLLM's names were read on a running 0.32; of each pair the older one is gone since 0.12 (gpu_cache_usage_perc) or 0.15
(time_per_output_token_seconds). request_time_per_output_token_seconds is another thing: a request counts once in it,
not each of its tokens. By the title of vLLM's pull request it came with inter_token_latency_seconds, which 0.10.2 has;
it was read on 0.32 only. dcgm-exporter's are those of its default list of counters; DCGM 4.6 renames its fields and
keeps the old names as aliases, so either may be in a user's list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

__all__ = ["EngineNames", "GpuNames", "LabelNames", "MetricNames", "load_metric_names"]

LARGEST_BYTES = 64 * 1024
METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def _metric(text: str) -> str:
    if not METRIC.fullmatch(text):
        raise ValueError(f"{text!r} is no metric name: letters, digits, _ and : only, no digit first")
    return text


def _label(text: str) -> str:
    if not LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is no label name: letters, digits and _ only, no digit first")
    return text


def _as_list(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple) and value:
        return value
    raise ValueError("give a name, or a list of names")


Metric = Annotated[str, AfterValidator(_metric)]
Metrics = Annotated[tuple[Metric, ...], BeforeValidator(_as_list)]
"""Newest first: of an engine or a GPU that has several, the first counts."""
Label = Annotated[str, AfterValidator(_label)]
Labels = Annotated[tuple[Label, ...], BeforeValidator(_as_list)]
"""The first that a series carries counts."""


class _Names(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineNames(_Names):
    """vLLM's. Histograms are named without _bucket, _sum and _count."""

    running: Metrics = ("vllm:num_requests_running",)
    waiting: Metrics = ("vllm:num_requests_waiting",)
    finished: Metrics = ("vllm:request_success_total",)
    kv_usage: Metrics = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
    prompt_tokens: Metrics = ("vllm:prompt_tokens_total",)
    generation_tokens: Metrics = ("vllm:generation_tokens_total",)
    request_prompt_tokens: Metrics = ("vllm:request_prompt_tokens",)
    request_generation_tokens: Metrics = ("vllm:request_generation_tokens",)
    ttft: Metrics = ("vllm:time_to_first_token_seconds",)
    itl: Metrics = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
    tpot: Metrics = ("vllm:request_time_per_output_token_seconds",)
    """Of a request the mean over its further tokens, told when it ends; not before about 0.10.2."""
    queue_time: Metrics = ("vllm:request_queue_time_seconds",)


class GpuNames(_Names):
    """dcgm-exporter's."""

    energy: Metrics = ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",)
    """Millijoules, a counter."""
    power: Metrics = ("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE")
    gr_engine_active: Metrics = ("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", "DCGM_FI_PROF_GR_ENGINE_ACTIVE")
    dram_active: Metrics = ("DCGM_FI_PROF_DRAM_UTIL_RATIO", "DCGM_FI_PROF_DRAM_ACTIVE")
    fb_used: Metrics = ("DCGM_FI_DEV_FB_USED",)
    """Mebibytes."""
    xid: Metrics = ("DCGM_FI_DEV_XID_ERROR", "DCGM_FI_DEV_XID_ERRORS")


class LabelNames(_Names):
    """Prometheus' labels of what it scrapes, and dcgm-exporter's own."""

    namespace: Label = "namespace"
    pod: Label = "pod"
    instance: Label = "instance"
    """Address and port: what tells the engines of one pack apart."""
    engine: Label = "engine"
    """vLLM's index of an engine within one server."""
    finished_reason: Label = "finished_reason"
    deployment: Label | None = None
    """Where Prometheus copies the pod label slmpack.dev/name to; None: it does not, and the pod's name tells."""
    gpu_uuid: Label = "UUID"
    gpu_instance: Label = "GPU_I_ID"
    gpu_node: Labels = ("Hostname", "hostname", "node")
    gpu_pod: Labels = ("exported_pod", "pod")
    """The pod that uses the GPU; with honorLabels false Prometheus renames it."""
    gpu_namespace: Labels = ("exported_namespace", "namespace")


class MetricNames(_Names):
    """All of them."""

    engine: EngineNames = EngineNames()
    gpu: GpuNames = GpuNames()
    labels: LabelNames = LabelNames()


GROUPS: Mapping[str, type[_Names]] = {"engine": EngineNames, "gpu": GpuNames, "labels": LabelNames}


def load_metric_names(path: str | Path) -> MetricNames:
    """The defaults, with what a YAML file says instead. ValueError says which key is wrong and what would work."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
        if len(raw) > LARGEST_BYTES:
            raise ValueError(f"{path}: longer than {LARGEST_BYTES} bytes; a file of metric names is not")
        content = yaml.safe_load(raw)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return MetricNames()
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not a type of ours
            f"{path}: must be a mapping with the keys {', '.join(MetricNames.model_fields)}"
        )
    try:
        return MetricNames.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_told(error))}") from error


def _told(error: ValidationError) -> list[str]:
    return [_one(tuple(str(part) for part in it["loc"]), it["type"], it["msg"]) for it in error.errors()]


def _one(where: tuple[str, ...], kind: str, message: str) -> str:
    if kind != "extra_forbidden":
        return f"{'.'.join(where)}: {message.removeprefix('Value error, ')}"
    group = GROUPS.get(where[0]) if len(where) > 1 else None
    known = ", ".join((group or MetricNames).model_fields)
    return f"{'.'.join(where)}: there is no such key; {f'{where[0]} has' if group else 'there are'} {known}"
