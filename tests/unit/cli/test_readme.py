"""The README's picture is what the command beside it prints."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.cli import slmpack

ROOT = Path(__file__).parents[3]
EXAMPLE = re.compile(r"\$ \.venv/bin/slmpack (plan [^\n]*)\n(.*?)\n```", re.DOTALL)


def test_the_picture_is_what_the_command_prints() -> None:
    found = EXAMPLE.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    args = [str(ROOT / word) if word.startswith("examples/") else word for word in found[1].split()]
    printed = slmpack(*args, width=84).stdout
    assert [line.rstrip() for line in printed.rstrip().splitlines()] == found[2].splitlines()
