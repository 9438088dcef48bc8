"""The command `explain`: flags only; what it does is imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from slmpack.cli.cluster_flags import as_operator, cluster_options
from slmpack.cli.complete_names import deployments, namespaces
from slmpack.cli.metrics_flags import metrics_settings, now_options
from slmpack.cli.question_commands import OUTPUT
from slmpack.cli.teaching import Taught

__all__ = ["explain"]


@click.command(
    cls=Taught,
    examples=(
        ("why it has as many replicas as it has, and where", "slmpack explain chat -n team-a"),
        (
            "what would be decided on what is measured now",
            "slmpack explain chat -n team-a --live --prometheus-url http://localhost:9090",
        ),
        (
            "what would be decided on loads of your own",
            "slmpack explain chat -f chat.yaml -f nodes.yaml --loads loads.yaml",
        ),
    ),
    short_help="Explain one SLMDeployment, and what would change it.",
    exit_codes=("0  explained", "1  an error: no such SLMDeployment, or a file or the cluster cannot be read"),
)
@click.argument("name", shell_complete=deployments)
@click.option(
    "-n",
    "--namespace",
    shell_complete=namespaces,
    metavar="NAMESPACE",
    help="Default: that of the kubeconfig's context, as kubectl has it; with files, default.",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Explain from files, as `plan -f` reads them, instead of the cluster. May be repeated.",
)
@cluster_options
@click.option(
    "--loads",
    type=click.Path(),
    metavar="FILE",
    help="Decide anew, as if this were measured (docs/explain.md), and say both.",
)
@click.option(
    "--live", is_flag=True, help="Measure now, through --prometheus-url, decide anew, and say both. Nothing is changed."
)
@as_operator
@now_options
@OUTPUT
def explain(name: str, **options: Any) -> int:  # noqa: ANN401 - click checks them
    """Explain one SLMDeployment, from what a replica needs to how many are wanted, and what would change that.

    NAME is in the cluster, and the last scale decision is what its status says, unless --live or --loads asks for
    another one. Nothing is changed anywhere.
    """
    from slmpack.cli.explain import answer_explain

    settings = metrics_settings(options)
    if options["live"] != (settings.url is not None):
        raise click.UsageError("--live and --prometheus-url go together: rates cannot be measured at one moment alone")
    if options["files"] and (options["live"] or options["kubeconfig"] or options["context"]):
        raise click.UsageError("-f explains from files; leave out --live, --kubeconfig and --context, or the files")
    if options["live"] and options["loads"]:
        raise click.UsageError("--live and --loads exclude each other")
    return answer_explain(
        name,
        namespace=options["namespace"] or _namespace(options),
        files=options["files"],
        kubeconfig=options["kubeconfig"],
        context=options["context"],
        metrics=settings if options["live"] else None,
        output=options["output"],
        loads=options["loads"],
        supervisor_image=options["supervisor_image"],
        bundled_models=options["bundled_models"],
        model_seconds=20.0,
    )


def _namespace(options: dict[str, Any]) -> str:
    if options["files"]:
        return "default"
    from slmpack.adapters.connection import context_namespace
    from slmpack.ports import PortError

    try:
        return context_namespace(options["kubeconfig"], options["context"])
    except PortError as error:
        raise click.ClickException(f"the cluster cannot be read: {error}") from error
