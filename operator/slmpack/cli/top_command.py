"""The command `top`: flags only; what it does is imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from slmpack.cli.cluster_flags import cluster_options
from slmpack.cli.complete_names import namespaces
from slmpack.cli.metrics_flags import metrics_settings, now_options
from slmpack.cli.question_commands import OUTPUT
from slmpack.cli.teaching import Taught

__all__ = ["top"]

SORTS = ("name", "ready", "gpus", "req/s", "carried", "tok/s", "itl", "ttft", "kv", "w")
"""The columns that are sorted by, as the table names them."""


@click.command(
    cls=Taught,
    examples=(
        ("those of the namespace that kubectl is set to", "slmpack top"),
        ("all, those with the fewest replicas Ready first", "slmpack top -A --sort-by ready"),
        ("with what is measured now", "slmpack top -A --prometheus-url http://localhost:9090"),
        ("and what is on which GPU", "slmpack top -A --nodes --prometheus-url http://localhost:9090"),
        ("watts of each GPU, for programs", "slmpack top --nodes -o json --prometheus-url http://localhost:9090"),
    ),
    short_help="One line for each SLMDeployment that there is.",
    exit_codes=("0  printed", "1  an error: the cluster cannot be read, or knows no SLMDeployments"),
)
@click.option(
    "-n",
    "--namespace",
    shell_complete=namespaces,
    metavar="NAMESPACE",
    help="Default: that of the kubeconfig's context, as kubectl has it.",
)
@click.option("-A", "--all-namespaces", is_flag=True, help="SLMDeployments of all namespaces.")
@click.option(
    "--nodes", is_flag=True, help="Also what is on which GPU, and what each GPU draws where that is measured."
)
@click.option(
    "--sort-by",
    "sort",
    type=click.Choice(SORTS, case_sensitive=False),
    metavar="COLUMN",
    default="name",
    show_default=True,
    help=f"{', '.join(SORTS)}. The highest first (of ready, the lowest part); what is not known comes last.",
)
@cluster_options
@now_options
@OUTPUT
def top(**options: Any) -> int:  # noqa: ANN401 - click checks them
    """One line for each SLMDeployment: replicas, GPUs, load, latency, watts, and why it is not Ready.

    Without --prometheus-url, it is what the operator wrote into status: replicas and reasons always, loads and an
    estimate of watts only with spec.scaling, and as old as AGE says. Only SLMDeployments are read then; --nodes and
    --prometheus-url need the rights of `plan --cluster`. What is not known is "-". Nothing is changed anywhere.
    """
    from slmpack.cli.top import TopOptions, answer_top

    if options["namespace"] and options["all_namespaces"]:
        raise click.UsageError("--namespace and --all-namespaces exclude each other; give one of them")
    settings = metrics_settings(options)
    return answer_top(
        TopOptions(
            namespace=options["namespace"],
            all_namespaces=options["all_namespaces"],
            kubeconfig=options["kubeconfig"],
            context=options["context"],
            nodes=options["nodes"],
            metrics=settings if settings.url is not None else None,
            sort=options["sort"],
            output=options["output"],
        )
    )
