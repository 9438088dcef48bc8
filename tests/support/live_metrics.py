"""What vLLM and dcgm-exporter expose, word for word, with figures of our own in it; and an HTTP server for it.

vLLM's text is that of a running 0.32.0 (tests/data/vllm-metrics-0.32-whole.prom): every family, label and bucket. Families
that a reading says nothing of stay at zero. dcgm-exporter's names, types and labels are those of its default list of
counters (etc/default-counters.csv, DCGM 4) as far as they concern power, energy, use, memory and errors.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.components import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "EngineFigures",
    "GpuFigures",
    "Histogram",
    "MetricsServer",
    "expose_engine",
    "expose_gpus",
    "token_buckets",
    "vllm_buckets",
]

SAMPLE = Path(__file__).parents[1] / "data" / "vllm-metrics-0.32-whole.prom"
SERIES = re.compile(r"^(?P<name>[\w:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Observations since the engine began."""

    counts: Sequence[float]
    """In each bucket, not below it; the last one is +Inf."""
    total: float
    """Their sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
    """One engine at one time."""

    model: str
    """`model_name`: what it serves."""
    started: float
    """Seconds since the epoch."""
    max_model_len: int
    kv_tokens: int
    running: float
    waiting: float
    kv_usage: float
    completions: float
    """Requests that ended by a stop."""
    preemptions: float
    prompt_tokens: float
    generation_tokens: float
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """By family, such as vllm:time_to_first_token_seconds, in its own buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    """One GPU at one time, as dcgm-exporter on its node sees it."""

    node: str
    index: int
    uuid: str
    product: str
    power_w: float
    energy_j: float
    """Since the driver was loaded."""
    busy: float
    """Part of the time with a kernel, 0 to 1."""
    used_mib: float
    total_mib: float
    xid: int = 0
    pods: tuple[tuple[str, str, str], ...] = ()
    """namespace, pod and container of those with a share of it."""


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    kind: str
    comments: tuple[str, str]
    series: tuple[tuple[str, Mapping[str, str], str], ...]
    """Name, labels and value of each line."""


@cache
def _families() -> tuple[_Family, ...]:
    found: list[_Family] = []
    helps = ""
    series: list[tuple[str, Mapping[str, str], str]] = []
    for line in SAMPLE.read_text().splitlines()[1:]:
        if line.startswith("# HELP "):
            helps = line
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            series = []
            found.append(_Family(name, kind, (helps, line), ()))
        else:
            match = SERIES.match(line)
            assert match is not None, line
            series.append((match["name"], dict(LABEL.findall(match["labels"] or "")), match["value"]))
            last = found[-1]
            found[-1] = _Family(last.name, last.kind, last.comments, tuple(series))
    return tuple(found)


def vllm_buckets(family: str) -> tuple[float, ...]:
    """The upper bounds of one of vLLM's histograms, without +Inf."""
    (found,) = [it for it in _families() if it.name == family]
    bounds = [float(labels["le"]) for name, labels, _ in found.series if name.endswith("_bucket")]
    return tuple(bounds[:-1])


def token_buckets(max_model_len: int) -> tuple[float, ...]:
    """vLLM's buckets of token counts: 1, 2, 5 and so on in each decade, as far as the model reaches."""
    bounds = [float(digit * 10**power) for power in range(9) for digit in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= max_model_len)


TOKEN_FAMILIES = (
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_max_num_generation_tokens",
)
BY_LABEL = {
    ("vllm:num_requests_waiting_by_reason", "capacity"): "waiting",
    ("vllm:request_success_total", "stop"): "completions",
    ("vllm:prompt_tokens_by_source_total", "local_compute"): "prompt_tokens",
}
PLAIN = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:prefix_cache_queries_total": "prompt_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:num_preemptions_total": "preemptions",
}
KEPT = ("python_", "process_", "vllm:cache_config_info", "vllm:engine_sleep_state")
"""Of the sample's own values."""


def expose_engine(figures: EngineFigures) -> str:
    """The text of an engine's /metrics."""
    lines: list[str] = []
    for family in _families():
        lines += family.comments
        if family.kind == "histogram" and family.name.startswith("vllm:"):
            lines += _histogram(family, figures)
        else:
            lines += [_line(name, *_filled(name, labels, value, figures)) for name, labels, value in family.series]
    return "\n".join(lines) + "\n"


