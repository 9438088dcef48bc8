"""`slmpack top`: every SLMDeployment in one line, as its status and, where it is asked, Prometheus have it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import click

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.connection import context_namespace
from slmpack.adapters.kube import KubeClient
from slmpack.adapters.measuring import MetricsSettings
from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.policy import load_policy
from slmpack.adapters.resources import APPLY_THE_CRD, SLM_DEPLOYMENTS
from slmpack.cli.cluster_flags import require_kubeconfig
from slmpack.cli.one_line import one_line
from slmpack.cli.top_gpus import GpuRow, gpu_rows
from slmpack.cli.top_json import top_to_json
from slmpack.cli.top_rows import Row, make_row
from slmpack.cli.top_text import print_top
from slmpack.cli.world import Bundled, measuring, unreadable
from slmpack.domain.load import GpuReading
from slmpack.domain.snapshot import Policy, Snapshot
from slmpack.ports import NotFound, PortError

__all__ = ["SORTS", "Seen", "TopOptions", "answer_top"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopOptions:
    """What a user asks of `top`."""

    namespace: str | None
    """None: that of the kubeconfig's context."""
    all_namespaces: bool
    kubeconfig: str | None
    context: str | None
    nodes: bool
    metrics: MetricsSettings | None
    """Measure now; None: what status says."""
    sort: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is to print."""

    now: datetime
    rows: tuple[Row, ...]
    gpus: tuple[GpuRow, ...] | None
    """None where nobody asked for nodes."""
    readings: tuple[GpuReading, ...]
    trouble: str
    """Why nothing is measured, though it was asked for."""
    warnings: tuple[str, ...]


def _of_ready(row: Row) -> float | None:
    return None if row.ready is None or not row.wanted else row.ready / row.wanted


def _of_power(row: Row) -> float | None:
    return None if row.power is None else row.power.watts


SORTS: dict[str, Callable[[Row], float | None]] = {
    "ready": _of_ready,
    "gpus": lambda row: None if row.gpus is None else float(row.gpus.count),
    "req/s": lambda row: row.arriving_s,
    "carried": lambda row: row.capacity_s,
    "tok/s": lambda row: row.tokens_s,
    "itl": lambda row: row.itl_s,
    "ttft": lambda row: row.ttft_s,
    "kv": lambda row: row.kv_usage,
    "w": _of_power,
}
"""By name of --sort-by, which is the column's: the highest first (of `ready` the lowest part), the unknown last."""


def answer_top(options: TopOptions) -> int:
    """Print it and return the exit code. Raises click.ClickException where the cluster cannot be read."""
    require_kubeconfig(options.kubeconfig)
    try:
        seen = asyncio.run(_look(options))
    except NotFound as error:
        message = f"the cluster knows no SLMDeployments ({error}); {APPLY_THE_CRD}"
        raise click.ClickException(message) from error
    except PortError as error:
        raise click.ClickException(f"the cluster cannot be read: {error}") from error
    for line in seen.warnings:
        click.echo(line, err=True)
    if seen.trouble:
        click.echo(f"nothing is measured: {one_line(seen.trouble)}", err=True)
    if options.output == "json":
        found = top_to_json(seen.rows, seen.gpus, seen.readings, trouble=seen.trouble)
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(print_top(seen.rows, seen.gpus, seen.readings, now=seen.now), nl=False)
    return 0


async def _look(options: TopOptions) -> Seen:
    clock = SystemClock()
    async with await KubeClient.connect(options.kubeconfig, context=options.context) as client:
        namespace = options.namespace or context_namespace(options.kubeconfig, options.context)
        where = None if options.all_namespaces else namespace
        raws, _ = await client.list(SLM_DEPLOYMENTS.path(namespace=where))
        snapshot, policy = None, None
        warnings: tuple[str, ...] = ()
        if options.nodes or options.metrics is not None:
            policy = load_policy()
            # with nothing to measure, there is no round to wait for
            snapshot, warnings = await _observe(client, options.metrics if raws else None, policy)
    loads = {} if snapshot is None else snapshot.loads
    readings = () if snapshot is None else snapshot.gpus
    found = (make_row(raw, loads=loads, gpus=readings) for raw in raws)
    return Seen(
        now=clock.now(),
        rows=_sorted([row for row in found if row is not None], options.sort),
        gpus=gpu_rows(snapshot, policy.gpus) if options.nodes and snapshot and policy else None,
        readings=readings,
        trouble=snapshot.blind.message if options.metrics and snapshot and snapshot.blind and raws else "",
        warnings=warnings,
    )


async def _observe(
    client: KubeClient, metrics: MetricsSettings | None, policy: Policy
) -> tuple[Snapshot, tuple[str, ...]]:
    """What the planner would see; model configs have no part in it and are not fetched."""
    async with measuring(metrics) as (loads, measured):
        observer = Observer(
            client, scope=Scope(), models=Bundled(), engines=policy.engines, clock=SystemClock(), loads=loads
        )
        # answer_top prints why nothing is measured; without a handler, logging would print it, too
        logging.getLogger("slmpack.adapters.loads").addHandler(logging.NullHandler())
        with unreadable() as warnings:
            await observer.refresh()
            await measured()
            return observer.snapshot(), tuple(warnings)


def _sorted(rows: list[Row], by: str) -> tuple[Row, ...]:
    rows = sorted(rows, key=lambda row: row.key)
    value = SORTS.get(by)
    if value is None:
        return tuple(rows)
    sign = 1 if by == "ready" else -1
    known = [(found, row) for row in rows if (found := value(row)) is not None]
    unknown = [row for row in rows if value(row) is None]
    return (*(row for _, row in sorted(known, key=lambda it: sign * it[0])), *unknown)
