"""The results file: what comes back is what went in, and parts of a day come together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.gpu.outcome import (
    CONTRADICTED,
    FAILED,
    HELD,
    NOT_RUN,
    RECORDED,
    Machine,
    Outcome,
    Promise,
    Results,
    gpu_slug,
    merge,
    newest,
    read_results,
    write_results,
)

YES = Promise(says="a", held=True, saw="b")
NO = Promise(says="a", held=False, saw="b")
MACHINE = Machine(
    gpu="NVIDIA H200", total_mib=143771, driver="580.1", cuda="13.0", compute_mode="DEFAULT", root=True, other_users=""
)


def outcome(name: str = "one", **changes: object) -> Outcome:
    return replace(Outcome(name=name, ran_at="2026-11-21T00:00:00Z", seconds=1.5), **changes)  # type: ignore[arg-type]


def results(*outcomes: Outcome, **changes: object) -> Results:
    made = Results(machine=MACHINE, date="2026-11-21", slmpack="0.1.0", outcomes=outcomes)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, RECORDED),
        ({"promises": (YES,)}, HELD),
        ({"promises": (YES, NO)}, CONTRADICTED),
        ({"promises": (NO,), "failed": "later"}, CONTRADICTED),
        ({"promises": (YES,), "failed": "later"}, FAILED),
        ({"not_run": "no vLLM"}, NOT_RUN),
        ({"promises": (YES,), "not_run": "needs root"}, NOT_RUN),
    ],
)
def test_one_word_for_each_ending(changes: dict[str, Any], status: str) -> None:
    assert outcome(**changes).status == status


def test_a_file_comes_back_as_it_was() -> None:
    made = results(outcome(promises=(YES, NO), seen={"limit_mib": 2048}), outcome("two", failed="why"))
    text = write_results(made)
    assert read_results(text) == made
    assert [check["status"] for check in json.loads(text)["checks"]] == [CONTRADICTED, FAILED]


@pytest.mark.parametrize("text", ["{}", "[]", "no", '{"version": 2}', '{"version": 1, "machine": {"gpu": "x"}}'])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_results(text)


def test_the_newer_outcome_of_a_check_replaces_the_older() -> None:
    before = results(outcome("one"), outcome("two"))
    now = results(outcome("three"), outcome("two", failed="now"))
    merged = merge(before, now)
    assert [(o.name, o.failed) for o in merged.outcomes] == [("one", ""), ("two", "now"), ("three", "")]
    assert merge(None, now) is now


def test_another_day_or_gpu_is_not_merged() -> None:
    with pytest.raises(ValueError, match="different GPUs or days"):
        merge(results(date="2026-11-20"), results())


def test_a_file_is_named_after_gpu_and_day() -> None:
    assert results().file_name == "nvidia-h200-2026-11-21.json"
    assert gpu_slug("Tesla T4") == "tesla-t4"
    assert gpu_slug("../..") == "gpu"


def test_the_newest_of_each_gpu() -> None:
    other = replace(MACHINE, gpu="Tesla T4")
    old, new, t4 = results(date="2026-11-20"), results(), results(machine=other, date="2026-01-01")
    assert newest([new, t4, old]) == [new, t4]
