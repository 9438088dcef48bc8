"""docs/gpu-checks.md is what the results in tests/gpu/results say."""

from __future__ import annotations

from tests.gpu.__main__ import PAGE, RESULTS, read_folder
from tests.gpu.page import render


def test_the_page_is_in_sync_with_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(read_folder(RESULTS)), "run `make test-gpu ARGS=render`"


def test_each_file_has_the_name_of_its_gpu_and_day() -> None:
    names = sorted(path.name for path in RESULTS.glob("*.json"))
    assert names == sorted(one.file_name for one in read_folder(RESULTS))
