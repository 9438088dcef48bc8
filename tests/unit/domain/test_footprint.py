from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.footprint import covers, fit, over_gib, quantile, runtime_of
from slmpack.adapters.tables import load_engine_table
from slmpack.domain.engine import EngineRuntime, EngineVersion
from slmpack.domain.footprint import (
    Footprint,
    Serving,
    estimate_footprint,
    estimate_terms,
    explain,
    explain_terms,
)
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.lora import lora_bytes
from slmpack.domain.model_profile import Experts, Task
from slmpack.domain.quantity import GIB
from tests.support.footprint_logs import Log, excluded_rows, read_kv_logs, read_logs
from tests.support.models import MODEL_CHECKS, a_model_profile

LOGS = read_logs()
STATED = [log for log in LOGS if log.stated]
TABLE = load_engine_table()
LOGGED = TABLE.runtime_for(EngineVersion(0, 11))
OLD = TABLE.runtime_for(EngineVersion(0, 12))
NEW = TABLE.runtime_for(EngineVersion(0, 33))
SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
SERVING = Serving(
    max_model_len=8192, max_num_seqs=128, max_num_batched_tokens=2048, kv_cache_dtype_bytes=2, enforce_eager=False
)


def an_estimate(runtime: EngineRuntime = NEW, *, model_id: str = SMALL, **changes: object) -> Footprint:
    return estimate_footprint(a_model_profile(model_id), replace(SERVING, **changes), runtime=runtime)  # type: ignore[arg-type]


def test_the_terms_of_a_known_model_are_the_formulas() -> None:
    assert an_estimate() == Footprint(
        weights_bytes=996_958_126,  # 988_065_536 * 1.009, rounded up
        kv_bytes_per_token=12288,
        activation_bytes=742_128_354 + 28_991_029,  # 9.54 * 128 * 151936 * 4, and 0.027 GiB
        non_torch_bytes=144_955_146,
        cuda_graph_bytes=214_748_365 + 35 * 10_737_418,  # [1, 2, 4], 31 sizes from 8 to 248, and 256
        cuda_graphs_inside_budget=True,
        context_bytes=654_982_513,
        margin_bytes=214_748_365,
        basis="modelled",
        non_kv_low_bytes=1_211_558_577,  # 0.99 of the weights, 3 copies of the logits, nothing else
        non_kv_high_bytes=3_535_081_570,  # 1.03, 10 copies, 0.15 and 0.92 GiB, and the graphs
    )


def test_the_mlp_is_the_peak_where_a_step_holds_many_tokens() -> None:
    found = an_estimate(max_num_seqs=1, max_num_batched_tokens=16384)
    assert found.activation_bytes == 16384 * 2 * (3 * 4864 + 5 * 896) + NEW.activation_constant_bytes.expected


def test_a_token_of_a_mixture_passes_several_experts() -> None:
    dense = a_model_profile(SMALL)
    experts = Experts(layers=24, count=60, per_token=8, parameters_each=3 * 896 * 1408, bytes_each=6 * 896 * 1408)
    found = estimate_footprint(
        replace(dense, experts=experts), replace(SERVING, max_num_seqs=1, max_num_batched_tokens=16384), runtime=NEW
    )
    assert found.activation_bytes == 16384 * 2 * (8 * 3 * 1408 + 5 * 896) + NEW.activation_constant_bytes.expected


def test_a_model_that_embeds_has_no_sampler() -> None:
    model = replace(a_model_profile(SMALL), task=Task.EMBED, cache=())
    found = estimate_footprint(model, SERVING, runtime=NEW)
    assert found.activation_bytes == 2048 * 2 * (3 * 4864 + 5 * 896) + NEW.activation_constant_bytes.expected
    assert found.kv_bytes(1024) == 0


def test_eager_has_no_graphs_and_an_eight_bit_cache_is_half() -> None:
    small = an_estimate(enforce_eager=True, kv_cache_dtype_bytes=1)
    assert small.cuda_graph_bytes == 0
    assert small.kv_bytes_per_token * 2 == an_estimate().kv_bytes_per_token


