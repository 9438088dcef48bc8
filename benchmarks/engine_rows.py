"""Public measurements of one vLLM engine on one GPU, as questions to the performance model.

`data/calibration.csv.gz` holds 1,354 rows collected from public sources, each with its address, 68 more of
aiconfigurator's silicon samples and 10 windows of two LLMServingSim runs. `data/iteration-time-exclusions.csv` lists
what is left out of the fit and of the bars, with the reason; it was written before anything was fitted.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.gpu import DenseTflops, GpuModel
from slmpack.domain.model import parse_model_config
from slmpack.domain.model_profile import ModelProfile
from slmpack.domain.prediction import Sharing, Site, Tenant

__all__ = [
    "H100_64",
    "EngineRow",
    "a_tenant",
    "calibration_rows",
    "engine_rows",
    "model",
    "pool_tokens",
    "power_rows",
    "site",
]

DATA = Path(__file__).parent / "data"
Raw = dict[str, str]

H100_64 = GpuModel(
    id="h100-64gb",  # MareNostrum 5 only, so not in the catalogue; 4096 bit * 1593 MHz * 2 / 8 (nvidia-smi of its logs)
    product_labels=(),
    compute_capability="9.0",
    memory_total_mib=65247,
    memory_usable_mib=None,
    bandwidth_gb_s=1631.0,
    tdp_w=700,
    sm_count=132,
    mig_profiles=(),
    mps_max_clients=48,
    dense_tflops=DenseTflops(bf16=989, fp16=989, fp8=1979),
)
_GPUS = (
    ("H100 64GB", "h100-64gb"),
    ("A100 (ANL)", "a100-sxm4-40gb"),
    ("A100-40GB", "a100-sxm4-40gb"),
    ("A100-80GB", "a100-sxm4-80gb"),
    ("NVIDIA A100-SXM4-40GB", "a100-sxm4-40gb"),
    ("NVIDIA H100 80GB", "h100-sxm5-80gb"),
    ("B200", "b200-180gb"),
    ("H100 80GB", "h100-sxm5-80gb"),
    ("GH200", "gh200-96gb"),
    ("A40", "a40"),
    ("RTX 4090", "rtx-4090"),
    ("RTX PRO 6000", "rtx-pro-6000-blackwell-server"),
)
_SOURCES = (
    ("vLLMBatchingMemoryGap", "MemoryGap", "V0"),
    ("Qwen2.5/blob", "Qwen2.5 docs", "V0"),
    ("LLM-Inference-Bench", "LLM-Inference-Bench", "V0"),
    ("leaderboard/blob", "ML.ENERGY v3", "V1"),
    ("dynamo", "Dynamo", "V1 async"),
    ("IsseiHasegawa", "Issei A40", "V1 async"),
    ("LLMServingSim", "LLMServingSim", "V1 async"),
    ("leaderboard-v2", "ML.ENERGY v2", "V0"),
)
_POWER_ONLY = re.compile(r"leaderboard-v2|leaderboard/blob")
"""Sources whose rows are good for power, which needs no model of time, where they are left out of the fit of times."""
_SERVED_INPUT = 250
"""Prompt tokens of ML.ENERGY v3's tasks, which its files do not state: assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """One measured point."""

    source: str
    generation: str
    chunked: bool | None
    """None: as the generation has it."""
    curve: str
    """Rows of one curve differ in their batch only."""
    tenant: Tenant
    gpu: GpuModel
    per_request: bool
    """The measured time per token spreads the prompt over the answer: requests in flight over throughput."""
    itl_s: float
    throughput_tok_s: float
    ttft_s: float | None
    power_w: float | None


