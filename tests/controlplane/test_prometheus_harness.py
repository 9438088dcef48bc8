"""The real Prometheus of the tests: where it comes from, and that it starts, takes in changes and goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.go_programs import BinariesError
from tests.support.operator import eventually
from tests.support.prometheus import PROMETHEUS, VERSION, Prometheus, ensure_prometheus, promtool


def test_the_version_is_the_one_of_the_go_module() -> None:
    major, minor, patch = VERSION.split(".")
    assert (
        f"github.com/prometheus/prometheus v0.{major}{int(minor):02}.{patch}"
        in (PROMETHEUS.module / "go.mod").read_text()
    )
    assert promtool("--version").stdout.startswith(f"promtool, version {VERSION.split('.')[0]}.")


def test_the_key_of_the_cache_covers_every_file_of_the_go_module() -> None:
    assert {path.name for path in PROMETHEUS.module.iterdir()} == set(PROMETHEUS.sources)


def _programs(folder: Path, *, version: str, names: tuple[str, ...] = ("prometheus", "promtool")) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho '{name}, version {version} (branch: HEAD)'\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("version", "names", "taken"),
    [
        ("3.5.0", ("prometheus", "promtool"), True),
        ("2.53.0", ("prometheus", "promtool"), False),
        ("3.5.0", ("prometheus",), False),
        ("30.1.0", ("prometheus", "promtool"), False),
    ],
)
def test_programs_on_path_are_taken_where_both_are_of_the_major_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, names: tuple[str, ...], *, taken: bool
) -> None:
    folder = _programs(tmp_path / "bin", version=version, names=names)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert (ensure_prometheus() == folder) is taken


def test_what_can_neither_be_found_nor_built_is_an_error_that_says_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.20 linux/amd64\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setattr("tests.support.go_programs._go_candidates", lambda: iter([tmp_path / "go"]))
    with pytest.raises(
        BinariesError, match=r"building Prometheus needs go1\.26\.x.*put prometheus and promtool 3 on PATH"
    ):
        ensure_prometheus(say=lambda _text: None)


def _scrape_itself(prometheus: Prometheus, job: str) -> dict[str, object]:
    return {"job_name": job, "static_configs": [{"targets": [prometheus.url.removeprefix("http://")]}]}


def test_it_scrapes_reloads_forgets_nothing_when_killed_and_leaves_nothing() -> None:
    with Prometheus.start() as prometheus:
        prometheus.configure([_scrape_itself(prometheus, "itself")])
        prometheus.reload()
        eventually(lambda: prometheus.value("up") == 1)
        assert set(prometheus.targets().values()) == {"up"}
        assert prometheus.value('up{job="nobody"}') is None
        before = prometheus.value("time() - timestamp(up)")
        prometheus.kill()
        with pytest.raises(OSError, match="refused"):
            prometheus.value("up")
        prometheus.resume()
        assert prometheus.value("up") == 1
        assert before is not None
        prometheus.configure([{"job_name": "broken", "no_such_key": 1}])
        with pytest.raises(RuntimeError, match="no_such_key"):
            prometheus.reload()
        pid, folder = prometheus.pid, prometheus.folder
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_frozen_one_takes_connections_and_answers_later() -> None:
    with Prometheus.start() as prometheus:
        prometheus.pause()
        with pytest.raises(TimeoutError):
            prometheus.query("1", seconds=0.3)
        prometheus.unpause()
        assert prometheus.value("vector(1)") == 1


def test_it_is_ready_at_once() -> None:
    began = time.monotonic()
    with Prometheus.start():
        assert time.monotonic() - began < 15, "0.3 s on a quiet machine"
