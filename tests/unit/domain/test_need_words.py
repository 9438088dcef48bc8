"""What a replica needs, row by row."""

from __future__ import annotations

from dataclasses import replace

from slmpack.domain.need_words import engine_words, memory_rows, weights_warning
from slmpack.domain.plan import DeploymentPlan
from slmpack.domain.quantity import format_bytes
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import ModelUnknown, NodeView, Rejected
from tests.support.builders import a_demand, a_deployment, a_model, a_snapshot, mps_node, plan, whole_node


def part(*nodes: NodeView, **demand: object) -> DeploymentPlan:
    view = a_deployment("qwen", a_demand(**demand))  # type: ignore[arg-type]
    return plan(a_snapshot(deployments=(view,), nodes=nodes)).deployments[0]


def test_the_rows_add_up_to_what_is_needed() -> None:
    found = part(mps_node("n"), mode=Mode.MPS)
    *terms, needed = memory_rows(found)
    assert [row.name for row in terms][-1] == "KV cache"
    assert sum(row.size for row in terms) == needed.size == found.needed_bytes
    assert terms[-1].note == f"{found.kv_tokens:,} tokens of 28 KiB (exact)"


def test_what_a_share_must_hold_at_least_is_said_beside_what_is_needed() -> None:
    found = part(mps_node("n"), replicas=9, mode=Mode.MPS)
    assert found.fit is not None
    note = memory_rows(found)[-1].note
    sequences, least = found.fit.need.max_num_seqs, format_bytes(found.least_bytes)
    assert note == f"with {sequences} sequences; a share must hold {least} at least"
    assert found.least_bytes < found.needed_bytes
    alike = replace(found, least_bytes=found.needed_bytes)
    assert memory_rows(alike)[-1].note == f"with {sequences} sequences"


def test_the_message_about_taken_shares_has_the_number_of_the_rows() -> None:
    found = part(whole_node("n"), replicas=2, mode=Mode.EXCLUSIVE)
    (entry,) = found.unplaced
    least = format_bytes(found.least_bytes)
    assert entry.problem.message.startswith(
        f"every GPU or share that holds the {least} that a replica needs at least is"
    )
    assert f"a share must hold {least} at least" in memory_rows(found)[-1].note


def test_without_a_share_that_suits_it_is_the_least() -> None:
    found = part(whole_node("n"), mode=Mode.MIG)
    assert memory_rows(found)[-1].note == "the least that a share must hold"
    assert found.least_bytes == found.needed_bytes


def test_an_unknown_model_needs_nobody_knows_what() -> None:
    found = part(mps_node("n"), model=ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="not there"))
    assert (memory_rows(found), engine_words(found, source=None), weights_warning(found)) == ((), "", "")
    assert (found.needed_bytes, found.least_bytes) == (0, 0)


def test_the_engine_is_told_with_the_users_own_source() -> None:
    found = part(mps_node("n"))
    assert engine_words(found, source=None).startswith("hf://Qwen/Qwen2.5-1.5B-Instruct on vLLM 0.33.0, 8,192 tokens")
    assert engine_words(found, source="file://here").startswith("file://here on vLLM")
    refused = Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message="no"),))
    rejected = replace(found, deployment=a_deployment("qwen", refused))
    assert (engine_words(rejected, source="x"), weights_warning(rejected)) == ("", "")


def test_what_is_odd_about_the_weights_is_said() -> None:
    model = replace(a_model(), weights_note="the file says nothing")
    assert weights_warning(part(mps_node("n"), model=model)) == "the file says nothing"
    assert weights_warning(part(mps_node("n"))) == ""
    unknown = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="not there")
    forgotten = replace(part(mps_node("n")), deployment=a_deployment("qwen", a_demand(model=unknown)))
    assert weights_warning(forgotten) == ""
