"""`slmpack profile` as a user meets it: what it prints, its exit codes, Ctrl-C, and the commands of its page."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from slmpack.api.profile import (
    PROFILE_KEY,
    FaultDocument,
    PointDocument,
    ProfileDocument,
    parse_profile,
    read_document,
)
from slmpack.cli.profile_flags import profile as command
from slmpack.domain.knee import Binding
from slmpack.domain.profile import Profile
from slmpack.domain.profile_faults import Fault
from tests.support.cli import slmpack
from tests.support.fake_vllm import FakeVllm, fake_vllm

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "profiling.md").read_text(encoding="utf-8")
SHORT = ("--input-len", "40", "--output-len", "8", "--min-seconds", "0.05", "--concurrency", "1,2")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeVllm]:
    with fake_vllm() as fake:
        yield fake


def complete(path: Path, **other: Any) -> Path:
    """A file in which nothing is missing for SHORT."""
    points = [
        {"concurrency": 1, "throughput_tok_s": 100.0, "itl_s": 0.01, "ttft_s": 0.02, "running": 1.0, "preemptions": 0},
        {
            "concurrency": 2,
            "throughput_tok_s": 102.5,
            "throughput_low_tok_s": 100.0,
            "throughput_high_tok_s": 105.0,
            "itl_s": 0.02,
            "itl_p50_s": 0.019,
            "itl_p99_s": 0.031,
            "ttft_s": 0.04,
            "ttft_p99_s": 0.05,
        },
    ]
    document = {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "Profile",
        "model": "org/tiny",
        "served_name": "tiny",
        "engine_version": "0.32.0",
        "max_model_len": 4096,
        "kv_cache_tokens": 1_048_576,
        "input_tokens": 40,
        "output_tokens": 8,
        "repeats": 3,
        "min_seconds": 0.05,
        "points": points,
    }
    path.write_text(yaml.safe_dump(document | other))
    return path


def test_a_table_and_the_knee(server: FakeVllm, tmp_path: Path) -> None:
    found = slmpack("profile", server.url, *SHORT, "--out", str(complete(tmp_path / "p.yaml")), width=80)
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.stdout.splitlines()]
    assert ["1", "100", "10.0", "20.0", "1.0", "0"] in lines
    assert ["2", "102", "2.4%", "20.0", "19.0", "31.0", "40.0", "50.0"] in lines
    assert "The knee is 1: 2 gives 2.5 % more than 1, less than 10.0 %." in found.stdout
    assert "Binding: Doubling" in found.stdout
    assert "Nothing is left to measure." in found.stderr


def test_spoilt_points_are_marked_and_the_refusal_is_printed(server: FakeVllm, tmp_path: Path) -> None:
    path = complete(tmp_path / "p.yaml")
    document = yaml.safe_load(path.read_text())
    document["points"][1]["faults"] = [{"fault": "Cap", "message": "at most 1 of 2 requests ran at once"}]
    found = slmpack("profile", server.url, *SHORT, "--out", str(complete(path, points=document["points"])), width=100)
    assert found.exit_code == 2
    assert found.stdout.splitlines()[3].split()[-1] == "Cap"
    assert "No knee is named: 1 of 2 points can be used" in found.stdout


def test_a_sweep_from_end_to_end(tmp_path: Path) -> None:
    """In real time, so the figures are this machine's; the file has them."""
    path = tmp_path / "p.yaml"
    with fake_vllm() as fake:
        found = slmpack("profile", fake.url, *SHORT, "--out", str(path), "--gpu", "l4", "-o", "json")
    document = json.loads(found.stdout)
    assert found.exit_code == (0 if document["knee"] else 2), found.output
    assert document == read_document(path.read_text()).model_dump(mode="json")  # type: ignore[union-attr]
    assert [entry["concurrency"] for entry in document["points"]] == [1, 2]
    assert document["gpu"] == "l4"
    assert "To measure: 1, 2 requests in flight" in found.stderr
    assert re.search(r"^1 in flight: \d+ tokens/s, ITL [\d.]+ ms", found.stderr, flags=re.MULTILINE)


