from __future__ import annotations

import subprocess
import sys

from slmpack.api.crd import render_crd
from tests.support.spec_tables import ROOT

CRD = ROOT / "crds" / "slmdeployments.slmpack.dev.yaml"


def test_the_crd_in_the_repository_is_what_the_models_say() -> None:
    assert CRD.read_text() == render_crd(), "run `make crds`"


def test_the_generator_as_a_program_writes_the_same() -> None:
    command = [sys.executable, "-m", "slmpack.api.crd"]
    done = subprocess.run(command, cwd=ROOT / "operator", capture_output=True, text=True, check=True)
    assert done.stdout == CRD.read_text()


def test_the_shortest_example_has_at_most_ten_lines() -> None:
    assert len((ROOT / "examples" / "qwen2.5-1.5b.yaml").read_text().splitlines()) <= 10
