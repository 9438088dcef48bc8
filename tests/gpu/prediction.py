"""What `slmpack predict` says of a case, by its command line: it needs the project's own environment, not the GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.gpu.outcome import gpu_slug

__all__ = ["Predict", "predict_case", "predict_words"]

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
KEPT = ("throughput_tok_s", "itl_ms", "ttft_ms", "power_w")
TIME_S = 60
NOT_FEASIBLE = 2


class Predict(Protocol):
    """`predict_case`: a prediction's figures, or {"error": why}."""

    def __call__(self, case: Mapping[str, Any], load: Mapping[str, Any], /, *, gpu: str, version: str) -> Json: ...


def predict_case(case: Mapping[str, Any], load: Mapping[str, Any], *, gpu: str, version: str) -> Json:
    """Run the command; `case` and `load` as they stand in a results file."""
    command = [sys.executable, "-m", "slmpack", "predict", *predict_words(case, load, gpu=gpu, version=version)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, timeout=TIME_S, check=False, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    if done.returncode not in {0, NOT_FEASIBLE}:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    answer = json.loads(done.stdout)
    return {**{key: answer[key] for key in KEPT}, "engine_version": answer["engine_version"]}


def predict_words(case: Mapping[str, Any], load: Mapping[str, Any], *, gpu: str, version: str) -> list[str]:
    """The command's arguments: no MPS is time slicing, and nobody beside a single engine."""
    replicas, sequences = case["replicas"], -(-load["in_flight"] // case["replicas"])
    plain = "timeslice" if replicas > 1 else "none"
    words = {
        "--gpu": _product(gpu),
        "--sharing": "mps" if case["mps"] else plain,
        "--replicas": replicas,
        "--in-flight": load["in_flight"],
        "--input-len": load["input"],
        "--output-len": load["output"],
        "--max-model-len": load["input"] + load["output"] + 64,
        "--max-num-seqs": sequences,
    }
    if case["sm_percent"] is not None:
        words["--sm-percent"] = case["sm_percent"]
    if found := re.match(r"\d+\.\d+\.\d+", version):
        words["--engine-version"] = found[0]
    return [load["model"], *(str(part) for pair in words.items() for part in pair), "--output", "json"]


def _product(name: str) -> str:
    """A GPU's NVML name as the label nvidia.com/gpu.product has it."""
    return (
        name.replace(" ", "-") if gpu_slug(name).startswith(("nvidia", "tesla")) else f"NVIDIA-{name.replace(' ', '-')}"
    )
