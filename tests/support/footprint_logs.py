"""vLLM's own start-up logs: what an engine took beside its KV cache, with the settings it ran under.

`tests/data/vllm-footprints.csv` holds every row with the address of its log, `footprint-exclusions.csv` the rows that
say too little, each with the reason. Where a row does not state sequences or batched tokens, vLLM's defaults of that
time stand in, and the row does not count as stated. Where a note says "2000 replicas", the number is that of the
requests: those engines ran alone on 0.9 of the GPU.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from slmpack.domain.engine import EngineVersion
from slmpack.domain.footprint import Serving
from slmpack.domain.model import ModelProfile
from slmpack.domain.quantity import GIB
from tests.support.models import a_model_profile

__all__ = ["KvLog", "Log", "excluded_rows", "read_kv_logs", "read_logs"]

_DATA = Path(__file__).parents[1] / "data"
_V1 = EngineVersion(0, 8)
_EXCERPTS = EngineVersion(0, 7)
"""What an undated excerpt counts as: all of them print the breakdown of the V0 engine."""
_CONFIGS = {
    "llama/llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "opt/opt-1.3b": "facebook/opt-1.3b",
    "opt/opt-2.7b": "facebook/opt-2.7b",
    "opt-125m": "facebook/opt-125m",
    "Qwen2-7B-Instruct": "Qwen/Qwen2-7B-Instruct",
    "unsloth/Llama-3.2-3B-Instruct": "meta-llama/Llama-3.2-3B-Instruct",
    "unsloth/qwen2.5-3b-instruct-unsloth-bnb-4bit": "Qwen/Qwen2.5-3B-Instruct",
    "unsloth/Qwen3-8B-FP8": "Qwen/Qwen3-8B",
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B-Instruct",  # the same sizes
    "Qwen2.5-7B (4-bit, 5.20GiB)": "Qwen/Qwen2.5-7B-Instruct",
}
_MORE_CONFIGS = {
    "meta-llama/Meta-Llama-3-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "train/checkpoints/qwen25-3b-distill-merged": "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen2-0.5B-Instruct": "Qwen/Qwen2.5-0.5B-Instruct",  # the same sizes
    "Qwen/Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-1.7B": "Qwen/Qwen3-1.7B",
    "unsloth/Llama-3.2-1B-Instruct-FP8-Block": "meta-llama/Llama-3.2-1B-Instruct",
    "facebook/opt-125m": "facebook/opt-125m",
}
"""For rows whose KV cache alone is used: its size does not depend on how the weights are stored."""
_BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_QUANTIZED = {
    "unsloth/qwen2.5-3b-instruct-unsloth-bnb-4bit": _BNB,
    "unsloth/Qwen3-8B-FP8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "Qwen2.5-7B (4-bit, 5.20GiB)": _BNB,
}
_SOLVED_TOTAL_GIB = {"dennislee22/vLLM-benchmarking": 79.28}
"""Not logged: (24.83 - 5.01) GiB of KV cache between budgets of 0.25 and 0.5 of the same GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One start of one engine, in GiB."""

    row: int
    """In vllm-footprints.csv, the first after the heading being 1."""
    source: str
    """Repository; for issues and pull requests of vLLM itself the thread."""
    model_id: str
    model: ModelProfile
    serving: Serving
    version: EngineVersion
    stated: bool
    """Whether version, sequences, batched tokens and quantisation are stated."""
    sequences_stated: bool
    started_with: int
    """Engines that started at the same time on the same GPU: the profile of each charges some of the others' memory."""
    non_kv_gib: float
    """The budget (utilisation * total, both logged) less the KV cache."""
    weights_gib: float
    adapters: bool
    """Whether the logged weights hold LoRA buffers of unstated size."""
    activations_gib: float | None
    non_torch_gib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLog:
    """A KV cache whose size and tokens a row logs both."""

    row: int
    source: str
    kv_gib: float
    """With two decimals."""
    tokens: int
    bytes_per_token: int
    """As we compute it."""

    @property
    def exact(self) -> bool:
        """Whether size and tokens agree within the log's rounding and the last block."""
        return abs(self.kv_gib * GIB - self.tokens * self.bytes_per_token) <= 0.00501 * GIB + 16 * self.bytes_per_token


def excluded_rows() -> dict[int, str]:
    """Row number and why it is left out."""
    return {int(line["row"]): line["reason"] for line in _lines("footprint-exclusions.csv")}


