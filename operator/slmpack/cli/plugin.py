"""`kubectl slm`: slmpack as kubectl finds it on the PATH, by the names kubectl-slm and kubectl_complete-slm."""

from __future__ import annotations

import contextlib
import sys

import click

from slmpack.cli import main as slmpack
from slmpack.cli.completion import kubectl_answer

__all__ = ["complete", "main"]


def main() -> None:
    """Run slmpack under the name that its user typed."""
    slmpack(prog_name="kubectl slm")


def complete() -> None:
    """Answer kubectl's completion: the arguments are the words after `kubectl slm`, the last being typed."""
    with contextlib.suppress(Exception):  # a prompt is no place for it
        click.echo("".join(f"{line}\n" for line in kubectl_answer(slmpack, sys.argv[1:])), nl=False)
