"""Help that teaches: every command shows examples that parse, under the name that its user typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from slmpack.cli import main
from slmpack.cli.completion import SHELLS, kubectl_answer
from slmpack.cli.teaching import SECTIONS, Taught
from tests.support.cli import slmpack

ROOT = Path(__file__).parents[3]
COMMANDS = sorted(main.commands)
BIN = Path(sys.executable).parent


def taught(name: str) -> Taught:
    command = main.commands[name]
    assert isinstance(command, Taught), f"{name} has no examples"
    return command


def test_every_command_is_in_one_section() -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == COMMANDS
    help_text = slmpack("--help", width=80).stdout
    listed = re.findall(r"^  ([a-z]+)  +(.*)$", help_text, flags=re.MULTILINE)
    assert sorted(name for name, _ in listed) == COMMANDS
    assert [what for _, what in listed if what.endswith("...")] == [], "say it in fewer words"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_shows_examples_options_and_exit_codes(name: str) -> None:
    result = slmpack(name, "--help", width=80)
    assert result.exit_code == 0
    heads = {"Examples:", "Options:", "Exit codes:"}
    assert [line for line in result.stdout.splitlines() if line in heads] == ["Examples:", "Options:", "Exit codes:"]
    for _, line in taught(name).examples:
        assert f"  {line}\n" in result.stdout


@pytest.mark.parametrize(("name", "line"), [(name, line) for name in COMMANDS for _, line in taught(name).examples])
def test_every_example_parses(name: str, line: str) -> None:
    """And names its own command, with options that there are."""
    inner = re.search(r"\$\((.*)\)", line)
    words = shlex.split((inner[1] if inner else line).split(" | ")[0].split(" > ")[0])
    assert words[:2] == ["slmpack", name]
    context = taught(name).make_context(name, words[2:], resilient_parsing=False)
    assert context.args == []
    for path in (word for word in words if word.startswith("examples/")):
        assert (ROOT / path).exists()


def test_options_stand_under_what_they_are_about() -> None:
    estimate = slmpack("estimate", "--help", width=80).stdout.split("\n\n")
    engine = next(part for part in estimate if part.startswith("The engine:\n"))
    assert "\n  --max-model-len TOKENS " in engine
    assert "--itl-ms" not in engine
    measuring = slmpack("run", "--help", width=80).stdout.split("Measuring:\n")[1]
    assert measuring.count("--prometheus-") == 5
    assert "--namespace" not in measuring


def test_the_plugin_calls_itself_as_its_user_does() -> None:
    """kubectl runs the file that it finds by the name kubectl-slm."""
    done = subprocess.run([BIN / "kubectl-slm", "plan", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: kubectl slm plan [OPTIONS]")
    assert "  kubectl slm plan -f chat.yaml --cluster\n" in done.stdout
    assert " slmpack plan" not in done.stdout
    crd = subprocess.run([BIN / "kubectl-slm", "crd", "--help"], capture_output=True, text=True, check=True)
    assert "  kubectl slm crd | kubectl apply --server-side -f -\n" in crd.stdout
    wrong = subprocess.run([BIN / "kubectl-slm", "plan", "--nonsense"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "kubectl slm plan --help" in wrong.stderr) == (1, True)


def kubectl(*args: str) -> str:
    path = shutil.which("kubectl", path=f"{BIN}:{os.environ['PATH']}")
    assert path is not None, "make init brings kubectl"
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run([path, *args], env=env, capture_output=True, text=True, check=True).stdout


def test_kubectl_finds_the_plugin() -> None:
    assert kubectl("slm", "--version").startswith("slmpack, version ")
    assert f"{BIN}/kubectl-slm\n" in kubectl("plugin", "list")


def test_kubectl_completes_the_plugin() -> None:
    lines = kubectl("__complete", "slm", "").splitlines()
    assert [line.split("\t")[0] for line in lines[:-1]] == COMMANDS
    assert lines[-1] == ":4"
    assert "\tShow what the operator would do, and why." in "".join(kubectl("__complete", "slm", "pl"))
    assert kubectl("__complete", "slm", "plan", "-f", "") == ":0\n", "a file: the shell knows them"
    assert kubectl("__complete", "slm", "top", "--sort-by", "t").splitlines() == ["tok/s", "ttft", ":4"]
    assert kubectl("__complete", "slm", "estimate", "m", "--gpu", "L4").splitlines() == ["l4", "l40", "l40s", ":4"]
    assert kubectl("__complete", "slm", "profile", "u", "--gpu", "gb").splitlines() == ["gb200-186gb", ":4"]
    assert kubectl("__complete", "slm", "top", "--all").splitlines()[0].startswith("--all-namespaces\t")


def test_the_answer_to_nothing_typed_is_every_command() -> None:
    assert len(list(kubectl_answer(main, []))) == len(COMMANDS) + 1


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_gets_its_script(shell: str) -> None:
    result = slmpack("completion", shell)
    assert result.exit_code == 0
    assert "_SLMPACK_COMPLETE" in result.stdout
    assert f"{shell}_complete" in result.stdout


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    """A real bash sources it, and asks the real program."""
    (tmp_path / "complete").write_text(slmpack("completion", "bash").stdout)
    ask = "COMP_WORDS=(slmpack top --so); COMP_CWORD=2; _slmpack_completion slmpack; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        ["bash", "-c", f". {tmp_path}/complete && {ask}"],
        env={"PATH": f"{BIN}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "--sort-by\n"


def test_options_that_take_a_file_let_the_shell_complete_it() -> None:
    """Without a path type, click answers nothing, and the shell offers nothing."""
    silent = [
        f"{name} {param.opts[0]}"
        for name, command in main.commands.items()
        for param in command.params
        if param.metavar == "FILE" and not isinstance(param.type, click.Path)
    ]
    assert silent == []