@pytest.mark.parametrize(
    ("seqs", "tokens", "sizes"),
    [(1, 2048, 2), (2, 2048, 3), (8, 8192, 5), (128, 2048, 35), (1024, 8192, 51), (64, 8, 4)],
)
def test_graphs_follow_the_sizes_that_vllm_captures(seqs: int, tokens: int, sizes: int) -> None:
    found = an_estimate(max_num_seqs=seqs, max_num_batched_tokens=tokens)
    assert found.cuda_graph_bytes == NEW.cuda_graph_base_bytes.high + sizes * NEW.cuda_graph_each_bytes.high


def test_graphs_move_into_the_budget_and_the_total_stays() -> None:
    old, new = an_estimate(OLD), an_estimate(NEW)
    assert old.outside_bytes == old.context_bytes + old.cuda_graph_bytes
    assert new.outside_bytes == new.context_bytes
    assert new.fixed_inside_bytes == old.fixed_inside_bytes + new.cuda_graph_bytes
    assert new.total_bytes(4096) == old.total_bytes(4096)
    assert new.non_kv.high == pytest.approx(old.non_kv.high + new.cuda_graph_bytes, abs=1)


def test_a_version_without_logs_gets_the_wider_margin() -> None:
    assert (LOGGED.validated, OLD.validated) == (True, False)
    assert an_estimate(OLD).margin_bytes > an_estimate(LOGGED).margin_bytes > 0
    assert estimate_terms(a_model_profile(), SERVING, runtime=LOGGED).validated


def test_the_interval_is_around_what_is_planned() -> None:
    found = an_estimate(LOGGED)
    assert found.non_kv.low < found.non_kv.expected == found.fixed_inside_bytes - found.margin_bytes < found.non_kv.high
    assert found.non_kv.basis is Basis.MODELLED


def test_a_footprint_of_an_older_record_has_the_margin_as_its_interval() -> None:
    old = replace(an_estimate(), non_kv_low_bytes=None, non_kv_high_bytes=None)
    expected = old.fixed_inside_bytes - old.margin_bytes
    assert old.non_kv == Interval(low=expected, expected=expected, high=old.fixed_inside_bytes, basis=Basis.MODELLED)


def test_the_kv_cache_is_whole_blocks() -> None:
    found = an_estimate()
    assert [found.kv_bytes(tokens) for tokens in (0, 1, 16, 17)] == [0, 16 * 12288, 16 * 12288, 32 * 12288]


def test_adapters_take_their_slots_and_twice_the_graphs() -> None:
    model = a_model_profile(SMALL)
    plain, tuned = an_estimate(), an_estimate(max_loras=2, max_lora_rank=16)
    slots = lora_bytes(model, max_loras=2, max_rank=16, dtype_bytes=2)
    assert tuned.weights_bytes == plain.weights_bytes + slots > plain.weights_bytes
    assert tuned.cuda_graph_bytes == plain.cuda_graph_bytes + 35 * NEW.cuda_graph_each_bytes.high
    assert tuned.non_kv.low >= plain.non_kv.low + slots - 1


def test_the_kv_cache_of_a_token_is_within_the_rounding_of_every_log() -> None:
    logs = read_kv_logs()
    assert (len(logs), [log.row for log in logs if not log.exact]) == (15, [])


@pytest.mark.parametrize("model_id", sorted(key for key, check in MODEL_CHECKS.items() if check["kv_bytes_per_token"]))
def test_the_kv_cache_of_a_token_is_that_of_the_config_table(model_id: str) -> None:
    assert an_estimate(model_id=model_id).kv_bytes_per_token == MODEL_CHECKS[model_id]["kv_bytes_per_token"]


def test_every_log_is_used_or_left_out_for_a_reason() -> None:
    assert sorted([*(log.row for log in LOGS), *excluded_rows()]) == list(range(1, 169))
    assert all(excluded_rows().values())
    assert (len(STATED), len({log.source for log in STATED}), len({log.source for log in LOGS})) == (40, 3, 8)