def _filled(
    name: str, labels: Mapping[str, str], value: str, figures: EngineFigures
) -> tuple[Mapping[str, str], float | str]:
    named = _named(labels, figures)
    if name == "process_start_time_seconds" or name.endswith("_created"):
        return named, figures.started
    if name == "vllm:cache_config_info":
        blocks = {"num_gpu_blocks": str(figures.kv_tokens // 16), "block_size": "16"}
        return named | blocks | {"kv_cache_size_tokens": str(figures.kv_tokens)}, value
    if name in PLAIN:
        return named, getattr(figures, PLAIN[name])
    for (other, label), attribute in BY_LABEL.items():
        if name == other and label in labels.values():
            return named, getattr(figures, attribute)
    return named, value if name.startswith(KEPT) else 0.0


def _named(labels: Mapping[str, str], figures: EngineFigures) -> dict[str, str]:
    return {key: figures.model if key == "model_name" else value for key, value in labels.items()}


def _histogram(family: _Family, figures: EngineFigures) -> list[str]:
    is_tokens = family.name in TOKEN_FAMILIES
    bounds = token_buckets(figures.max_model_len) if is_tokens else vllm_buckets(family.name)
    found = figures.histograms.get(family.name, Histogram(counts=(0.0,) * (len(bounds) + 1), total=0.0))
    if len(found.counts) != len(bounds) + 1:
        raise ValueError(f"{family.name}: {len(found.counts)} counts for {len(bounds) + 1} buckets")
    labels = next(_named(labels, figures) for name, labels, _ in family.series if name.endswith("_count"))
    lines, below = [], 0.0
    for bound, count in zip([*(str(bound) for bound in bounds), "+Inf"], found.counts, strict=True):
        below += count
        lines.append(_line(f"{family.name}_bucket", dict(sorted((labels | {"le": bound}).items())), below))
    return [*lines, _line(f"{family.name}_count", labels, below), _line(f"{family.name}_sum", labels, found.total)]


def _line(name: str, labels: Mapping[str, str], value: float | str) -> str:
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    shown = value if isinstance(value, str) else repr(float(value))
    return f"{name}{{{inside}}} {shown}" if inside else f"{name} {shown}"


@dataclass(frozen=True, slots=True)
class _Counter:
    """A line of dcgm-exporter's list of counters."""

    name: str
    kind: str
    help: str
    value: Callable[[GpuFigures], float]


DCGM = (
    _Counter("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", lambda it: it.power_w),
    _Counter(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Total energy consumption since boot (in mJ).",
        lambda it: round(it.energy_j * 1000),
    ),
    _Counter("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", lambda it: round(100 * it.busy)),
    _Counter("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.", lambda it: it.xid),
    _Counter(
        "DCGM_FI_DEV_FB_FREE",
        "gauge",
        "Framebuffer memory free (in MiB).",
        lambda it: round(it.total_mib - it.used_mib),
    ),
    _Counter("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", lambda it: round(it.used_mib)),
    _Counter(
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Ratio of time the graphics engine is active.", lambda it: it.busy
    ),
    _Counter(
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "gauge",
        "Ratio of cycles the device memory interface is active sending or receiving data.",
        lambda it: it.busy / 2,
    ),
)
"""Half of the time for DRAM is a stand-in's guess: no test may rest on it."""


def expose_gpus(gpus: Iterable[GpuFigures], *, virtual: bool = True) -> str:
    """The text of a dcgm-exporter's /metrics.

    `virtual` is KUBERNETES_VIRTUAL_GPUS: a shared device is repeated for each of its pods; without it, one is named.
    """
    seen = tuple(gpus)
    lines: list[str] = []
    for counter in DCGM:
        name = counter.name
        lines += [f"# HELP {name} {counter.help}", f"# TYPE {name} {counter.kind}"]
        lines += [
            _line(name, labels, float(counter.value(gpu)))
            for gpu in seen
            for labels in _gpu_labels(gpu, virtual=virtual)
        ]
    return "\n".join(lines) + "\n"


def _gpu_labels(gpu: GpuFigures, *, virtual: bool) -> list[dict[str, str]]:
    device = {
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": f"00000000:{0x1B + gpu.index:02X}:00.0",
        "device": f"nvidia{gpu.index}",
        "modelName": gpu.product,
        "Hostname": gpu.node,
        "DCGM_FI_DRIVER_VERSION": "580.95.05",
    }
    users = [
        device | {"container": container, "namespace": namespace, "pod": pod} for namespace, pod, container in gpu.pods
    ]
    if not users:
        return [device]
    return [user | {"vgpu": str(number)} for number, user in enumerate(users)] if virtual else users[-1:]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.pages: Mapping[str, bytes] = {}
        super().__init__((LOOPBACK, 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to tell when the one who asks is killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        self.send_response(503 if page is None else 200)
        is_page = not self.path.startswith("/targets/")
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8" if is_page else "application/json")
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *_: object) -> None:
        pass


class MetricsServer:
    """Pages by path on a loopback port, and the targets that Prometheus' HTTP discovery asks for."""

    def __init__(self) -> None:
        self._server = _Server()
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self._server.server_port}"

    def show(self, pages: Mapping[str, str], *, targets: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
        """Replace everything: texts by path; by job and path the labels of a target. One without a text fails."""
        found = {path: text.encode() for path, text in pages.items()}
        for job, paths in targets.items():
            listed = [
                {"targets": [self.address], "labels": {"__metrics_path__": path, **labels}}
                for path, labels in paths.items()
            ]
            found[f"/targets/{job}"] = json.dumps(listed).encode()
        self._server.pages = found

    def scrape(self, job: str) -> dict[str, Any]:
        """The scrape_config of a job; the pages' own labels are kept, as the example in monitoring/ has it."""
        discovery = {"url": f"http://{self.address}/targets/{job}", "refresh_interval": "1s"}
        return {"job_name": job, "honor_labels": True, "http_sd_configs": [discovery]}
