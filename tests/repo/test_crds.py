from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slmpack.api.crd import build_crd, render_crd
from slmpack.api.crd_page import render_page
from tests.support.spec_tables import ROOT

PAGE = ROOT / "docs" / "crd.md"
CRD = ROOT / "crds" / "slmdeployments.slmpack.dev.yaml"


def test_the_crd_in_the_repository_is_what_the_models_say() -> None:
    assert CRD.read_text() == render_crd(), "run `make crds`"


def test_the_page_in_the_repository_is_what_the_models_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), "run `make crds`"


@pytest.mark.parametrize(("module", "path"), [("slmpack.api.crd", CRD), ("slmpack.api.crd_page", PAGE)])
def test_the_generator_as_a_program_writes_the_same(module: str, path: Path) -> None:
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT / "operator", capture_output=True, text=True, check=True)
    assert done.stdout == path.read_text(encoding="utf-8")


def test_the_page_has_every_field_and_leaves_no_default_or_example_in_prose() -> None:
    text = render_page()
    (version,) = build_crd()["spec"]["versions"]
    names = set(_names(version["schema"]["openAPIV3Schema"]["properties"]["spec"]))
    assert len(names) > 80
    assert [name for name in sorted(names) if f"| `{name}` |" not in text] == []
    assert "Default:" not in text
    assert "Required." not in text


def _names(schema: dict[str, Any]) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield name
        for inner in (field, field.get("items", {}), field.get("additionalProperties", {})):
            yield from _names(inner)


def test_the_shortest_example_has_at_most_ten_lines() -> None:
    assert len((ROOT / "examples" / "qwen2.5-1.5b.yaml").read_text().splitlines()) <= 10
