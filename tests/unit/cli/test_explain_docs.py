"""What docs/explain.md shows is what the command prints (`pytest --update-golden` writes it anew); its keys are ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slmpack.cli.loads_file import GPU_NUMBERS, HISTOGRAMS, NUMBERS
from tests.support.cli import slmpack

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/explain.md"
EXAMPLE = re.compile(r"```console\n\$ slmpack ([^\n]+)\n(.*?)```", re.DOTALL)


def printed(command: str, *, width: int = 80) -> str:
    """In a terminal without colour."""
    args = [str(ROOT / word) if word.startswith("examples/") else word for word in command.split()]
    result = slmpack(*args, width=width)
    assert result.exit_code == 0, result.output
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def test_the_page_shows_what_is_printed(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = EXAMPLE.sub(lambda found: f"```console\n$ slmpack {found[1]}\n{printed(found[1])}```", page)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert len(EXAMPLE.findall(page)) == 1
    assert PAGE.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    ((command, _),) = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))
    assert max(map(len, printed(command, width=width).splitlines())) <= width


def test_the_page_names_every_key_of_a_file_of_loads() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name.removeprefix("gpus[].") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {*NUMBERS, *HISTOGRAMS, *GPU_NUMBERS, "reporting", "node", "uuid", "pods"} <= named
