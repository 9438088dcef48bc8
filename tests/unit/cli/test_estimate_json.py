"""The JSON of `estimate` and `predict`: its keys are those that docs/estimate-json.md documents, in its order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slmpack.domain.knee import Binding
from tests.support.cli import slmpack

DOCS = Path(__file__).parents[3] / "docs/estimate-json.md"
FIGURE = {"value", "low", "high", "basis"}
QWEN = "Qwen/Qwen2.5-0.5B-Instruct"


def sections() -> dict[str, list[str]]:
    """The documented keys, by the heading above them."""
    parts = re.split(r"^## `slmpack ([^`]+)`$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    rows = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
    return {name: rows.findall(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def paths(value: object, path: str = "") -> Iterator[str]:
    """Every key with its way from the top; a figure counts as one."""
    if isinstance(value, dict) and set(value) != FIGURE:
        for key, child in value.items():
            here = f"{path}.{key}" if path else key
            here += "[]" if isinstance(child, list) else ""
            yield here
            yield from paths(child, here)
    elif isinstance(value, list):
        for child in value:
            yield from paths(child, path)


def answer(*args: str, code: int = 0) -> dict[str, Any]:
    result = slmpack(*args, "-o", "json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def figures(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if set(value) == FIGURE:
            yield value
        for child in value.values():
            yield from figures(child)
    elif isinstance(value, list):
        for child in value:
            yield from figures(child)


@pytest.mark.parametrize(
    ("section", "args"),
    [
        ("estimate", ("estimate", QWEN, "--gpu", "h100-sxm5-80gb", "--sharing", "mps")),
        ("estimate --all-gpus", ("estimate", QWEN, "--all-gpus")),
        ("predict", ("predict", QWEN, "--gpu", "l4", "--batch", "16")),
    ],
)
def test_the_documentation_names_every_key_in_order(section: str, args: tuple[str, ...]) -> None:
    assert list(dict.fromkeys(paths(answer(*args)))) == sections()[section]


def test_keys_stay_where_nothing_fits_or_nothing_can_be_said() -> None:
    top = [key for key in sections()["estimate"] if "." not in key]
    for args, code in ((("--gpu", "l4", "--sharing", "mps", "--replicas", "40"), 2), (("--gpu", "t4"), 0)):
        found = answer("estimate", QWEN, *args, code=code)
        assert [f"{key}[]" if isinstance(value, list) else key for key, value in found.items()] == top
        assert found["knee"] is found["runner_up"] is found["prediction"] is found["replicas_per_gpu"] is None
        assert len(found["reasons"]) == 1


def test_every_binding_clause_is_documented() -> None:
    row = next(line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `knee.binding`"))
    assert set(re.findall(r"`([A-Z][A-Za-z]+)`", row)) == {binding.value for binding in Binding}


@pytest.mark.parametrize(
    "args",
    [
        ("estimate", QWEN, "--gpu", "h100-sxm5-80gb", "--in-flight", "300"),
        ("estimate", QWEN, "--all-gpus"),
        ("predict", QWEN, "--gpu", "l4", "--sharing", "timeslice", "--replicas", "3", "--in-flight", "30"),
    ],
)
def test_every_figure_lies_in_its_interval_and_says_its_basis(args: tuple[str, ...]) -> None:
    found = list(figures(answer(*args)))
    assert len(found) > 7
    for figure in found:
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["basis"] in {"measured", "calibrated", "modelled", "assumed"}


@pytest.mark.parametrize(
    "args",
    [
        ("--gpu", "l4"),
        ("--gpu", "l4", "--engine-version", "0.11.0"),
        ("--gpu", "h100-sxm5-80gb", "--sharing", "mps", "--replicas", "4"),
        ("--gpu", "a100-sxm4-40gb", "--mig-profile", "1g.5gb"),
        ("--gpu", "l4", "--gpu-memory-utilization", "0.7", "--max-num-seqs", "32", "--enforce-eager"),
    ],
)
def test_the_memory_adds_up_and_stays_inside_the_share(args: tuple[str, ...]) -> None:
    found = answer("estimate", QWEN, *args)
    graphs = found["cuda_graph_bytes"] if found["cuda_graphs_inside_budget"] else 0
    terms = ("weights_bytes", "activation_peak_bytes", "non_torch_bytes", "margin_bytes", "kv_cache_bytes")
    inside = sum(found[term] for term in terms) + graphs
    assert 0 <= found["requested_bytes"] - inside < 16 * found["kv_bytes_per_token"]
    assert found["kv_cache_bytes"] == found["kv_cache_tokens"] * found["kv_bytes_per_token"]
    assert found["outside_budget_bytes"] == found["context_bytes"] + found["cuda_graph_bytes"] - graphs
    assert found["requested_bytes"] + found["outside_budget_bytes"] <= found["share_limit_bytes"]
    assert found["needed_bytes"] <= found["share_limit_bytes"]
    between = found["interval"]
    assert between["low"] <= between["expected"] <= between["high"]
    assert between["expected"] == inside - found["kv_cache_bytes"] - found["margin_bytes"]


def test_the_flags_are_what_was_asked_and_what_was_chosen() -> None:
    given = ("--dtype", "half", "--kv-cache-dtype", "fp8", "--enforce-eager", "--max-model-len", "2048")
    found = answer("estimate", QWEN, "--gpu", "l4", "--sharing", "mps", "--replicas", "2", "--batch", "8", *given)
    assert found["engine_flags"] == {
        "--gpu-memory-utilization": pytest.approx(found["requested_bytes"] / 23_659_020_288, abs=1e-6),
        "--kv-cache-memory-bytes": found["kv_cache_bytes"],
        "--max-model-len": 2048,
        "--max-num-seqs": found["engine_flags"]["--max-num-seqs"],
        "--max-num-batched-tokens": 2048,
        "--dtype": "half",
        "--kv-cache-dtype": "fp8",
        "--enforce-eager": None,
    }
    assert found["cuda_graph_bytes"] == 0
    alone = answer("estimate", QWEN, "--gpu", "l4", "--sharing", "none")
    assert "--kv-cache-memory-bytes" not in alone["engine_flags"], "vLLM measures better than we estimate"


def test_time_slicing_has_no_limit_and_mps_is_not_verified() -> None:
    sliced = answer("estimate", QWEN, "--gpu", "l4", "--sharing", "timeslice", "--replicas", "2")
    assert sliced["share_limit_bytes"] is None
    assert sliced["share_limit_held"] == "time-slicing bounds nothing"
    shared = answer("estimate", QWEN, "--gpu", "l4", "--sharing", "mps", "--replicas", "2")
    assert "not verified" in shared["share_limit_held"]
    assert shared["share_limit_bytes"] < 23_659_020_288 // 2


def test_an_assumed_load_is_called_so() -> None:
    assumed = answer("estimate", QWEN, "--gpu", "l4")
    assert assumed["workload"]["basis"] == "assumed"
    assert "Nobody said how much load there is" in assumed["reasons"][0]
    given = answer("estimate", QWEN, "--gpu", "l4", "--in-flight", "40", "--input-len", "100", "--output-len", "50")
    assert given["workload"] == {
        "in_flight": 40.0,
        "request_rate": None,
        "input_tokens": 100,
        "output_tokens": 50,
        "prefix_hit_rate": 0.0,
        "basis": "given",
    }
