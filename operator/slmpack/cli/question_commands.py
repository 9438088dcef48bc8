"""The commands `estimate` and `predict`: flags only; what they do is imported when they run."""

from __future__ import annotations

from typing import Any

import click

from slmpack.cli.question_flags import HEADINGS, question_flags
from slmpack.cli.teaching import Taught

__all__ = ["OUTPUT", "estimate", "predict"]

OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.command(
    cls=Taught,
    examples=(
        ("how many pay on an L4", "slmpack estimate Qwen/Qwen2.5-1.5B-Instruct --gpu l4"),
        ("which GPU to buy", "slmpack estimate Qwen/Qwen2.5-1.5B-Instruct --all-gpus"),
        (
            "for a load of your own, within bounds of your own",
            "slmpack estimate Qwen/Qwen2.5-1.5B-Instruct --gpu h100-sxm5-80gb --in-flight 256 --itl-ms 30",
        ),
        ("a model that is not on the Hub", "slmpack estimate --config my-model/config.json --gpu l4"),
    ),
    headings=HEADINGS,
    short_help="Estimate a replica's need, and how many pay on a GPU.",
    exit_codes=(
        "0  a replica fits and keeps the bounds (with --all-gpus: on one of them)",
        "1  an error: a flag, a file or a model's config cannot be used",
        "2  no replica fits, or no batch keeps the bounds",
    ),
)
@question_flags
@click.option("--all-gpus", is_flag=True, help="One row for each GPU of the catalogue, instead of --gpu.")
@click.option(
    "--png", type=click.Path(), metavar="FILE", help="Draw throughput and latency against batch into a PNG file, too."
)
@OUTPUT
def estimate(all_gpus: bool, png: str | None, output: str, **flags: Any) -> int:  # noqa: ANN401 - click checks them
    """Estimate what a replica needs, how many of them pay on one GPU, and with which flags.

    MODEL is an id on the Hugging Face Hub. Every figure is an estimate, printed with its basis.
    """
    from slmpack.cli.estimate import answer_estimate
    from slmpack.cli.question import Asked

    return answer_estimate(Asked(**flags), all_gpus=all_gpus, png=png, output=output)


@click.command(
    cls=Taught,
    examples=(
        (
            "two replicas with 64 requests each",
            "slmpack predict Qwen/Qwen2.5-1.5B-Instruct --gpu l4 --sharing mps --replicas 2 --batch 64",
        ),
        ("different models on one GPU", "slmpack predict --pack examples/packs/l4-two-models.yaml"),
    ),
    headings=HEADINGS,
    short_help="Predict throughput, latency and watts of what you name.",
    exit_codes=(
        "0  it fits and keeps the bounds",
        "1  an error: a flag, a file or a model's config cannot be used",
        "2  it does not fit, breaks a bound, or cannot be predicted",
    ),
)
@question_flags
@click.option(
    "--pack",
    type=click.Path(),
    metavar="FILE",
    help="Unequal replicas: a YAML file with a list `tenants`; see examples/packs.",
)
@OUTPUT
def predict(pack: str | None, output: str, **flags: Any) -> int:  # noqa: ANN401 - click checks them
    """Predict throughput, latency, power and energy of replicas that share one GPU.

    MODEL is an id on the Hugging Face Hub. Every figure is modelled, and printed with its low and high.
    """
    from slmpack.cli.predict import answer_predict
    from slmpack.cli.question import Asked

    return answer_predict(Asked(**flags), pack=pack, output=output)
