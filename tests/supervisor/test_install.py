"""What the init container writes, and what may be in it."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from pathlib import Path

import slmpack.supervisor
from slmpack.supervisor.install import main

PACKAGE = Path(slmpack.supervisor.__file__).parent


def test_it_writes_a_program_that_runs_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "supervisor.pyz").write_text("an older one")
    env = {"PYTHONPATH": str(PACKAGE.parent.parent)}
    command = [sys.executable, "-m", "slmpack.supervisor.install", str(folder)]
    subprocess.run(command, env=env, check=True, capture_output=True)
    program = folder / "supervisor.pyz"
    assert [path.name for path in folder.iterdir()] == [program.name]
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    done = subprocess.run([sys.executable, "-I", str(program)], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stdout.startswith("[slmpack] cannot start: SLMPACK_PACK: not JSON")
    assert done.stderr == ""


def test_it_leaves_nothing_half_written(tmp_path: Path, capsys: object) -> None:
    (tmp_path / "supervisor.pyz").mkdir()
    (tmp_path / "supervisor.pyz" / "in the way").touch()
    assert main([str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["supervisor.pyz"]
    assert main([]) == 64


def test_helpers_say_what_failed_on_a_machine_without_a_driver(program: Path) -> None:
    for words in (["probe", "1048576"], ["nvml"]):
        done = subprocess.run(
            [sys.executable, "-I", str(program), *words],
            stdin=subprocess.DEVNULL,
            env={"LD_LIBRARY_PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("{")


def test_a_wrong_call_shows_the_usage(program: Path) -> None:
    done = subprocess.run([sys.executable, "-I", str(program), "what"], capture_output=True, text=True, check=False)
    assert (done.returncode, "supervisor.pyz" in done.stderr) == (64, True)


def test_a_child_whose_parent_is_gone_does_not_start(program: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = [sys.executable, "-I", str(program), "exec", str(os.getppid()), "", "touch", str(made)]
    assert subprocess.run(command, check=False).returncode == 1
    command[4] = str(os.getpid())
    assert subprocess.run(command, check=False).returncode == 0
    assert made.exists()


def test_it_imports_the_standard_library_and_itself_only() -> None:
    for path in sorted(PACKAGE.glob("*.py")):
        # The oldest Python of vLLM's images parses it.
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 10))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                own = name.startswith("slmpack.supervisor.")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name}: {name}"


def test_it_imports_without_the_rest_of_slmpack(program: Path) -> None:
    """Every module, from the archive alone, in the interpreter as the pod starts it."""
    modules = ",".join(f"slmpack.supervisor.{path.stem}" for path in PACKAGE.glob("*.py") if "__" not in path.stem)
    code = f"import sys; sys.path.insert(0, {str(program)!r}); import {modules}; print(slmpack.__file__)"
    done = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{program}/slmpack/__init__.py"
