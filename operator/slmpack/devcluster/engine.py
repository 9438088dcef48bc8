"""The stand-in vLLM: from a container's arguments, environment and device it decides whether the engine comes up.

It fails in vLLM's own words. What a model needs comes from `logged_runs.yaml`; the order of the checks is that of
vLLM's V1 worker: context, free memory against utilisation, weights and profiling, KV cache, CUDA graphs. A model
without a row fails, unless its pod says what the weights take (annotation `devcluster.slmpack.dev/weights-gib`) or
which row stands for it (`devcluster.slmpack.dev/model`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from slmpack.devcluster.flags import CommandLine, UsageError, parse_command_line

__all__ = ["PREFIX", "Container", "Device", "EngineFailureError", "Residency", "engine_command", "start_engine"]

Json = dict[str, Any]
PREFIX = "devcluster.slmpack.dev/"
_GIB = 2**30
# Without --gpu-memory-utilization: 0.90 up to 0.15.1, 0.92 seen in 0.20.2; the releases between were not read.
_UTILISATION = 0.92
_OLD_UTILISATION = 0.90
_OLD_UTILISATION_UP_TO = (0, 15)
_GRAPHS_IN_BUDGET_SINCE = (0, 21)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_ASSUMED_KV_BYTES_PER_TOKEN = 131072


class EngineFailureError(Exception):
    """The engine ended: exit code, and the log's last lines."""

    def __init__(self, text: str, *, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What the CUDA driver shows this process: bytes in total, free now, and the MPS limit, if there is one.

    `takes_clients` is False where the MPS server serves as many processes as it can.
    """

    total_bytes: int
    free_bytes: int
    context_bytes: int
    limit_bytes: int | None = None
    count: int = 1
    product: str = ""
    takes_clients: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The parts of a pod that an engine sees."""

    image: str
    arguments: list[str]
    environment: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """A started engine: device memory it holds, its port, and its log."""

    resident_bytes: int
    port: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    weights: int
    activation: int
    other: int
    graphs: int
    kv_bytes_per_token: int
    max_model_len: int

    @property
    def fixed(self) -> int:
        return self.weights + self.activation + self.other


@cache
def _runs() -> Json:
    text = resources.files(__package__).joinpath("logged_runs.yaml").read_text(encoding="utf-8")
    runs: Json = yaml.safe_load(text)
    return runs


def engine_command(container: Json) -> list[str] | None:
    """What follows `vllm serve` in a pod's container; None if the container is no vLLM server."""
    words = [str(word) for word in [*(container.get("command") or []), *(container.get("args") or [])]]
    for start in (["vllm", "serve"], ["python3", "-m", "vllm.entrypoints.openai.api_server"]):
        for at in range(len(words)):
            if words[at : at + len(start)] == start:
                return words[at + len(start) :]
    return words if "vllm" in container.get("image", "") and not container.get("command") else None


def _version(image: str) -> tuple[int, int]:
    found = re.search(r":v?(\d+)\.(\d+)", image)
    return (int(found[1]), int(found[2])) if found else (0, 33)


def _whole_number(line: CommandLine, name: str, missing: int) -> int:
    text = line.text(name)
    if text is None:
        return missing
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG]?)", text)
    if found is None:
        raise EngineFailureError(str(UsageError(f"argument --{name}: invalid int value: {text!r}")), code=2)
    return int(float(found[1]) * _UNITS[found[2]])


def _utilisation(line: CommandLine, version: tuple[int, int]) -> float:
    text = line.text("gpu-memory-utilization")
    if text is None:
        return _OLD_UTILISATION if version <= _OLD_UTILISATION_UP_TO else _UTILISATION
    try:
        value = float(text)
    except ValueError:
        usage = UsageError(f"argument --gpu-memory-utilization: invalid float value: {text!r}")
        raise EngineFailureError(str(usage), code=2) from None
    if not 0 < value <= 1:
        raise EngineFailureError(f"ValueError: gpu_memory_utilization must be in (0, 1]. Got {value}.")
    return value


def _row(line: CommandLine, container: Container) -> Json:
    name = container.annotations.get(PREFIX + "model", line.model or "")
    row: Json | None = _runs()["models"].get(name)
    weights = container.annotations.get(PREFIX + "weights-gib")
    if weights is not None:
        usual = {"kv_bytes_per_token": _ASSUMED_KV_BYTES_PER_TOKEN, "vocabulary": 128256, "max_model_len": 8192}
        return usual | (row or {}) | {"weights_gib": float(weights)}
    if row is None or line.text("quantization") is not None:
        how = f" with --quantization {line.text('quantization')}" if row else ""
        raise EngineFailureError(
            f"stand-in engine: no logged run for model {name!r}{how}; "
            f"use one of {', '.join(sorted(_runs()['models']))}, or annotate the pod with {PREFIX}weights-gib"
        )
    return row


