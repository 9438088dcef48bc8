"""Rules about the tree itself that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import slmpack
from slmpack.domain.reasons import Reason

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    """Every file of the tree that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_the_source_root_is_no_package() -> None:
    """With operator/__init__.py, `import operator` from the root would find ours and Python would die."""
    assert not (ROOT / "operator" / "__init__.py").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "operator").rglob("*.py")), ids=lambda path: path.name)
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400, "one module, one subject: split it"


def _room(parts: Sequence[str]) -> str:
    """Which of the tests' rooms a module is in; below `unit` each folder is one."""
    return "/".join(parts[1 : 3 if parts[1] == "unit" else 2])


def test_what_two_rooms_of_the_tests_use_is_in_support() -> None:
    """The checks of tests/gpu are a program, which other rooms test."""
    found = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("tests.")
        if _room(node.module.split(".")) not in {_room(path.relative_to(ROOT).parts), "support", "gpu"}
    ]
    assert found == []


def test_one_version() -> None:
    assert slmpack.__version__ == PYPROJECT["project"]["version"]
    assert f"## {slmpack.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    for page in ("README.md", "docs/quickstart.md", "images/operator/README.md"):  # the chart asks for this tag
        assert set(re.findall(r"/slmpack:(\d[\w.]*)", (ROOT / page).read_text())) == {slmpack.__version__}, page


def test_the_lock_names_no_address_and_has_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pins = re.findall(r"^[a-z0-9._-]+(?:\[[a-z,]+\])?==\S+(?: ; .*)? \\$", lock, flags=re.MULTILINE)
    entries = re.findall(r"^[a-z0-9._-]+(?:\[[a-z,]+\])?==", lock, flags=re.MULTILINE)
    assert len(entries) > 20
    assert len(pins) == len(entries), "every pin has hashes"


def test_the_lock_has_every_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    groups = PYPROJECT["dependency-groups"]
    wanted = [*PYPROJECT["project"]["dependencies"], *(d for g in groups.values() for d in g if isinstance(d, str))]
    names = [re.split(r"[<>=\[ ]", line)[0].lower() for line in wanted]
    assert [name for name in names if not re.search(rf"^{re.escape(name)}==", lock, flags=re.MULTILINE)] == []


def test_every_reason_is_explained() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text()
    headings = re.findall(r"^\| `([A-Za-z]+)` \|", page, flags=re.MULTILINE)
    assert sorted(headings) == sorted(reason.value for reason in Reason)


def test_every_reason_has_a_cause_a_remedy_and_a_way_to_look() -> None:
    page = (ROOT / "docs" / "reasons.md").read_text()
    rows = re.findall(r"^\| `([A-Za-z]+)` \| (.*) \|$", page, flags=re.MULTILINE)
    short = [name for name, rest in rows if sum(bool(cell.strip()) for cell in rest.split(" | ")) != 3]
    assert len(rows) == len(Reason)
    assert short == []
    assert [name for name, rest in rows if "`kubectl " not in rest and "`slmpack " not in rest] == []


def test_documents_link_to_what_exists() -> None:
    link = re.compile(r"\]\((?!https?://|#)([^)#]+)[^)]*\)")
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = [(page, target) for page in pages for target in link.findall(page.read_text())]
    broken = [f"{page.name}: {target}" for page, target in found if not (page.parent / target).exists()]
    assert broken == []


def test_no_path_of_a_machine() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh", ""}
        and re.search(r"/(work|home|Users)/[a-z]", path.read_text(errors="ignore"))
    ]
    assert found == []
