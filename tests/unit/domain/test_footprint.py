from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.adapters.tables import load_engine_table
from slmpack.domain.engine import EngineRuntime, EngineVersion
from slmpack.domain.footprint import Footprint, Serving, estimate_footprint, explain
from slmpack.domain.quantity import GIB
from tests.support.models import MODEL_CHECKS, a_model_profile

LOGS = list(
    csv.DictReader(
        (Path(__file__).parents[2] / "data" / "vllm-footprints.csv").read_text(encoding="utf-8").splitlines()
    )
)
OLD = load_engine_table().runtime_for(EngineVersion(0, 11))
NEW = load_engine_table().runtime_for(EngineVersion(0, 33))
SERVING = Serving(
    max_model_len=8192, max_num_seqs=128, max_num_batched_tokens=2048, kv_cache_dtype_bytes=2, enforce_eager=False
)


def test_the_terms_of_a_known_model_are_the_formulas() -> None:
    assert estimate_footprint(a_model_profile("Qwen/Qwen2.5-0.5B-Instruct"), SERVING, runtime=NEW) == Footprint(
        weights_bytes=997_946_192,  # 988_065_536 * 1.01, rounded up
        kv_bytes_per_token=12288,
        activation_bytes=733_571_318 + 159_987_532,  # 9.43 * 128 * 151936 * 4, and 0.149 GiB
        non_torch_bytes=569_083_167,
        cuda_graph_bytes=1_202_590_843,
        cuda_graphs_inside_budget=True,
        context_bytes=654_982_513,
        margin_bytes=365_072_220,
        basis="modelled",
    )


def test_the_mlp_is_the_peak_where_a_step_holds_many_tokens() -> None:
    model = a_model_profile("Qwen/Qwen2.5-0.5B-Instruct")
    few = estimate_footprint(model, replace(SERVING, max_num_seqs=1, max_num_batched_tokens=16384), runtime=NEW)
    assert few.activation_bytes == 16384 * 2 * (3 * 4864 + 5 * 896) + NEW.activation_constant_bytes


def test_eager_has_no_graphs_and_an_eight_bit_cache_is_half() -> None:
    model = a_model_profile()
    small = estimate_footprint(model, replace(SERVING, enforce_eager=True, kv_cache_dtype_bytes=1), runtime=NEW)
    assert small.cuda_graph_bytes == 0
    assert small.kv_bytes_per_token * 2 == estimate_footprint(model, SERVING, runtime=NEW).kv_bytes_per_token


def test_graphs_move_into_the_budget_and_the_total_stays() -> None:
    old = estimate_footprint(a_model_profile(), SERVING, runtime=OLD)
    new = estimate_footprint(a_model_profile(), SERVING, runtime=NEW)
    assert old.outside_bytes == old.context_bytes + old.cuda_graph_bytes
    assert new.outside_bytes == new.context_bytes
    assert new.fixed_inside_bytes == old.fixed_inside_bytes + new.cuda_graph_bytes
    assert new.total_bytes(4096) == old.total_bytes(4096)


def test_the_kv_cache_is_whole_blocks() -> None:
    footprint = estimate_footprint(a_model_profile("Qwen/Qwen2.5-0.5B-Instruct"), SERVING, runtime=NEW)
    assert [footprint.kv_bytes(tokens) for tokens in (0, 1, 16, 17)] == [0, 16 * 12288, 16 * 12288, 32 * 12288]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log['model_id']}-{log['vllm_version']}-{log['gpu_mem_gib']}")
def test_the_estimate_is_not_under_what_vllm_logged(log: dict[str, str]) -> None:
    # where a log does not state them: 256 sequences and 2048 tokens, vLLM's defaults below 70 GiB
    model = a_model_profile(
        log["model_id"].removeprefix("/models/").replace("unsloth/Llama-3.2-3B", "meta-llama/Llama-3.2-3B")
    )
    serving = replace(SERVING, max_num_seqs=int(log["max_num_seqs"] or 256), enforce_eager=True)
    estimate = estimate_footprint(model, serving, runtime=NEW).fixed_inside_bytes / GIB
    logged = sum(float(log[term]) for term in ("weights_gib", "non_torch_gib", "activation_peak_gib"))
    assert estimate > logged - 0.25
    assert estimate < logged + 2


def test_the_breakdown_names_every_term_and_adds_up() -> None:
    footprint = estimate_footprint(a_model_profile(), SERVING, runtime=OLD)
    rows = explain(footprint)
    assert [label for label, _, _ in rows] == [
        "weights", "activations", "non-torch", "CUDA graphs", "margin", "CUDA context", "KV cache per token",
    ]  # fmt: skip
    assert sum(size for label, size, _ in rows[:-1]) == footprint.total_bytes(0)
    assert rows[3][2].startswith("outside vLLM's budget")
    assert explain(estimate_footprint(a_model_profile(), SERVING, runtime=NEW))[3][2].startswith("inside")


_SUPPORTED = sorted(key for key, check in MODEL_CHECKS.items() if check["kv_bytes_per_token"])


@given(
    st.sampled_from(_SUPPORTED),
    st.integers(1, 4096),
    st.integers(1, 65536),
    st.integers(0, 10**7),
    st.sampled_from([OLD, NEW]),
)
def test_more_of_anything_never_needs_less(
    model_id: str, seqs: int, tokens: int, kv_tokens: int, chosen: EngineRuntime
) -> None:
    model = a_model_profile(model_id)
    serving = replace(SERVING, max_num_seqs=seqs, max_num_batched_tokens=tokens)
    small = estimate_footprint(model, serving, runtime=chosen)
    large = estimate_footprint(
        model, replace(serving, max_num_seqs=seqs + 1, max_num_batched_tokens=tokens + 1), runtime=chosen
    )
    assert large.total_bytes(kv_tokens + 1) >= small.total_bytes(kv_tokens)
    assert small.total_bytes(kv_tokens) == small.fixed_inside_bytes + small.outside_bytes + small.kv_bytes(kv_tokens)
    assert small.kv_bytes(kv_tokens) >= kv_tokens * small.kv_bytes_per_token
