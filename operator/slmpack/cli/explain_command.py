"""The command `explain`: flags only; what it does is imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from slmpack.cli.metrics_flags import metrics_options, metrics_settings
from slmpack.cli.question_commands import OUTPUT, exit_codes

__all__ = ["explain"]


@click.command(
    epilog=exit_codes("0  explained", "1  an error: no such SLMDeployment, or a file or the cluster cannot be read")
)
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAMESPACE")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Explain from files, as `plan -f` reads them, instead of the cluster. May be repeated.",
)
@click.option("--kubeconfig", metavar="FILE", help="How to reach the cluster. Default: as kubectl does.")
@click.option("--loads", metavar="FILE", help="Decide anew, as if this were measured (docs/explain.md), and say both.")
@click.option(
    "--live", is_flag=True, help="Measure now, through --prometheus-url, decide anew, and say both. Nothing is changed."
)
@click.option(
    "--supervisor-image",
    metavar="IMAGE",
    envvar="SLMPACK_SUPERVISOR_IMAGE",
    help="As the operator that runs with this flag would do.",
)
@click.option(
    "--bundled-models", is_flag=True, help="Do not ask the Hub for models whose config.json ships with slmpack."
)
@metrics_options
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
    if options["files"] and (options["live"] or options["kubeconfig"]):
        raise click.UsageError("-f explains from files; leave out --live and --kubeconfig, or the files")
    if options["live"] and options["loads"]:
        raise click.UsageError("--live and --loads exclude each other")
    return answer_explain(
        name,
        namespace=options["namespace"],
        files=options["files"],
        kubeconfig=options["kubeconfig"],
        metrics=settings if options["live"] else None,
        output=options["output"],
        loads=options["loads"],
        supervisor_image=options["supervisor_image"],
        bundled_models=options["bundled_models"],
        model_seconds=20.0,
    )
