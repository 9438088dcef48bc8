"""What docs/estimating.md shows is what the commands print: `pytest --update-golden` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cli import slmpack

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/estimating.md"
EXAMPLE = re.compile(r"```console\n\$ slmpack ([^\n]+)\n(.*?)```", re.DOTALL)


def printed(command: str) -> str:
    """In a terminal of 80 columns without colour."""
    args = [str(ROOT / word) if word.startswith("examples/") else word for word in command.split()]
    result = slmpack(*args, width=80)
    assert result.exit_code in {0, 2}, result.output
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def test_the_page_shows_what_is_printed(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = EXAMPLE.sub(lambda found: f"```console\n$ slmpack {found[1]}\n{printed(found[1])}```", page)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert len(EXAMPLE.findall(page)) == 5
    assert PAGE.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for command in EXAMPLE.findall(PAGE.read_text(encoding="utf-8")):
        args = [str(ROOT / word) if word.startswith("examples/") else word for word in command[0].split()]
        lines = slmpack(*args, width=width).stdout.splitlines()
        assert max(map(len, lines)) <= width


def test_the_first_line_answers_the_question() -> None:
    for command, text in EXAMPLE.findall(PAGE.read_text(encoding="utf-8")):
        first = " ".join(text.partition("\n\n")[0].split())
        assert "estimate" in first, command
        assert len(first) < 250
