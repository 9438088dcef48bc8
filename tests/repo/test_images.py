"""The Dockerfiles: what hadolint says, and what it does not know. `make test-image` builds and runs the images."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "images").glob("*/Dockerfile"))
OPERATOR = (ROOT / "images/operator/Dockerfile").read_text()
IDS = [path.parent.name for path in DOCKERFILES]


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "hadolint"
    command = [str(program), "--config", str(ROOT / ".hadolint.yaml"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", DOCKERFILES, ids=IDS)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = hadolint(path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    """By our configuration: the smallest finding counts."""
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp\n")
    done = hadolint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert "DL3007" in done.stdout
    assert "DL3003" in done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=IDS)
def test_base_images_have_an_exact_version(path: Path) -> None:
    text = path.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, flags=re.MULTILINE))
    stages = set(re.findall(r"^FROM .* AS (\w+)$", text, flags=re.MULTILINE))
    bases = {arguments.get(it.strip("${}"), it) for it in re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)}
    for base in bases - stages - {"scratch"}:
        assert re.search(r":v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?$|@sha256:[0-9a-f]{64}$", base), base


@pytest.mark.parametrize("path", DOCKERFILES, ids=IDS)
def test_what_a_dockerfile_copies_is_let_in(path: Path) -> None:
    """Everything is kept out but what is named; what is named exists."""
    ignore = path.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    allowed = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    for line in allowed:
        assert list(ROOT.glob(line)), f"{line}: no such file"
    text = path.read_text().replace("\\\n", " ")
    copied = [
        word for words in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE) for word in words.split()
    ]
    copied += re.findall(r"--mount=type=bind,source=([^, ]+)", text)
    for word in copied:
        assert any(Path(word).match(it) or it.startswith(f"{word}/") or word == it for it in allowed), word


def test_the_operators_last_stage_is_as_a_cluster_wants_it() -> None:
    last = OPERATOR.split("\nFROM ")[-1]
    assert "\nUSER 65532:65532\n" in last, "runAsNonRoot needs a number"
    assert '\nENTRYPOINT ["slmpack"]\n' in last
    assert not re.search(r"\b(pip|apt-get|hatchling) install", last)
    assert "COPY --from=build /opt/slmpack /opt/slmpack" in last


def test_everything_is_installed_by_hash() -> None:
    """The wheel that was just built is the one thing without one."""
    installs = re.findall(r"pip(?: --python \S+)? install (.*?)(?: \\|$)", OPERATOR, flags=re.MULTILINE)
    assert len(installs) == 3
    assert "PIP_REQUIRE_HASHES=1" in OPERATOR
    assert "PIP_ONLY_BINARY=:all:" in OPERATOR
    (unhashed,) = re.findall(
        r"PIP_REQUIRE_HASHES=0 \S+ (?:--python \S+ )?install (.*?) \\$", OPERATOR, flags=re.MULTILINE
    )
    assert unhashed == "--no-compile --no-deps --no-index /dist/*.whl"
    for name in ("requirements.lock", "build.lock"):
        text = (ROOT / "images/operator" / name).read_text()
        assert "://" not in text
        assert text.count("--hash=sha256:") >= text.count("==") > 20
