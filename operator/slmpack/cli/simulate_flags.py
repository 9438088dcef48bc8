"""The command `simulate`: flags only; what it does is imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from slmpack.cli.teaching import Taught

__all__ = ["POLICIES", "simulate"]

POLICIES = ("slmpack", "fixed", "hpa", "keda", "kpa", "kubeai", "aibrix", "wva", "dynamo", "oracle")


@click.command(
    cls=Taught,
    examples=(
        (
            "this operator and a HorizontalPodAutoscaler on the same trace",
            "slmpack simulate -f chat.yaml -f nodes.yaml --trace trace.csv --policy slmpack --policy hpa",
        ),
        (
            "three times the load, for programs",
            "slmpack simulate -f chat.yaml -f nodes.yaml --trace trace.csv --rate-multiplier 3 -o json",
        ),
    ),
    short_help="Play a trace; compare how replicas are scaled.",
    exit_codes=("0  simulated", "1  an error: a file, a flag or a missing extra"),
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="SLMDeployments and Nodes, as `kubectl get -o yaml` prints them. May be repeated.",
)
@click.option(
    "--trace",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="CSV (.csv or .csv.gz) with arrival_s,input_tokens,output_tokens and, if there are several SLMDeployments,"
    " tenant: the name of one.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    default=("slmpack",),
    show_default=True,
    help="Who decides how many replicas run: this operator, a fixed number, a peer's algorithm, or an oracle that"
    " knows every arrival. May be repeated.",
)
@click.option(
    "--target",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Of the peers: requests in flight for a replica (hpa, kpa, kubeai, aibrix), waiting requests (keda), part of"
    " the KV cache (wva, dynamo), replicas (fixed), load (oracle). Default: each one's own; the oracle is swept.",
)
@click.option(
    "--placement",
    type=click.Choice(["kubernetes", "ours"]),
    default="kubernetes",
    show_default=True,
    help="Where peers' replicas go and which end: as Kubernetes would have it, or as this operator.",
)
@click.option(
    "--start",
    type=click.Choice(["cold", "k8s", "wake"]),
    default="cold",
    show_default=True,
    help="How long a start takes: median 45 s, 115 s or 2 s.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, metavar="N", help="Draws the hidden world."
)
@click.option("--from", "since", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Begin there, seconds.")
@click.option("--to", "until", type=click.FloatRange(min=0, min_open=True), metavar="S", help="End there, seconds.")
@click.option(
    "--rate-multiplier",
    "multiplier",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="So many copies of the trace, laid over each other with shifts of up to a minute.",
)
@click.option(
    "--warm-up",
    "warm_up",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Seconds at the beginning that count in no figure. Default: 900 of a day, 600 of an hour, at most a fifth.",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--png", type=click.Path(), metavar="FILE", help="Draw load, replicas, watts and latency over time, too.")
@click.option(
    "--supervisor-image",
    metavar="IMAGE",
    help="As the operator that runs with this flag would do: it may put several replicas into one pod (MPSPack).",
)
def simulate(**options: Any) -> int:  # noqa: ANN401 - click checks them
    """Play a trace of requests against a simulated cluster, and compare how replicas are scaled and placed.

    Nothing is run on a GPU: engines are modelled, with factors of up to 25 % that are drawn by the seed and that no
    policy knows. docs/simulate.md says what is modelled and what is not.
    """
    try:
        import numpy as np  # noqa: F401 - the simulator is made of it
    except ImportError as error:
        raise click.ClickException(
            "simulate needs numpy: make init, or pip install '.[simulate]' in slmpack's clone"
        ) from error
    from slmpack.cli.simulate import answer_simulate

    if options["until"] is not None and options["until"] <= options["since"]:
        raise click.UsageError(f"--to {options['until']:g} must be more than --from {options['since']:g}")
    return answer_simulate(**options)
