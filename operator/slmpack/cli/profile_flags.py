"""`slmpack profile` on the command line. Nothing heavier than click is imported: `slmpack --help` reads this."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from slmpack.cli.complete_names import gpus
from slmpack.cli.teaching import Taught

__all__ = ["MOST_IN_FLIGHT", "profile"]

MOST_IN_FLIGHT = 512
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def _concurrency(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Numbers between commas, each once, in order."""
    if text is None:
        return None
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1 or found[-1] > MOST_IN_FLIGHT:
        raise click.BadParameter(f"{text!r}: numbers from 1 to {MOST_IN_FLIGHT} between commas, for instance 1,8,32")
    return found


def _object_name(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not NAME.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no object name: use lower-case letters, digits, '-' and '.'")
    return text


@click.command(
    cls=Taught,
    examples=(
        ("what would be done", "slmpack profile http://localhost:8000 --dry-run"),
        (
            "measure, and keep what was measured",
            "slmpack profile http://localhost:8000 --gpu l4 --max-num-seqs 256 --out qwen-l4.yaml",
        ),
        (
            "hand it to the operator (spec.profileRef)",
            "slmpack profile http://localhost:8000 --out qwen-l4.yaml --configmap qwen-l4 | kubectl apply -f -",
        ),
    ),
    short_help="Measure a vLLM server, and find its knee.",
    exit_codes=(
        "0    the sweep is complete and its knee is named (or --dry-run)",
        "1    an error: the server cannot be used, or FILE was measured otherwise",
        "2    no knee is named, or points are missing; the output says why",
        "130  Ctrl-C; FILE holds what was measured",
    ),
)
@click.argument("url")
@click.option("--model", metavar="NAME", help="As requests call it. Default: the first that /v1/models lists.")
@click.option(
    "--input-len", "input_tokens", type=click.IntRange(1, 1_000_000), default=512, show_default=True, metavar="TOKENS"
)
@click.option(
    "--output-len", "output_tokens", type=click.IntRange(2, 1_000_000), default=256, show_default=True, metavar="TOKENS"
)
@click.option(
    "--concurrency",
    callback=_concurrency,
    metavar="N,N,...",
    help="Requests in flight to measure. Default: 1, 2, 4 and so on to 256, as far as max-num-seqs and KV cache go.",
)
@click.option("--repeats", type=click.IntRange(1, 20), default=3, show_default=True, metavar="N", help="Of each point.")
@click.option(
    "--min-seconds",
    type=click.FloatRange(0.01, 600),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="Least length of a repeat; it is whole requests, so it may be longer.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    default=900.0,
    show_default=True,
    help="Of the whole.",
)
@click.option(
    "--point-seconds",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    default=180.0,
    show_default=True,
    help="Of one point.",
)
@click.option(
    "--request-timeout",
    "request_seconds",
    type=click.FloatRange(1, 3_600),
    metavar="SECONDS",
    default=120.0,
    show_default=True,
    help="Seconds after which a request has failed.",
)
@click.option(
    "--gpu",
    shell_complete=gpus,
    metavar="GPU",
    help="Where it runs: a catalogue id or the node's nvidia.com/gpu.product label.",
)
@click.option(
    "--max-num-seqs",
    type=click.IntRange(1),
    metavar="N",
    help="As the engine was started: no endpoint of vLLM tells it.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="On this GPU, this one included.",
)
@click.option("--sharing", type=click.Choice(["none", "mig", "mps", "timeslice"]), help="How they share the GPU.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the profile here after each point. If FILE is there, the points that it lacks are measured.",
)
@click.option(
    "--configmap", callback=_object_name, metavar="NAME", help="Print a ConfigMap for `kubectl apply -f -` instead."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would be done and send no completion.")
def profile(**options: Any) -> int:  # noqa: ANN401 - click checks them
    """Measure throughput and latency of the vLLM server at URL by requests in flight, and find the knee.

    The server should serve nobody else meanwhile. OPENAI_API_KEY is the server's key, where it has one. What each
    refusal means is in docs/profiling.md.
    """
    from slmpack.cli.profile import ProfileOptions, answer_profile

    if not options["url"].startswith(("http://", "https://")):
        raise click.UsageError(f"{options['url']!r} is no URL; write for instance http://localhost:8000")
    if options["configmap"] and options["output"] == "json":
        raise click.UsageError("--configmap and -o json exclude each other; give one of them")
    return answer_profile(ProfileOptions(**options))
