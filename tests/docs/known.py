"""Whether the sub-commands and flags of a command exist: asked of the programs themselves, which are not run for it."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import click

from slmpack.cli import main
from tests.docs.pages import ROOT

__all__ = ["OTHERS", "faults"]

OTHERS = frozenset({"argocd", "cat", "curl", "docker", "echo", "eval", "export", "flux", "git", "grep", "jq"})
"""Programs that are not ours and that a page uses."""
OURS = re.compile(r"^(\S*/)?slmpack$")
PLUGIN = re.compile(r"^(\S*/)?kubectl[-_]slm$")
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
SHORT = re.compile(r"(?<![\w-])(-[a-zA-Z0-9]), --")
SUBCOMMAND = re.compile(r"^  ([a-z][a-z0-9-]*)\s{2,}", re.MULTILINE)
TAKES_A_VALUE = (
    "-n",
    "--namespace",
    "--context",
    "--kubeconfig",
    "-s",
    "--server",
    "--kube-context",
    "--as",
    "--token",
)
TARGET = re.compile(r"^([a-z][a-z0-9-]*):", re.MULTILINE)


def faults(call: list[str], *, programs: dict[str, Path]) -> list[str]:
    """What is wrong with one call; `programs` has where kubectl and helm are."""
    program, *args = call
    if OURS.match(program) or PLUGIN.match(program):
        return _of_slmpack(main, args, name="slmpack")
    if program in {"kubectl", "helm"}:
        if program == "kubectl" and args[:1] == ["slm"]:
            return _of_slmpack(main, args[1:], name="kubectl slm")
        return _of_cobra(program, args, path=programs[program])
    if program == "make":
        return _of_make(args)
    if program in OTHERS or (ROOT / program).is_file() or program.startswith((".venv/bin/", "$")):
        return []
    return [f"nobody knows the program {program!r}"]


def _of_slmpack(group: click.Group, args: list[str], *, name: str) -> list[str]:
    command: click.Command = group
    while isinstance(command, click.Group) and args and not args[0].startswith("-"):
        found = command.commands.get(args[0])
        if found is None:
            return [f"{name} has no command {args[0]!r}"]
        command, name, args = found, f"{name} {args[0]}", args[1:]
    with click.Context(command, info_name=name) as context:
        params = command.get_params(context)
    options = {opt: it for it in params if isinstance(it, click.Option) for opt in (*it.opts, *it.secondary_opts)}
    wrong = []
    for at, arg in enumerate(args):
        flag, _, value = arg.partition("=")
        if not re.match(r"^--?[a-zA-Z]", flag):
            continue
        option = options.get(flag)
        if option is None:
            wrong.append(f"{name} has no flag {flag}")
        elif isinstance(option.type, click.Choice):
            value = value or (args[at + 1] if at + 1 < len(args) else "")
            if value not in option.type.choices and not value.startswith("$"):
                wrong.append(f"{name} {flag} takes one of {', '.join(map(str, option.type.choices))}, not {value!r}")
    return wrong


def _of_cobra(program: str, args: list[str], *, path: Path) -> list[str]:
    words: list[str] = []
    flags: list[str] = []
    value = False
    for arg in args:
        if value:
            value = False
        elif arg == "--":
            break
        elif arg.startswith("-") and arg != "-":
            flags.append(arg.partition("=")[0])
            value = not words and arg in TAKES_A_VALUE
        else:
            words.append(arg)
    if not words:
        return [] if flags else [f"{program} alone does nothing"]
    name = [words[0]]
    if words[0] not in _subcommands(path, ()):
        return [f"{program} has no command {words[0]!r}"]
    below = _subcommands(path, tuple(name))
    if below and len(words) > 1:
        if words[1] not in below and program == "helm":
            return [f"{program} {words[0]} has no command {words[1]!r}"]
        name += [words[1]] if words[1] in below else []
    known = _flags(path, tuple(name))
    return [
        f"{program} {' '.join(name)} has no flag {flag}"
        for flag in flags
        if flag not in known and not _joined(flag, known)
    ]


def _joined(flag: str, known: frozenset[str]) -> bool:
    """`-w` with others in one word, or a short flag with its value, as `-ojson`."""
    return not flag.startswith("--") and flag[:2] in known


@cache
def _help(path: Path, name: tuple[str, ...]) -> str:
    done = subprocess.run([str(path), *name, "--help"], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


@cache
def _subcommands(path: Path, name: tuple[str, ...]) -> frozenset[str]:
    text = _help(path, name)
    if "Usage:" not in text:
        return frozenset()
    sections = re.split(r"\n(?=\S[^\n]*:\n)", text)
    return frozenset(
        word for it in sections if re.match(r"[^\n]*Commands[^\n]*:\n", it) for word in SUBCOMMAND.findall(it)
    )


@cache
def _flags(path: Path, name: tuple[str, ...]) -> frozenset[str]:
    text = _help(path, name)
    if path.name == "kubectl":
        text += subprocess.run([str(path), "options"], capture_output=True, text=True, check=True, timeout=60).stdout
    return frozenset({*FLAG.findall(text), *SHORT.findall(text), "-h", "--help"})


@cache
def _targets() -> frozenset[str]:
    return frozenset(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


def _of_make(args: list[str]) -> list[str]:
    targets = [arg for arg in args if "=" not in arg and not arg.startswith("-")]
    return [f"make has no target {target!r}" for target in targets if target not in _targets()]
