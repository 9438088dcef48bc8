"""The page says what the results say, contradictions first."""

from __future__ import annotations

from dataclasses import replace

from tests.gpu.page import render
from tests.gpu.serving import CASES
from tests.unit.gpu_checks.test_outcome import MACHINE, NO, YES, outcome, results

FIGURE = {"value": 8860.7, "low": 7053.1, "high": 10978.0, "basis": "modelled"}
LOAD = {"model": "a/b", "in_flight": 64, "input": 512, "output": 256, "warm_s": 10.0, "window_s": 30.0}
SERVED = {
    "load": LOAD,
    "vllm": "0.33.0",
    "measured": {"throughput_tok_s": 9000.4, "itl_ms": 6.5, "ttft_ms": 80.0, "power_w": None},
    "predicted": {"throughput_tok_s": FIGURE, "itl_ms": None},
}


def test_without_results_it_was_not_run() -> None:
    page = render([])
    assert "**not run yet**" in page
    assert "Promised and seen" not in page


def test_a_contradiction_is_named_and_comes_first() -> None:
    page = render([results(outcome("good", promises=(YES,)), outcome("bad", promises=(replace(NO, saw="x | y"),)))])
    assert "not run yet" not in page
    assert "| `bad` | **contradicts the facts** | 2 s |" in page
    assert page.index("| `bad` | a | x / y | **NO** |") < page.index("| `good` | a | b | yes |")


def test_what_broke_off_and_what_was_not_run_say_why() -> None:
    page = render([results(outcome("a", failed="out\nof time"), outcome("b", not_run="no vLLM"))])
    assert "| `a` | broke off: out of time | 2 s |" in page
    assert "| `b` | not run: no vLLM | 2 s |" in page


def test_limits_have_a_table() -> None:
    seen = {
        "limit_mib": 2048,
        "open": {"free_mib": 1500, "total_mib": 143156},
        "allocated_mib": 1400,
        "kept_by_cuda_mib": 648,
        "full": {"free_mib": 2},
        "refusal": "CUDA_ERROR_OUT_OF_MEMORY",
    }
    page = render([results(outcome(seen=seen))])
    assert "| 2,048 | 1,500 | 143,156 | 1,400 | 648 | 2 | `CUDA_ERROR_OUT_OF_MEMORY` |" in page


def test_speed_stands_beside_the_prediction_and_is_not_judged() -> None:
    page = render([results(outcome("vllm-1-plain", seen=SERVED))])
    assert "a/b with dummy weights, 64 requests in flight in total" in page
    assert "| `vllm-1-plain` | 9,000 | 8,861 (7,053 to 10,978) | 6.5 | - | 80 | - | - | - |" in page
    assert "| `vllm-1-plain` | recorded | 2 s |" in page


def test_a_missing_prediction_says_how_to_get_it() -> None:
    page = render([results(outcome(seen={**SERVED, "predicted": {"error": "No module named yaml"}}))])
    assert "No prediction: No module named yaml. `make test-gpu ARGS=predict`" in page


def test_notes_that_are_sentences_are_listed() -> None:
    page = render([results(outcome(seen={"root at a daemon": "no limit", "no limit set": {"free_mib": 7}, "mib": 3}))])
    assert "| `one` | root at a daemon | no limit |" in page
    assert "| `one` | no limit set | free_mib 7 |" in page
    assert "| `one` | mib" not in page


def test_who_else_was_there_is_said() -> None:
    page = render([results(machine=replace(MACHINE, other_users="70.0 GiB were in use", root=False))])
    assert "run as an ordinary user. Not alone on the GPU: 70.0 GiB were in use." in page


def test_the_cases_are_those_of_the_issue() -> None:
    assert {(case.replicas, case.mps, case.sm_percent) for case in CASES} == {
        (1, False, None), (1, True, None),
        (2, False, None), (2, True, None), (2, True, 50),
        (4, False, None), (4, True, None), (4, True, 25),
    }  # fmt: skip