def read_logs() -> tuple[Log, ...]:
    """Every row that is not excluded."""
    excluded = excluded_rows()
    numbered = enumerate(_lines("vllm-footprints.csv"), start=1)
    return tuple(_log(number, line) for number, line in numbered if number not in excluded)


def read_kv_logs() -> tuple[KvLog, ...]:
    """Every unsharded row that logs the KV cache in GiB and in tokens, of a model whose config is here."""
    return tuple(
        KvLog(
            row=number,
            source=_source(line["source_url"]),
            kv_gib=float(line["kv_cache_gib"]),
            tokens=int(line["kv_cache_tokens"] or 0) or int(line["num_gpu_blocks"]) * 16,
            bytes_per_token=a_model_profile(_config(line)).kv_elements_per_token * 2,
        )
        for number, line in enumerate(_lines("vllm-footprints.csv"), start=1)
        if line["kv_cache_gib"]
        and (line["kv_cache_tokens"] or int(line["num_gpu_blocks"] or 0))
        and line["tensor_parallel"] in {"", "1"}
        and "sharded" not in line["note"]
        and _config(line)
    )


def _named(line: dict[str, str]) -> str:
    """The model as the log names it, without the folder of an absolute path."""
    model_id = line["model_id"]
    return model_id.rpartition("/")[2] if model_id.startswith("/") else model_id


def _config(line: dict[str, str]) -> str:
    return {**_CONFIGS, **_MORE_CONFIGS}.get(_named(line), "")


def _log(number: int, line: dict[str, str]) -> Log:
    model_id = _named(line)
    model = a_model_profile(
        _CONFIGS.get(model_id, model_id),
        **({"quantization_config": _QUANTIZED[model_id]} if model_id in _QUANTIZED else {}),
    )
    version = _version(line)
    source = _source(line["source_url"])
    serving = _serving(line, version)
    total = float(line["gpu_mem_gib"] or _SOLVED_TOTAL_GIB[source])
    together = re.search(r"; ([24]) replicas started together", line["note"])
    flags = ("vllm_version", "max_num_seqs", "max_num_batched_tokens", "quantization")
    return Log(
        row=number,
        source=source,
        model_id=model_id,
        model=model,
        serving=serving,
        version=version,
        stated=all(line[flag] for flag in flags),
        sequences_stated=bool(line["max_num_seqs"]),
        started_with=int(together[1]) - 1 if together else 0,
        non_kv_gib=float(line["gpu_memory_utilization"]) * total - _kv_gib(line, model),
        weights_gib=float(line["weights_gib"]),
        adapters="LoRA" in line["note"],
        activations_gib=_number(line["activation_peak_gib"]),
        non_torch_gib=_number(line["non_torch_gib"]),
    )


def _serving(line: dict[str, str], version: EngineVersion) -> Serving:
    length = int(line["max_model_len"] or 0)
    tokens = max(2048, length) if version < _V1 else 2048
    return Serving(
        max_model_len=length or 8192,
        max_num_seqs=int(line["max_num_seqs"] or 256),
        max_num_batched_tokens=int(line["max_num_batched_tokens"] or tokens),
        kv_cache_dtype_bytes=2,
        enforce_eager=line["enforce_eager"] == "True",
    )


def _kv_gib(line: dict[str, str], model: ModelProfile) -> float:
    if line["kv_cache_gib"]:
        return float(line["kv_cache_gib"])
    return int(line["num_gpu_blocks"]) * int(line["block_size"]) * model.kv_elements_per_token * 2 / GIB


def _version(line: dict[str, str]) -> EngineVersion:
    """`0.1.dev...` is a build without tags; the note says of which version."""
    text = line["vllm_version"]
    if text.startswith("0.1.dev"):
        text = line["note"].partition("; v")[2]
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return EngineVersion(int(found[1]), int(found[2]), int(found[3])) if found else _EXCERPTS


def _source(url: str) -> str:
    owner, repository, *rest = url.removeprefix("https://github.com/").split("/")
    thread = f"#{rest[1]}" if rest[0] in {"issues", "pull"} else ""
    return f"{owner}/{repository}{thread}"


def _number(text: str) -> float | None:
    return float(text) if text else None


def _lines(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((_DATA / name).read_text(encoding="utf-8").splitlines()))
