"""How many commands are run and how many are only parsed: nothing is left out in silence."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, blocks, pages
from tests.docs.running import counted

COUNTS = ROOT / "tests/data/golden/docs-commands.txt"


def test_what_is_not_run_stands_in_the_list(request: pytest.FixtureRequest) -> None:
    """A command that is newly parsed only shows here: `make golden` writes the file, and a review sees it."""
    lines: list[str] = []
    total, total_parsed = 0, 0
    for page in pages():
        if blocks(page):
            run, parsed = counted(page)
            total, total_parsed = total + run, total_parsed + len(parsed)
            lines += [f"{page}: {run} run, {len(parsed)} parsed", *(f"  {line}" for line in parsed)]
    text = "\n".join([f"all pages: {total} run, {total_parsed} parsed", *lines]) + "\n"
    if request.config.getoption("--update-golden"):
        COUNTS.write_text(text, encoding="utf-8")
    assert COUNTS.read_text(encoding="utf-8") == text, "run: make golden"
    assert total > 2 * total_parsed, "most commands are run"