def test_a_configmap_for_kubectl(server: FakeVllm, tmp_path: Path) -> None:
    path = complete(tmp_path / "p.yaml")
    found = slmpack("profile", server.url, *SHORT, "--out", str(path), "--configmap", "tiny-on-l4", width=400)
    assert found.exit_code == 0, found.output
    assert "Warning: --configmap without --gpu: a profile that does not say its GPU calibrates nothing" in found.stderr
    manifest = yaml.safe_load(found.stdout)
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("ConfigMap", "tiny-on-l4")
    profile = parse_profile(manifest["data"][PROFILE_KEY])
    assert isinstance(profile, Profile)
    assert profile.model == "org/tiny"
    assert f"  {PROFILE_KEY}: |\n    apiVersion:" in found.stdout
    assert "The knee is 1" in found.stderr


def test_no_configmap_of_too_few_points(server: FakeVllm, tmp_path: Path) -> None:
    path = complete(tmp_path / "p.yaml", points=[])
    command = ("profile", server.url, *SHORT, "--concurrency", "1", "--out", str(path), "--configmap", "tiny")
    found = slmpack(*command)
    assert found.exit_code == 1
    assert "points can be used, 2 are needed; none is printed" in found.stderr
    assert found.stdout == ""


def test_a_dry_run_sends_no_completion(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    with fake_vllm(kv_tokens=4800) as fake:
        found = slmpack("profile", fake.url, "--dry-run", "--out", str(path), width=400)
        assert fake.bodies == []
    assert found.exit_code == 0, found.output
    assert found.stderr == (
        f"{fake.url} serves tiny (org/tiny), vLLM 0.32.0, a KV cache of 4,800 tokens, requests of at most 4,096 tokens.\n"
        "To measure: 1, 2, 4 requests in flight, each with 512 random input and 256 output tokens; a warm-up and 3 "
        "repeats of at least 5 s for each; 900 s at most.\n"
    )
    assert not path.exists()


@pytest.mark.parametrize(("asked", "kept"), [("L4", "l4"), ("NVIDIA-L4", "NVIDIA-L4")])
def test_the_gpu_is_kept_as_the_planner_compares_it(server: FakeVllm, tmp_path: Path, asked: str, kept: str) -> None:
    path = complete(tmp_path / "p.yaml", gpu=kept)
    found = slmpack("profile", server.url, *SHORT, "--out", str(path), "--gpu", asked, "--configmap", "tiny-on-l4")
    assert found.exit_code == 0, found.output
    assert "Warning" not in found.stderr
    assert f"    gpu: {kept}\n" in found.stdout


def test_what_the_server_does_not_tell_is_said() -> None:
    with fake_vllm(version_fails=True, metrics_until=0) as fake:
        found = slmpack("profile", fake.url, "--dry-run", width=400)
    assert found.exit_code == 0, found.output
    assert f"{fake.url} serves tiny (org/tiny), vLLM of unknown version, " in found.stderr
    assert found.stderr.endswith(
        f"GET {fake.url}/metrics answered 500: no more metrics: the size of the KV cache stays unknown, and a point that"
        " is measured like this is spoilt (Unseen).\n"
        f"GET {fake.url}/version answered 500: no version: the engine's version stays unknown.\n"
    )


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    with fake_vllm(step_s=0.1) as fake:
        found = slmpack("profile", fake.url, *SHORT, "--max-seconds", "1", "--out", str(path))
    assert found.exit_code == 2
    assert f"Not measured: 1, 2 in flight: the 1 s of --max-seconds are over; the same command goes on from {path}" in (
        found.stderr
    )


def test_the_key_of_the_server(server: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with fake_vllm(key="secret") as fake:
        assert slmpack("profile", fake.url, "--dry-run").exit_code == 0
        monkeypatch.delenv("OPENAI_API_KEY")
        found = slmpack("profile", fake.url, "--dry-run")
    assert (found.exit_code, "answered 401" in found.stderr) == (1, True)


@pytest.mark.parametrize("key", ["secret\n", "sec\0ret", "sécret"])
def test_a_key_that_no_header_can_carry(server: FakeVllm, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy() | {"OPENAI_API_KEY": key})
    found = slmpack("profile", server.url, "--dry-run")
    assert found.exit_code == 1
    assert found.stderr.startswith("Error: OPENAI_API_KEY: has a line break or another character")
    assert key not in found.stderr


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    with fake_vllm() as fake:
        args = [sys.executable, "-m", "slmpack", "profile", fake.url, *SHORT, "--concurrency", "1,2,3,4,5,6,7,8"]
        env = os.environ | {"PYTHONPATH": str(ROOT / "operator")}
        args += ["--min-seconds", "0.5", "--out", str(path)]
        with subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("1 in flight:"):
                    break
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "No knee is named" in stdout
    assert "in flight: interrupted; the same command goes on from" in stderr
    document = read_document(path.read_text())
    assert isinstance(document, ProfileDocument)
    assert 1 <= len(document.points) < 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("localhost:8000",), "'localhost:8000' is no URL; write for instance http://localhost:8000"),
        (("http://x", "--concurrency", "1,two"), "'1,two': numbers from 1 to 512 between commas"),
        (("http://x", "--concurrency", "0"), "'0': numbers from 1 to 512 between commas"),
        (("http://x", "--concurrency", "1,1000"), "'1,1000': numbers from 1 to 512 between commas"),
        (("http://x", "--configmap", "My_Map"), "'My_Map' is no object name"),
        (("http://x", "--configmap", "m", "-o", "json"), "--configmap and -o json exclude each other"),
        (("http://x", "--output-len", "1"), "--output-len"),
        (("http://x", "--gpu", "l400"), "Invalid value for --gpu: 'l400' is not in the catalogue; the nearest are: l4"),
    ],
)
def test_options_that_make_no_sense(args: tuple[str, ...], message: str) -> None:
    found = slmpack("profile", *args)
    assert found.exit_code == 1
    assert message in found.stderr


