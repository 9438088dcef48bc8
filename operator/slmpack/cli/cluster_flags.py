"""The flags that say which cluster is read, and as which operator: `plan`, `explain`, `top` and `run` share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["as_operator", "bundled_models", "cluster_options", "require_image", "require_kubeconfig"]

F = TypeVar("F", bound=Callable[..., Any])

OF_THE_OPERATOR = "Do not ask the Hub for models whose config.json ships with slmpack."
LIKE_THE_OPERATOR = f"{OF_THE_OPERATOR} From files, it never is asked for them."


def cluster_options(command: F) -> F:
    """Add --kubeconfig and --context."""
    context = click.option("--context", metavar="NAME", help="The kubeconfig's context to use.")
    help_ = "How to reach the cluster. Default: as kubectl does."
    return click.option("--kubeconfig", type=click.Path(), metavar="FILE", help=help_)(context(command))


def bundled_models(command: F) -> F:
    """Add --bundled-models to the operator's own flags."""
    return _bundled(command, OF_THE_OPERATOR)


def _bundled(command: F, words: str) -> F:
    return click.option("--bundled-models", is_flag=True, help=words)(command)


def as_operator(command: F) -> F:
    """Add what the operator may have been told, so that the same is worked out here."""
    image = click.option(
        "--supervisor-image",
        metavar="IMAGE",
        envvar="SLMPACK_SUPERVISOR_IMAGE",
        callback=lambda _, __, text: require_image(text),
        help="As the operator that runs with this flag would do: it may put several replicas into one pod (MPSPack).",
    )
    return image(_bundled(command, LIKE_THE_OPERATOR))


def require_image(text: str | None) -> str | None:
    """The image's name; click.BadParameter where it is none."""
    if text is not None and (not text or text.split() != [text]):
        raise click.BadParameter(
            f"{text!r} is not an image; write for instance registry.example/slmpack:1.0",
            param_hint="--supervisor-image",
        )
    return text


def require_kubeconfig(path: str | None) -> None:
    """Raise click.ClickException where a file is named that is not there."""
    if path is not None and not Path(path).is_file():
        raise click.ClickException(f"--kubeconfig {path}: no such file")