def calibration_rows() -> list[Raw]:
    """Every carried row, as it was collected."""
    with gzip.open(DATA / "calibration.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def engine_rows() -> tuple[list[EngineRow], Counter[str]]:
    """The rows that count, and how many each exclusion took."""
    with (DATA / "iteration-time-exclusions.csv").open(encoding="utf-8") as file:
        rules = list(csv.DictReader(file))
    kept: list[EngineRow] = []
    taken: Counter[str] = Counter()
    for raw in calibration_rows():
        reason = next((rule["reason"] for rule in rules if _excluded(raw, rule)), None)
        if reason is None:
            kept.append(_row(raw))
        else:
            taken[reason] += 1
    return kept, taken


def power_rows() -> list[EngineRow]:
    """Rows with measured power: those that count, and those left out of the fit of times but sound for power."""
    left_out = [raw for raw in calibration_rows() if _POWER_ONLY.search(raw["source_url"]) and raw["model"] in _CONFIGS]
    seconds = [_row(raw) for raw in left_out if raw["power_w"]]
    first = [row for row in engine_rows()[0] if row.power_w is not None and row.source != "ML.ENERGY v3"]
    return [*first, *seconds]


def model(name: str) -> ModelProfile:
    """A profile from `data/models.json`."""
    found = parse_model_config(_CONFIGS[name])
    assert isinstance(found, ModelProfile), found
    return found


def site(gpu: GpuModel, sharing: Sharing = Sharing.NONE, sm_percent: int | None = None) -> Site:
    return Site(gpu=gpu, sharing=sharing, sm_percent=sm_percent)


def pool_tokens(profile: ModelProfile, gpu: GpuModel, utilisation: float = 0.9) -> int:
    """KV pool by the rule of thumb: the engine's budget less the weights and 1.5 GiB."""
    free = gpu.cuda_total_mib * 2**20 * utilisation - profile.weight_bytes - 1.5 * 2**30
    return max(1, int(free / profile.cache_bytes_per_token(2)))


def a_tenant(profile: ModelProfile, gpu: GpuModel, *, in_flight: float, lengths: tuple[int, int]) -> Tenant:
    large = gpu.memory_total_mib > 70 * 1024 and not gpu.id.startswith("a100")
    return Tenant(
        model=profile,
        in_flight=in_flight,
        kv_cache_tokens=pool_tokens(profile, gpu),
        max_num_seqs=4096,
        max_num_batched_tokens=8192 if large else 2048,
        kv_element_bytes=2,
        enforce_eager=False,
        cpu_cores=8.0,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        prefix_hit_rate=0.0,
    )


def _excluded(raw: Raw, rule: Raw) -> bool:
    if rule["dtype_or_note"] == "kv_limited":
        return rule["source"] in raw["source_url"] and _kv_limited(raw)
    columns = {
        "source": raw["source_url"],
        "gpu": raw["gpu"],
        "model": raw["model"],
        "engine": raw["framework_version"],
        "sharing": raw["sharing"],
        "dtype_or_note": raw["dtype"] + " " + raw["note"],
    }
    return all(re.search(re.escape(rule[key]) if key == "source" else rule[key], text) for key, text in columns.items())


def _kv_limited(raw: Raw) -> bool:
    """More tokens at the end of the batch than the pool of the GPU holds."""
    end = int(raw["input_len"]) + int(raw["output_len"])
    return float(raw["batch_or_concurrency"]) * end > pool_tokens(model(raw["model"]), _gpu(raw["gpu"]))


def _row(raw: Raw) -> EngineRow:
    source, generation = next((name, era) for part, name, era in _SOURCES if part in raw["source_url"])
    gpu, profile, note = _gpu(raw["gpu"]), model(raw["model"]), raw["note"]
    throughput = float(raw["throughput_tok_s"])
    itl = float(raw["latency_ms_per_token"]) / 1000
    lengths = _lengths(raw)
    tenant = a_tenant(profile, gpu, in_flight=_in_flight(raw, throughput=throughput, itl=itl), lengths=lengths)
    if "decode-only" in note:
        tenant = replace(tenant, prefix_hit_rate=1.0)
    if source == "MemoryGap":
        tenant = replace(tenant, max_num_batched_tokens=512 if "chunked" in note else 2048)
    if source == "LLM-Inference-Bench":
        throughput /= 2  # the source counts prompt and answer, which are equally long
    ttft = re.search(r"TTFT (?:p50 )?([0-9.]+) ms", note)
    served = source.startswith("ML.ENERGY")  # its ITL is a median: the mean is requests in flight over throughput
    return EngineRow(
        source=source,
        generation=generation,
        chunked=True if "chunked" in note else None,
        curve="|".join((source, raw["model"], gpu.id, _series(raw))),
        tenant=tenant,
        gpu=gpu,
        per_request=served or source in {"LLM-Inference-Bench", "Qwen2.5 docs"},
        itl_s=tenant.in_flight / throughput if served else itl,
        throughput_tok_s=throughput,
        ttft_s=float(ttft[1]) / 1000 if ttft else None,
        power_w=float(raw["power_w"]) if raw["power_w"] else None,
    )


def _gpu(text: str) -> GpuModel:
    identity = next((name for part, name in _GPUS if text.startswith(part)), text)
    if identity == H100_64.id:
        return H100_64
    found = load_gpu_catalogue().by_id(identity)
    assert found is not None, text
    return found


def _lengths(raw: Raw) -> tuple[int, int]:
    if raw["input_len"] == "ShareGPT":
        return 233, 192  # the same source's served rows
    if not raw["input_len"]:
        return _SERVED_INPUT, int(raw["output_len"])
    return int(raw["input_len"]), int(raw["output_len"])


def _in_flight(raw: Raw, *, throughput: float, itl: float) -> float:
    """Sequences in the engine: as stated, as logged, or by Little's law where the load is open."""
    if "open-loop" in raw["batch_or_concurrency"]:
        return max(1.0, throughput * itl)
    logged = re.search(r"avg running batch ([0-9.]+)", raw["note"])
    return float(logged[1]) if logged else float(raw["batch_or_concurrency"])


def _series(raw: Raw) -> str:
    """What else tells curves of one source apart."""
    path = re.search(r"path=[^;]*/definitive_results/([^;]*)/", raw["note"])
    task = re.search(r"task [^;]*", raw["note"])
    if path or task:
        return path[1] if path else str(task and task[0])
    return f"{raw['input_len']}+{raw['output_len']} {raw['note'][:8]}"


with (DATA / "models.json").open(encoding="utf-8") as _file:
    _CONFIGS: dict[str, dict[str, object]] = json.load(_file)
