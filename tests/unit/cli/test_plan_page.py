"""`slmpack plan --html`: where the page goes, and that it says what the terminal says."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from slmpack.devcluster.nodes import whole_node
from tests.support.cli import a_cr, slmpack, some_nodes, write


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


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "--html: the name is empty"),
        (" ", "--html: the name is empty"),
        ("no/plan.html", "No such file"),
        (".", "it is a folder"),
        ("/proc/plan.html", "/proc/plan.html: cannot be written: "),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(where: str, said: str) -> None:
    result = slmpack("plan", "-f", "/nonexistent.yaml", "--html", where)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert "nonexistent" not in result.stderr


def test_the_page_takes_the_place_of_an_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, link, path = _world(tmp_path), tmp_path / "link.html", tmp_path / "plan.html"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    link.symlink_to(path)
    with path.open(encoding="utf-8") as reader:
        slmpack("plan", "-f", world, "--html", str(link))
        assert reader.read() == "old", "who reads it keeps the old one"
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    before = path.read_bytes()
    result = slmpack("plan", "-f", world, "--html", str(path))
    assert result.exit_code == 1
    assert "cannot be written: No space left on device" in result.stderr
    assert path.read_bytes() == before
    assert [it.name for it in tmp_path.iterdir() if it.name.endswith(".part")] == []


def test_a_device_is_written_to(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", _world(tmp_path), "--html", "/dev/null")
    assert result.exit_code == 2
    assert not Path("/dev/null").is_file()


def test_names_and_messages_do_not_steer_the_terminal(tmp_path: Path) -> None:
    node = whole_node("n\x1b[31m\x9bx", gpus=1)
    crs = [a_cr("a\x1b]0;t\x07b", replicas=5), a_cr("c\x1b[2J", model={"source": "hf://a/b\x1b[2J"})]
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", *crs, node), "--html", str(tmp_path / "p.html"))
    assert result.exit_code == 2, result.output
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", result.stdout)
    assert "a\ufffd]0;t\ufffdb" in result.stdout


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
