"""The command `completion`, and what `kubectl slm` answers to kubectl's own completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
from click.shell_completion import ShellComplete, get_completion_class

from slmpack.cli.teaching import Taught

__all__ = ["SHELLS", "completion", "kubectl_answer"]

SHELLS = ("bash", "zsh", "fish")
FILES, NO_FILES = ":0", ":4"
"""Cobra's directives, which kubectl reads from the last line: let the shell complete a path, or not."""


@click.command(
    cls=Taught,
    examples=(
        ("in ~/.bashrc", 'eval "$(slmpack completion bash)"'),
        ("in ~/.zshrc, after compinit", 'eval "$(slmpack completion zsh)"'),
        ("once, for fish", "slmpack completion fish > ~/.config/fish/completions/slmpack.fish"),
    ),
    short_help="Print what completes `slmpack` in a shell.",
    exit_codes=("0  printed", "1  an error"),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes `slmpack` in a shell.

    For `kubectl slm` there is nothing to do where kubectl's completion is set up (kubectl 1.26 or newer): it asks
    kubectl_complete-slm, which is installed beside slmpack.
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click.Choice: click has all three
    made = found(ctx.find_root().command, {}, "slmpack", "_SLMPACK_COMPLETE")
    # Not BashComplete's own: it starts bash to learn its version, which says nothing of the reader's.
    click.echo(ShellComplete.source(made))


def kubectl_answer(command: click.Command, words: Sequence[str]) -> Iterator[str]:
    """The lines for kubectl, as Cobra has them: a value, a tab and its help; a directive last.

    The last of `words` is what is being typed.
    """
    *before, incomplete = words or [""]
    found = ShellComplete(command, {}, "kubectl slm", "").get_completions(before, incomplete)
    for item in found:
        if item.type == "plain":
            yield f"{item.value}\t{item.help}" if item.help else item.value
    yield NO_FILES if all(item.type == "plain" for item in found) else FILES
