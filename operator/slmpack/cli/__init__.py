"""The command line: parse, call, print. Imports inside the commands keep `slmpack --help` fast."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from slmpack import __version__
from slmpack.adapters.resources import APPLY_THE_CRD
from slmpack.cli import (
    cluster_flags,
    completion,
    explain_command,
    metrics_flags,
    profile_flags,
    question_commands,
    simulate_flags,
    top_command,
)
from slmpack.cli.teaching import Taught, print_exit_codes, print_sections

__all__ = ["main"]

USAGE_ERROR = 1
"""Not click's 2: `plan` says with 2 that replicas are unplaced."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""What writing to standard output meets; opening a file meets other errors, and those are the commands' to explain."""


class _Commands(click.Group):
    """A group whose every error exits with 1, and whose help lists commands by what they are for."""

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        print_sections(self, ctx, formatter)

    @override
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        print_exit_codes(
            formatter,
            (
                "0  it worked",
                "1  an error, with its message on standard error",
                "2  plan: some replicas have no place; estimate: none fits; predict: it is not feasible;",
                "   profile: no knee is named",
            ),
        )

    @override
    def main(self, args: Any = None, prog_name: Any = None, **extra: Any) -> Any:  # type: ignore[override]
        if not extra.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
            if sys.stdout is not None:
                sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            sys.exit(USAGE_ERROR)
        except click.Abort:
            click.echo("Aborted", err=True)
            sys.exit(USAGE_ERROR)
        except BrokenPipeError:
            _forget_stdout()  # whoever read us has seen enough
            sys.exit(USAGE_ERROR)
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            _forget_stdout()
            click.echo(f"Error: standard output cannot be written: {error.strerror}", err=True)
            sys.exit(USAGE_ERROR)
        sys.exit(code if isinstance(code, int) else 0)


def _forget_stdout() -> None:
    """Python must not complain when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(name="slmpack", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slmpack")
def main() -> None:
    """Pack small language models on shared GPUs: as many replicas as pay, each bounded, and say why.

    `COMMAND --help` shows examples. Without a cluster, begin with `demo`, or with `plan -f FILE`.
    """


@main.command(
    cls=Taught,
    examples=(
        ("without nodes: on one empty GPU of each kind", "slmpack plan -f examples/qwen2.5-1.5b.yaml"),
        ("on your own nodes, as they are", "slmpack plan -f chat.yaml -f nodes.yaml"),
        ("what applying this file to the cluster would do", "slmpack plan -f chat.yaml --cluster"),
        ("which replicas could move so that GPUs come free", "slmpack plan --cluster --repack"),
        ("as a page for a browser", "slmpack plan --cluster --html plan.html"),
        ("for programs", "slmpack plan --cluster -o json"),
    ),
    short_help="Show what the operator would do, and why.",
    exit_codes=(
        "0  every replica has a place",
        "1  an error: a file or the cluster cannot be read",
        "2  some replicas have no place, or a spec is rejected",
    ),
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="SLMDeployments, and the Nodes, Pods and PriorityClasses to plan on, as `kubectl get -o yaml` prints them"
    " (documents and Lists, YAML or JSON). - is standard input. May be repeated.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Plan on the nodes, pods and SLMDeployments of the cluster (--kubeconfig and --context say which); those of"
    " the files count as applied.",
)
@cluster_flags.cluster_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--model-timeout",
    "model_seconds",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for config.json of models that do not ship with slmpack.",
)
@cluster_flags.as_operator
@click.option(
    "--loads",
    type=click.Path(),
    metavar="FILE",
    help="Decide spec.scaling as if this were measured: YAML with loads by SLMDeployment, and GPUs (docs/explain.md).",
)
@click.option(
    "--propose-layout",
    is_flag=True,
    help="Also show how the nodes' GPUs would best be cut into MIG instances, and the label that an administrator would"
    " set.",
)
@click.option(
    "--repack",
    is_flag=True,
    help="Also say which running replicas could be moved so that GPUs come free, and how. Nothing is moved.",
)
@click.option(
    "--html",
    type=click.Path(),
    metavar="FILE",
    help="Also write the plan as a page for a browser, with GPUs as bars and the knee as a curve; one file, no script."
    " - writes it to standard output, and nothing else there.",
)
def plan(**options: Any) -> int:  # noqa: ANN401 - click checks them
    """Show what the operator would do: the memory of a replica, which GPU gets each, and why some have no place.

    With neither nodes nor --cluster, the plan is for one cluster of empty GPUs, one of each kind in the catalogue. A
    model's source may be file://PATH to a config.json here. Nothing is changed anywhere.
    """
    from slmpack.cli.plan import answer_plan

    for flag in ("kubeconfig", "context"):
        if options[flag] and not options["cluster"]:
            raise click.UsageError(f"--{flag} needs --cluster")
    files = options.pop("files")
    return answer_plan(files, **options)


@main.command(
    cls=Taught,
    examples=(("install it", APPLY_THE_CRD),),
    exit_codes=("0  printed", "1  an error"),
    short_help="Print the CustomResourceDefinition.",
)
def crd() -> None:
    """Print the CustomResourceDefinition, for `kubectl apply -f -`."""
    from slmpack.api.crd import render_crd

    click.echo(render_crd(), nl=False)