def test_the_table_is_the_fit() -> None:
    found = fit(LOGS)
    runtime = TABLE.runtime_for(EngineVersion(0, 10))
    assert runtime.weights_factor.expected == pytest.approx(found.weights_factor, abs=0.0005)
    assert runtime.logits_copies.expected == pytest.approx(found.logits_copies, abs=0.005)
    assert runtime.activation_constant_bytes.expected / GIB == pytest.approx(found.activation_constant_gib, abs=0.0005)
    assert runtime.non_torch_bytes.expected / GIB == pytest.approx(found.non_torch_gib, abs=0.0005)
    assert runtime.non_torch_bytes.high / GIB == pytest.approx(found.non_torch_high_gib)


def test_sources_that_the_fit_has_not_seen_are_estimated_safely_and_tightly() -> None:
    errors = []
    for log in STATED:
        found = fit([other for other in LOGS if other.source != log.source])
        errors.append((log, over_gib(log, runtime_of(log, found))))
    assert min(error for _, error in errors) > -0.25
    assert quantile(errors, 0.5) <= 0.3
    assert quantile(errors, 0.9) <= 0.8


def test_the_intervals_hold_for_sources_that_the_fit_has_not_seen() -> None:
    others = [log for log in LOGS if not log.stated]
    blind = [runtime_of(log, fit([other for other in LOGS if other.source != log.source])) for log in others]
    assert sum(map(covers, others, blind)) >= 0.95 * len(others)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log.row}-{log.source}")
def test_every_log_lies_in_the_printed_interval(log: Log) -> None:
    assert covers(log, TABLE.runtime_for(log.version))


def test_the_breakdown_names_every_term_and_adds_up() -> None:
    footprint = an_estimate(OLD)
    rows = explain(footprint)
    assert [label for label, _, _ in rows] == [
        "weights", "activations", "non-torch", "CUDA graphs", "margin", "CUDA context", "KV cache per token",
    ]  # fmt: skip
    assert sum(size for label, size, _ in rows[:-1]) == footprint.total_bytes(0)
    assert rows[3][2].startswith("outside vLLM's budget")
    assert explain(an_estimate(NEW))[3][2].startswith("inside")


@pytest.mark.parametrize(("runtime", "words"), [(LOGGED, "logs of this engine generation"), (NEW, "unvalidated")])
def test_the_spread_of_every_term_is_shown_and_adds_up(runtime: EngineRuntime, words: str) -> None:
    footprint = an_estimate(runtime)
    rows = explain_terms(footprint, estimate_terms(a_model_profile(SMALL), SERVING, runtime=runtime))
    assert [(row.label, row.planned_bytes) for row in rows[:-1]] == [row[:2] for row in explain(footprint)]
    assert all(row.spread.low <= row.spread.expected <= row.spread.high for row in rows)
    assert all(row.planned_bytes <= row.spread.high + 1 for row in rows)
    assert words in rows[4].note
    inside = rows[:4] if runtime.cuda_graphs_inside_budget else rows[:3]
    assert rows[-1].spread.high == pytest.approx(sum(row.spread.high for row in inside))
    assert rows[-1].planned_bytes == footprint.fixed_inside_bytes


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
    small = an_estimate(chosen, model_id=model_id, max_num_seqs=seqs, max_num_batched_tokens=tokens)
    large = an_estimate(chosen, model_id=model_id, max_num_seqs=seqs + 1, max_num_batched_tokens=tokens + 1)
    assert large.total_bytes(kv_tokens + 1) >= small.total_bytes(kv_tokens)
    assert small.total_bytes(kv_tokens) == small.fixed_inside_bytes + small.outside_bytes + small.kv_bytes(kv_tokens)
    assert small.kv_bytes(kv_tokens) >= kv_tokens * small.kv_bytes_per_token
    assert small.non_kv.low <= small.non_kv.expected <= small.non_kv.high
