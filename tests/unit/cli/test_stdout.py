"""Standard output that takes nothing: a sentence, and the exit code of an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slmpack.cli import main
from tests.support.cli import a_cr, write

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "args", [("--help",), ("crd",), ("completion", "bash"), ("plan", "-f"), ("plan", "--html", "-", "-f"), ("plan", "-o", "json", "-f")]
)  # fmt: skip
def test_a_full_disk_is_said(tmp_path: Path, args: tuple[str, ...]) -> None:
    file = [write(tmp_path, "cr.yaml", a_cr())] if args[-1] == "-f" else []
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [BIN / "slmpack", *args, *file], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert found.returncode == 1
    assert found.stderr == "Error: standard output cannot be written: No space left on device\n"


def test_completion_says_nothing_of_it() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [BIN / "kubectl_complete-slm", "pl"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert "Traceback" not in found.stderr


def test_other_errors_of_the_system_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "x")

    monkeypatch.setattr(main.commands["crd"], "callback", None)
    monkeypatch.setattr(main.commands["crd"], "invoke", fail)
    with pytest.raises(FileNotFoundError):
        main(["crd"])
