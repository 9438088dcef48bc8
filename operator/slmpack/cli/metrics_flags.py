"""The flags of `slmpack run` about what is measured where."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from slmpack.adapters.measuring import MetricsSettings

__all__ = ["metrics_options", "metrics_settings", "now_options"]

F = TypeVar("F", bound=Callable[..., Any])
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OF_THE_OPERATOR = (
    "Where loads and GPUs are measured. Default: none; the replicas of SLMDeployments with spec.scaling are scraped one"
    " by one, and no GPU is measured."
)
OF_NOW = "Measure now, through this Prometheus. Default: nothing is measured."
OPTIONS = (
    click.option(
        "--prometheus-token-file", type=FILE, metavar="FILE", help="Bearer token for it; read anew for every request."
    ),
    click.option("--prometheus-basic-auth-file", type=FILE, metavar="FILE", help="user:password for it."),
    click.option("--prometheus-ca-file", type=FILE, metavar="FILE", help="PEM of the CA that signed its certificate."),
    click.option(
        "--prometheus-header",
        "prometheus_headers",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="A further header for it, such as 'X-Scope-OrgID: team'. May be repeated.",
    ),
    click.option(
        "--metric-names",
        type=FILE,
        metavar="FILE",
        help="YAML with the names of metrics and labels that are not the usual ones (docs/metrics.md).",
    ),
    click.option(
        "--gateway-waiting-query",
        metavar="PROMQL",
        help="Requests of an SLMDeployment that wait at a gateway; $namespace and $name are replaced. It wakes what is"
        " scaled to zero. Empty: none is asked. Default: flow control queues of the Gateway API inference extension.",
    ),
    click.option(
        "--metrics-period",
        type=click.FloatRange(min=1, max=60),
        metavar="SECONDS",
        help="How often is measured. Default: 5 with a Prometheus, else 15, as replicas are then scraped so often.",
    ),
    click.option(
        "--metrics-timeout",
        type=click.FloatRange(min=0.1, max=30),
        default=3.0,
        show_default=True,
        metavar="SECONDS",
        help="How long one request may take; all of one round take three times as long at most.",
    ),
    click.option(
        "--metrics-max-age",
        type=click.FloatRange(min=5, max=300),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="A scrape that is older counts as none.",
    ),
)


def metrics_options(command: F) -> F:
    """Add the flags of an operator that measures all the time."""
    return _with(command, OF_THE_OPERATOR)


def now_options(command: F) -> F:
    """Add the flags of a command that measures once."""
    return _with(command, OF_NOW)


def _with(command: F, of_url: str) -> F:
    options = (click.option("--prometheus-url", metavar="URL", help=of_url), *OPTIONS)
    return reduce(lambda made, option: option(made), reversed(options), command)


def metrics_settings(options: dict[str, Any]) -> MetricsSettings:
    """What the flags say. Raises click.UsageError."""
    from slmpack.adapters.measuring import MetricsSettings
    from slmpack.adapters.metric_names import MetricNames, load_metric_names

    if options["prometheus_token_file"] and options["prometheus_basic_auth_file"]:
        raise click.UsageError("--prometheus-token-file and --prometheus-basic-auth-file exclude each other")
    url = _url(options["prometheus_url"])
    query = options["gateway_waiting_query"]
    for flag, value in options.items():
        if url is None and flag.startswith(("prometheus_", "gateway_")) and value:
            raise click.UsageError(f"--{flag.removesuffix('s').replace('_', '-')} needs --prometheus-url")
    if query and "$name" not in query.replace("$namespace", ""):
        raise click.BadParameter(
            f"{query!r} has no $name: it would say the same of every SLMDeployment",
            param_hint="--gateway-waiting-query",
        )
    try:
        names = load_metric_names(options["metric_names"]) if options["metric_names"] else MetricNames()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--metric-names") from error
    return MetricsSettings(
        url=url,
        token_file=options["prometheus_token_file"],
        basic_auth_file=options["prometheus_basic_auth_file"],
        ca_file=options["prometheus_ca_file"],
        headers=tuple(_header(text) for text in options["prometheus_headers"]),
        names=names,
        gateway_query=MetricsSettings().gateway_query if query is None else query,
        period=_period(options["metrics_period"], url),
        timeout=timedelta(seconds=options["metrics_timeout"]),
        max_age=timedelta(seconds=options["metrics_max_age"]),
    )


def _period(seconds: float | None, url: str | None) -> timedelta:
    """Replicas cost more to ask than a Prometheus that has scraped them."""
    return timedelta(seconds=seconds or (5.0 if url else 15.0))


def _url(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets that hold no address
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise click.BadParameter(
            f"{text!r} is not the URL of a Prometheus; write for instance http://prometheus.monitoring:9090"
            " (passwords belong in --prometheus-basic-auth-file)",
            param_hint="--prometheus-url",
        )
    return text.rstrip("/")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not TOKEN.fullmatch(name) or not value.strip() or not value.strip().isprintable():
        raise click.BadParameter(
            f"{text!r} is no header; write for instance 'X-Scope-OrgID: team'", param_hint="--prometheus-header"
        )
    return name, value.strip()
