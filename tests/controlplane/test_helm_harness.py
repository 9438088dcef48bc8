"""The real helm of the tests: where it comes from, and that it sees no cluster of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.go_programs import BinariesError
from tests.support.helm import HELM, MAJOR, VERSION, ensure_helm, helm


def test_the_version_is_the_one_of_the_go_module(tmp_path: Path) -> None:
    assert f"helm.sh/helm/v4 {VERSION}\n" in (HELM.module / "go.mod").read_text()
    assert helm("version", "--template={{.Version}}", home=tmp_path).stdout.startswith(f"v{MAJOR}.")


def test_the_key_of_the_cache_covers_every_file_of_the_go_module() -> None:
    assert {path.name for path in HELM.module.iterdir()} == set(HELM.sources)


@pytest.mark.parametrize(("version", "taken"), [("v4.0.1", True), ("v3.19.0", False), ("v40.1.0", False)])
def test_a_program_on_path_is_taken_where_it_is_of_the_major_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, taken: bool
) -> None:
    (tmp_path / "helm").write_text(f"#!/bin/sh\necho {version}\n")
    (tmp_path / "helm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (ensure_helm() == tmp_path) is taken


def test_what_can_neither_be_found_nor_built_is_an_error_that_says_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.support.go_programs._go_candidates", lambda: iter(()))
    with pytest.raises(BinariesError, match="Or put helm 4 on PATH"):
        ensure_helm()


def test_without_a_kubeconfig_no_cluster_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "of-this-machine"))
    answer = helm("list", home=tmp_path)
    assert answer.returncode != 0
    assert "cluster" in answer.stderr.lower()
