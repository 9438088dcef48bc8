"""The commands `estimate` and `predict`: flags only; what they do is imported when they run."""

from __future__ import annotations

from typing import Any

import click

from slmpack.cli.question_flags import question_flags

__all__ = ["OUTPUT", "estimate", "exit_codes", "predict"]

OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


def exit_codes(*codes: str) -> str:
    """An epilog that click does not wrap: it starts with a backspace."""
    return "\n".join(["\b", "Exit codes:", *(f"  {code}" for code in codes)])


@click.command(
    epilog=exit_codes(
        "0  a replica fits and keeps the bounds (with --all-gpus: on one of them)",
        "1  an error: a flag, a file or a model's config cannot be used",
        "2  no replica fits, or no batch keeps the bounds",
    )
)
@question_flags
@click.option("--all-gpus", is_flag=True, help="One row for each GPU of the catalogue, instead of --gpu.")
@click.option("--png", metavar="FILE", help="Draw throughput and latency against batch into a PNG file, too.")
@OUTPUT
def estimate(all_gpus: bool, png: str | None, output: str, **flags: Any) -> int:  # noqa: ANN401 - click checks them
    """Estimate what a replica needs, how many of them pay on one GPU, and with which flags.

    MODEL is an id on the Hugging Face Hub. Every figure is an estimate, printed with its basis.
    """
    from slmpack.cli.estimate import answer_estimate
    from slmpack.cli.question import Asked

    return answer_estimate(Asked(**flags), all_gpus=all_gpus, png=png, output=output)


@click.command(
    epilog=exit_codes(
        "0  it fits and keeps the bounds",
        "1  an error: a flag, a file or a model's config cannot be used",
        "2  it does not fit, breaks a bound, or cannot be predicted",
    )
)
@question_flags
@click.option("--pack", metavar="FILE", help="Unequal replicas: a YAML file with a list `tenants`; see examples/packs.")
@OUTPUT
def predict(pack: str | None, output: str, **flags: Any) -> int:  # noqa: ANN401 - click checks them
    """Predict throughput, latency, power and energy of replicas that share one GPU.

    MODEL is an id on the Hugging Face Hub. Every figure is modelled, and printed with its low and high.
    """
    from slmpack.cli.predict import answer_predict
    from slmpack.cli.question import Asked

    return answer_predict(Asked(**flags), pack=pack, output=output)