@main.command(
    cls=Taught,
    examples=(
        ("from your desk, for one namespace, as kubectl is configured", "slmpack run --namespace team-a"),
        (
            "with loads and watts measured",
            "slmpack run --http 0.0.0.0:8080 --prometheus-url http://prometheus.monitoring:9090",
        ),
        ("on some of the nodes only", "slmpack run --node-selector pool=slm --lease-namespace slm-pool"),
    ),
    short_help="Run the operator, in a cluster or outside of one.",
    exit_codes=(
        "0  ended by SIGTERM or SIGINT",
        "1  an error: a wrong option, no cluster, or permissions that are missing",
    ),
)
@click.option(
    "--kubeconfig",
    type=click.Path(),
    metavar="FILE",
    help="How to reach the cluster. Default: as kubectl does, else the pod's service account.",
)
@click.option("--namespace", metavar="NAMESPACE", help="Look after the SLMDeployments of this namespace only.")
@click.option("--all-namespaces", is_flag=True, help="Look after those of all namespaces. This is the default.")
@click.option(
    "--node-selector",
    default="",
    metavar="SELECTOR",
    help="Place replicas on the nodes with these labels only, as kubectl's -l writes them. Default: all.",
)
@click.option(
    "--lease-namespace",
    metavar="NAMESPACE",
    help="Where the Lease is that keeps a second operator waiting. Default: the pod's own, else slmpack-system.",
)
@click.option(
    "--http",
    "address",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Where health and metrics are served; port 0 takes a free one, and the log says which.",
)
@click.option(
    "--page",
    is_flag=True,
    help="Show the last plan there, too, at /: a read-only page without authentication (docs/page.md).",
)
@click.option(
    "--supervisor-image",
    metavar="IMAGE",
    help="The image that brings the supervisor of packs (sharing.mode MPSPack). Default: no packs are made.",
)
@click.option(
    "--pod-proxy",
    metavar="URL",
    help="The HTTP proxy through which the supervisors of packs, and replicas that are scraped, are reached. Default:"
    " straight at the pods' addresses.",
)
@cluster_flags.bundled_models
@metrics_flags.metrics_options
def run(**options: Any) -> int:  # noqa: ANN401 - click checks them
    """Run the operator, in a cluster or outside of one. SIGTERM ends it within 5 seconds.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE say where and as whom configs are fetched; SLMPACK_MODEL_CACHE names a
    folder to keep them in.
    """
    from slmpack.adapters.selector import parse_selector
    from slmpack.bootstrap import run as run_operator
    from slmpack.config import OperatorConfig, hub_settings

    if options["all_namespaces"] and options["namespace"]:
        raise click.UsageError("--namespace and --all-namespaces exclude each other; give one of them")
    host, port = _address(options["address"])
    try:
        parse_selector(options["node_selector"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--node-selector") from error
    config = OperatorConfig(
        kubeconfig=options["kubeconfig"],
        namespace=options["namespace"],
        node_selector=options["node_selector"],
        lease_namespace=options["lease_namespace"],
        identity=os.environ.get("POD_NAME") or None,
        host=host,
        port=port,
        page=options["page"],
        hub=hub_settings(),
        supervisor_image=cluster_flags.require_image(options["supervisor_image"]),
        pod_proxy=_proxy(options["pod_proxy"]),
        metrics=metrics_flags.metrics_settings(options),
        bundled_models=options["bundled_models"],
    )
    return run_operator(config)


def _proxy(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"http://[^/\s]+/?", text):
        raise click.BadParameter(
            f"{text!r} is not an HTTP proxy's URL; write for instance http://127.0.0.1:3128", param_hint="--pod-proxy"
        )
    return text


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT; write for instance 0.0.0.0:8080", param_hint="--http")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an empty host means everywhere


@main.command(
    cls=Taught,
    examples=(
        ("watch it, in a terminal; Ctrl-C ends it", "slmpack demo"),
        ("until everything is Ready, for a script", "slmpack demo --once --timeout 60"),
    ),
    short_help="Play the whole way from apply to Ready, without a GPU.",
    exit_codes=(
        "0    everything became Ready (and, where it stays, Ctrl-C ended the demo)",
        "1    not everything was Ready in time, or an error; the reason is printed",
        "130  Ctrl-C before everything was Ready",
    ),
)
@click.option(
    "--once/--stay",
    default=None,
    help="End as soon as everything is Ready, or stay until Ctrl-C. Default: --stay in a terminal, else --once.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up if not everything is Ready by then. Default: 180 where it ends by itself, never where it stays.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Use this cluster, in the namespace slmpack-demo, instead of one in this process: no nodes are added, and what"
    " was created is removed at the end.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which GPU the stand-in kubelets pick.")
def demo(**options: Any) -> int:  # noqa: ANN401 - click checks them
    """Play the whole way from apply to Ready replicas, live. Needs no GPU, no cluster and no network."""
    from slmpack.cli.demo import DemoOptions, run_demo

    once = options.pop("once")
    stays = sys.stdout.isatty() if once is None else not once
    if not stays and options["timeout_seconds"] is None:
        options["timeout_seconds"] = 180.0
    return run_demo(DemoOptions(stays=stays, **options))


main.add_command(profile_flags.profile)
main.add_command(question_commands.estimate)
main.add_command(question_commands.predict)
main.add_command(simulate_flags.simulate)
main.add_command(explain_command.explain)
main.add_command(top_command.top)
main.add_command(completion.completion)
