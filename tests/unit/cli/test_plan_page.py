"""`slmpack plan --html`: where the page goes, and that it says what the terminal says."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from tests.unit.cli.cases import a_cr, slmpack, some_nodes, write


def _world(folder: Path) -> str:
    crs = [
        a_cr(replicas=9, sharing={"mode": "MPS"}),
        a_cr("small", model={"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"}, replicas=6, sharing={"mode": "MIG"}),
        a_cr("bad", replicas=-1),
        a_cr("scaled", scaling={"min": 1, "max": 2}),
    ]
    return write(folder, "all.yaml", *crs, some_nodes())


def _words(page: str) -> str:
    """The text of a page, a blank for each tag and run of blanks."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)))


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_the_page_is_written_beside_the_text(tmp_path: Path) -> None:
    world, path = _world(tmp_path), tmp_path / "plan.html"
    plain = slmpack("plan", "-f", world)
    result = slmpack("plan", "-f", world, "--html", str(path))
    assert (result.exit_code, result.stdout) == (plain.exit_code, plain.stdout) == (2, plain.stdout)
    assert f"the page is in {path}" in result.stderr
    assert path.read_text(encoding="utf-8").startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">')


@pytest.mark.parametrize("output", ["text", "json"])
def test_on_standard_output_there_is_the_page_and_nothing_else(tmp_path: Path, output: str) -> None:
    result = slmpack("plan", "-f", _world(tmp_path), "--html", "-", "-o", output)
    assert result.exit_code == 2
    assert result.stdout.startswith("<!doctype html>")
    assert result.stdout.endswith("</html>\n")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", _world(tmp_path), "--html", str(tmp_path / "no" / "plan.html"))
    assert result.exit_code == 1
    assert "plan.html: cannot be written: No such file or directory" in result.stderr
    assert result.stdout == ""


def test_it_says_what_the_terminal_says(tmp_path: Path) -> None:
    world = _world(tmp_path)
    page = _words(slmpack("plan", "-f", world, "--html", "-").stdout)
    found = json.loads(slmpack("plan", "-f", world, "-o", "json").stdout)
    text = slmpack("plan", "-f", world, width=1000).stdout
    for deployment in found["deployments"]:
        name = f"{deployment['namespace']}/{deployment['name']}"
        for reason in deployment["reasons"]:
            assert reason["reason"] in page, name
            assert _bare(reason["message"]) in _bare(page), name
        for decision in deployment["decisions"]:
            assert all(_bare(words) in _bare(page) for words in decision["reasons"])
            assert all(f"{flag}={value}" in page for flag, value in decision["engine_flags"].items())
        replicas = deployment["replicas"]
        if deployment["accepted"]:
            assert f"{replicas['placed']} of {replicas['wanted']} placed" in page
    for gpu in found["gpus"]:
        assert gpu["note"] in page
        assert all(_bare(block["replica"].partition("/")[2]) in _bare(page) for block in gpu["blocks"])
    for line in re.findall(r"^  (scaling: .*|\d+ x .*|\d+ fit and pay .*)$", text, re.MULTILINE):
        assert _bare(line) in _bare(page), line
    for line in re.findall(r"^    (?:\w[\w -]*?)  +([\d.]+ GiB  \S.*)$", text, re.MULTILINE):
        assert _bare(line) in _bare(page), line


def test_without_nodes_it_shows_the_kinds_of_gpu_that_are_used(tmp_path: Path) -> None:
    page = _words(slmpack("plan", "-f", write(tmp_path, "cr.yaml", a_cr()), "--html", "-").stdout)
    assert "No nodes are given: this is what would happen" in page
    assert "other kinds of GPU in the catalogue stay empty" in page