def test_nobody_there() -> None:
    found = slmpack("profile", "http://127.0.0.1:1")
    assert found.exit_code == 1
    assert found.stderr == "Error: http://127.0.0.1:1/v1/models: 127.0.0.1 port 1: Connection refused\n"


# its page


def commands() -> list[list[str]]:
    lines = re.findall(r"^slmpack profile (.*?)(?: \|.*)?$", PAGE, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("args", commands(), ids=" ".join)
def test_the_page_s_commands_are_understood(args: list[str]) -> None:
    with click.Context(command) as context:
        command.parse_args(context, args)
    assert context.params["url"] == "http://localhost:8000"


def test_the_page_has_commands() -> None:
    assert len(commands()) == 7


def test_the_page_explains_every_refusal_and_every_clause() -> None:
    section = PAGE.split("## When no knee is named")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([A-Za-z]+)` \|", section, flags=re.MULTILINE) == [
        "Client",
        "Cap",
        "CacheHits",
        "Preemption",
        "CoTenant",
        "Errors",
        "Unseen",
        "Switched",
    ]
    assert {fault.value for fault in Fault} <= set(re.findall(r"`([A-Za-z]+)`", PAGE))
    clauses = {binding.value for binding in Binding} - {Binding.GRID_END.value, Binding.MAX_NUM_SEQS.value}
    assert clauses <= set(re.findall(r"`([A-Za-z]+)`", PAGE))


def test_the_page_explains_every_field_of_the_file() -> None:
    fields = {**PointDocument.model_fields, **ProfileDocument.model_fields, **FaultDocument.model_fields}
    rows = re.findall(r"^\| `([A-Za-z0-9_.\[\]]+)` \|", PAGE.split("## The file")[1], flags=re.MULTILINE)
    assert {row.rpartition(".")[2].removesuffix("[]") for row in rows} == set(fields)


def test_the_page_s_defaults_are_the_command_s() -> None:
    said = {name: float(value) for name, value in re.findall(r"`(--[a-z-]+)` \((\d+)\)", PAGE)}
    defaults = {param.opts[0]: param.default for param in command.params}
    assert said == {name: defaults[name] for name in said}
    assert len(said) == 6
