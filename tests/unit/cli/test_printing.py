"""What is printed: no line ends in blanks, whatever it is made of."""

from __future__ import annotations

import io

import pytest
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slmpack.cli.printing import printer
from tests.support.cli import a_cr, slmpack, some_nodes, write


@pytest.mark.parametrize(
    "args",
    [
        ("estimate", "Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "l4"),
        ("estimate", "Qwen/Qwen2.5-1.5B-Instruct", "--all-gpus"),
        ("predict", "Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "l4"),
        ("plan", "--propose-layout", "--repack", "-f"),
        ("explain", "qwen", "-f"),
    ],
)
def test_no_line_ends_in_blanks(args: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    files = (write(tmp_path_factory.mktemp("files"), "all.yaml", a_cr(replicas=9), some_nodes()),)
    result = slmpack(*args, *(files if args[-1] == "-f" else ()), width=70)
    assert result.exit_code in {0, 2}, result.output
    assert [line for line in result.stdout.splitlines() if line != line.rstrip()] == []


def test_lines_stay_lines() -> None:
    file = io.StringIO()
    console = printer(file)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("a", "b")
    table.add_row("longer", "")
    for part in (Text("one\n"), Padding(Text("two"), (0, 0, 0, 2), expand=False), table):
        console.print(part)
    console.print()
    assert file.getvalue() == "one\n\n  two\na       b\nlonger\n\n"
