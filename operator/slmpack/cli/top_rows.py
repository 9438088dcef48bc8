"""What `slmpack top` says of one SLMDeployment: from its status and, where Prometheus was asked, from what is measured.

Nothing is worked out that nobody said: what is not known is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any

from slmpack.api.parse import parse_metadata, parse_status
from slmpack.api.status import NOTHING_SAID, PlacementStatus, SLMDeploymentStatus
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.scale_decision import FigureName
from slmpack.domain.sharing import kind_of, shares_of_gpu
from slmpack.domain.snapshot import Key

__all__ = ["GpuCount", "Power", "Row", "make_row"]

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCount:
    """GPUs that the replicas are on."""

    count: int
    exact: bool
    """False: at least so many, as which GPU of a node a share is on, nobody publishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of the hottest GPU that the replicas are on, whoever else is on it."""

    text: str
    """For people, without the basis."""
    basis: str
    """measured or estimate."""
    watts: float | None = None
    """Measured; None for an estimate, which is told in words."""
    at_most: bool = False
    """Whether it is the hottest GPU of the replicas' nodes, which need not be one of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One SLMDeployment. Rates are a second, times seconds, `kv_usage` from 0 to 1."""

    key: Key
    ready: int | None
    wanted: int | None
    gpus: GpuCount | None
    sharing: str
    """A replica's part of a GPU, in words."""
    arriving_s: float | None
    """Requests, measured."""
    capacity_s: float | None
    """Requests that the present replicas carry within the bounds, modelled."""
    tokens_s: float | None
    """Output tokens, measured."""
    itl_s: float | None
    """Mean inter-token latency, measured."""
    ttft_s: float | None
    """95th percentile of the time to first token, measured."""
    kv_usage: float | None
    """Of the fullest replica, measured."""
    power: Power | None
    reason: str
    """Ready's."""
    message: str
    limited_by: str
    """Why more replicas, though wished, are not wanted; empty where nothing keeps them."""
    source: str
    """Who told the loads: prometheus, status, or nobody (empty)."""
    at: datetime | None
    """When they were measured or, from status, told."""
    outdated: bool
    """Whether status is of an older spec than the present one."""
    told: bool = True
    """Whether an operator has written a status at all."""
    trouble: tuple[str, ...] = ()
    """Why something is not known, though it was asked for."""


def make_row(raw: Raw, *, loads: Mapping[Key, LoadSample], gpus: Iterable[GpuReading]) -> Row | None:
    """`raw` is the object as the API server has it; None without readable metadata, which no API server serves."""
    meta = parse_metadata(raw)
    if meta is None:
        return None
    status = parse_status(raw)
    ready = next((it for it in status.conditions if it.type == "Ready"), None)
    scaling = status.scaling
    told = {} if scaling is None else {it.name: it.value for it in scaling.figures if isfinite(it.value)}
    key = Key(meta.namespace, meta.name)
    sample = loads.get(key)
    at = sample.at if sample is not None else scaling.decided_at if scaling is not None and told else None
    return Row(
        key=key,
        ready=status.ready_replicas,
        wanted=status.desired_replicas,
        gpus=_gpus(status),
        sharing=status.share or "",
        arriving_s=told.get(FigureName.ARRIVALS) if sample is None else sample.arrivals_s,
        capacity_s=told.get(FigureName.CAPACITY),
        tokens_s=None if sample is None else sample.generation_tok_s,
        itl_s=told.get(FigureName.ITL) if sample is None else sample.itl_s,
        ttft_s=told.get(FigureName.TTFT_P95) if sample is None else sample.ttft_s,
        kv_usage=told.get(FigureName.KV_USAGE) if sample is None else sample.kv_usage,
        power=_measured(key, status.placements, tuple(gpus)) or _estimated(status),
        reason=ready.reason if ready is not None else status.reason or "",
        message="" if ready is None else ready.message,
        limited_by=(scaling.limited_by or "") if scaling is not None else "",
        source="" if at is None else "status" if sample is None else "prometheus",
        at=at,
        outdated=status.observed_generation is not None and status.observed_generation < meta.generation,
        told=bool(raw.get("status")) and raw["status"] != NOTHING_SAID,
        trouble=() if sample is None else sample.trouble,
    )


def _gpus(status: SLMDeploymentStatus) -> GpuCount | None:
    """A whole GPU is one pod's; a share may be on any GPU of its node, and shares of one node may be on the same."""
    placed = [it for it in status.placements if it.node]
    if not placed:
        # one that is Ready is somewhere, and one that is not listed may be
        there = status.ready_replicas if status.placements else status.replicas or status.ready_replicas
        return GpuCount(count=0, exact=True) if there == 0 else None
    whole = {it.pod for it in placed if kind_of(it.share) in {"Exclusive", "MpsPack"}}
    shares = Counter((it.node, it.share) for it in placed if it.pod not in whole)
    fewest: dict[str, int] = {}
    for (node, share), count in shares.items():
        fewest[node] = max(fewest.get(node, 0), -(-count // shares_of_gpu(share)))
    listed = status.replicas is None or status.replicas <= len({it.pod for it in status.placements})
    return GpuCount(count=len(whole) + sum(fewest.values()), exact=listed and not shares)


def _measured(key: Key, placements: Iterable[PlacementStatus], gpus: tuple[GpuReading, ...]) -> Power | None:
    placed = [it for it in placements if it.node]
    pods = {f"{key.namespace}/{it.pod}" for it in placed}
    known = [gpu for gpu in gpus if gpu.power_w is not None]
    theirs = [gpu for gpu in known if pods & set(gpu.pods)]
    # Of GPUs shared by MPS an exporter names one pod, or another each time.
    if theirs and pods <= {pod for gpu in theirs for pod in gpu.pods}:
        return _hottest(theirs, at_most=False)
    nodes = {it.node for it in placed}
    near = [gpu for gpu in known if gpu.node in nodes]
    return _hottest(near, at_most=True) if near else None


def _hottest(gpus: Iterable[GpuReading], *, at_most: bool) -> Power:
    watts = max(gpu.power_w for gpu in gpus if gpu.power_w is not None)
    return Power(text=f"{'<=' if at_most else ''}{watts:.0f} W", basis="measured", watts=watts, at_most=at_most)


def _estimated(status: SLMDeploymentStatus) -> Power | None:
    """In the operator's words, as they are, at the load of its last decision."""
    told = status.scaling.power if status.scaling is not None else None
    return Power(text=told, basis="estimate") if told else None