def _need(line: CommandLine, container: Container, device: Device) -> _Need:
    runs, row = _runs(), _row(line, container)
    is_large = device.total_bytes >= 70 * _GIB and "A100" not in device.product
    sequences = _whole_number(line, "max-num-seqs", 1024 if is_large else 256)
    peak = runs["activation"]
    logits = peak["gib"] * sequences * row["vocabulary"] / (peak["sequences"] * peak["vocabulary"])
    per_token = int(row["kv_bytes_per_token"])
    eager = line.given("enforce-eager")
    return _Need(
        weights=int(row["weights_gib"] * _GIB),
        activation=int(max(peak["at_least_gib"], logits) * _GIB),
        other=int(runs["non_torch_gib"] * _GIB),
        graphs=0 if eager else int(float(row.get("graph_gib") or runs["graph_gib"]) * _GIB),
        kv_bytes_per_token=per_token // 2 if (line.text("kv-cache-dtype") or "").startswith("fp8") else per_token,
        max_model_len=_whole_number(line, "max-model-len", int(row["max_model_len"])),
    )


def _gib(value: float) -> str:
    return f"{value / _GIB:.2f}"


def _out_of_memory(wanted: int, device: Device, bound: int) -> EngineFailureError:
    free = max(0, bound - wanted)
    return EngineFailureError(
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {_gib(wanted)} GiB. GPU 0 has a total capacity "
        f"of {_gib(device.total_bytes)} GiB of which {_gib(free)} GiB is free. "
        "If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
        f"fragmentation. (stand-in: this process may hold {_gib(bound)} GiB here)"
    )


def _check_free(utilisation: float, device: Device, bound: int) -> int:
    requested = math.ceil(device.total_bytes * utilisation)
    free = bound - device.context_bytes
    if free < requested:
        raise EngineFailureError(
            f"ValueError: Free memory on device cuda:0 ({_gib(free)}/{_gib(device.total_bytes)} GiB) on startup is "
            f"less than desired GPU memory utilization ({utilisation}, {_gib(requested)} GiB). Decrease GPU memory "
            "utilization or reduce GPU memory used by other processes."
        )
    return requested


def _check_cache(available: int, need: _Need) -> None:
    if available <= 0:
        raise EngineFailureError(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine."
        )
    needed = need.max_model_len * need.kv_bytes_per_token
    if needed > available:
        fits = available // need.kv_bytes_per_token // 16 * 16
        raise EngineFailureError(
            f"ValueError: To serve at least one request with the models's max seq len ({need.max_model_len}), "
            f"({_gib(needed)} GiB KV cache is needed, which is larger than the available KV cache memory "
            f"({_gib(available)} GiB). Based on the available memory, the estimated maximum model length is {fits}. "
            "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        )


def _parse(container: Container) -> CommandLine:
    try:
        line = parse_command_line(container.arguments)
    except UsageError as error:
        raise EngineFailureError(str(error), code=2) from None
    if line.model is None:
        text = "stand-in engine: no model in the arguments; vLLM would quietly serve its default, Qwen/Qwen3-0.6B"
        raise EngineFailureError(text, code=2)
    return line


def _own_limit(environment: Mapping[str, str]) -> int | None:
    """CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=8192M" in bytes, for the one device an engine sees."""
    text = environment.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
    if text is None:
        return None
    found = re.fullmatch(r"0=(\d+)([KMG]?)", text)
    if found is None:
        shown = f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT={text!r} is not of the form 0=<number>M"
        raise EngineFailureError(f"RuntimeError: CUDA error: MPS client failed to connect to the MPS server ({shown})")
    return int(found[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[found[2]]


def start_engine(container: Container, device: Device | None) -> Residency:
    """Bring an engine up on a device, or fail as vLLM would (EngineFailureError)."""
    line = _parse(container)
    if device is None:
        raise EngineFailureError(
            "RuntimeError: Failed to infer device type, please set the environment variable "
            "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue."
        )
    world = _whole_number(line, "tensor-parallel-size", 1) * _whole_number(line, "pipeline-parallel-size", 1)
    if world > device.count:
        text = f"World size ({world}) is larger than the number of available GPUs ({device.count}) in this node."
        raise EngineFailureError(f"ValueError: {text}")
    if not device.takes_clients:
        text = "the hardware resources required to support MPS client have been exhausted"
        raise EngineFailureError(f"RuntimeError: CUDA error: {text}")
    version, bound = _version(container.image), min(device.free_bytes, device.total_bytes)
    if device.limit_bytes is not None:
        bound = min(bound, device.limit_bytes, _own_limit(container.environment) or device.limit_bytes)
    need = _need(line, container, device)
    requested = _check_free(_utilisation(line, version), device, bound)
    if device.context_bytes + need.fixed > bound:
        raise _out_of_memory(need.fixed, device, bound)
    in_budget = need.graphs if version >= _GRAPHS_IN_BUDGET_SINCE else 0
    cache_bytes = _whole_number(line, "kv-cache-memory-bytes", requested - need.fixed - in_budget)
    _check_cache(cache_bytes, need)
    resident = device.context_bytes + need.fixed + need.graphs + cache_bytes
    if resident > bound:
        raise _out_of_memory(cache_bytes, device, bound)
    log = (
        f"INFO [model_runner.py] Model loading took {_gib(need.weights)} GiB memory\n"
        f"INFO [kv_cache_utils.py] GPU KV cache size: {cache_bytes // need.kv_bytes_per_token:,} tokens\n"
        f"INFO [gpu_model_runner.py] Graph capturing finished, took {_gib(need.graphs)} GiB\n"
        "INFO:     Application startup complete.\n"
    )
    return Residency(resident_bytes=resident, port=_whole_number(line, "port", 8000), log=log)
