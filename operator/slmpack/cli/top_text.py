"""`slmpack top` for people: tables as kubectl prints them, one line an object, and what a sign in them means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain
from math import isfinite

from slmpack.cli.one_line import one_line
from slmpack.cli.top_gpus import GpuRow
from slmpack.cli.top_rows import Row
from slmpack.domain.load import GpuReading
from slmpack.domain.quantity import format_bytes

__all__ = ["print_top"]

NONE = "-"
"""Not known."""
MS = 1000.0
MANY = 1e6
"""Beyond, digits say nothing any more."""
LOADS = ("REQ/S", "CARRIED", "TOK/S", "ITL", "TTFT", "KV", "W", "AGE")
"""Columns that are left out where nobody tells any of them."""
LEGEND = (
    "CARRIED is modelled: the most REQ/S within the bounds. ITL is the mean, TTFT the 95th percentile, KV of the"
    " fullest replica, W of the hottest GPU, whoever is on it."
)
NO_LOADS = "Loads and watts are not known: status has them with spec.scaling, and --prometheus-url measures them."
UNKNOWN = "- is not known."
AT_LEAST = ">= at least: which GPU of its node a share is on, nobody publishes."
AT_MOST = "<= at most: the hottest GPU of the nodes, which need not be one of theirs."
AS_TOLD = "Loads are as status told them, AGE ago; --prometheus-url measures now."
HELD = "HELD is limits, not memory that is measured. GPU numbers are assumed: the kubelet picks the GPU."

Cells = Sequence[str]


def print_top(
    rows: Sequence[Row], gpus: Sequence[GpuRow] | None, readings: Sequence[GpuReading], *, now: datetime
) -> str:
    """All tables."""
    parts = [_deployments(rows, now)]
    if gpus is not None:
        parts.append(_gpus(gpus))
        if readings:
            parts.append(_readings(readings, now))
    return "\n".join(parts)


def _deployments(rows: Sequence[Row], now: datetime) -> str:
    if not rows:
        return "No SLMDeployments found.\n"
    cells, loads = [_cells(row) for row in rows], [_loads(row, now) for row in rows]
    told = any(cell != NONE for cell in chain(*loads))
    if told:
        cells = [(*row, *load) for row, load in zip(cells, loads, strict=True)]
    whys = [_why(row) for row in rows]
    head = ("NAMESPACE", "NAME", "READY", "GPUS", "SHARING", *(LOADS if told else ()), "REASON")
    table = _table(head, [(*row, why) for row, why in zip(cells, whys, strict=True)])
    notes = [UNKNOWN] if any(cell == NONE for cell in chain(*cells, whys)) else []
    notes.append(LEGEND if told else NO_LOADS)
    if any(row.gpus is not None and not row.gpus.exact for row in rows):
        notes.append(AT_LEAST)
    if any(row.power is not None and row.power.at_most for row in rows):
        notes.append(AT_MOST)
    if any(row.source == "status" for row in rows):
        notes.append(AS_TOLD)
    notes += [f"{row.key}: {why}" for row in rows for why in row.trouble]
    silent = [str(row.key) for row in rows if not row.told]
    if silent:
        notes.append(f"No operator has written the status of {', '.join(silent)}.")
    return table + "\n" + "".join(f"{one_line(note)}\n" for note in notes)


def _cells(row: Row) -> Cells:
    gpus = NONE if row.gpus is None else f"{'' if row.gpus.exact else '>='}{row.gpus.count}"
    return (
        row.key.namespace,
        row.key.name,
        NONE if row.ready is None else f"{row.ready}/{NONE if row.wanted is None else row.wanted}",
        gpus,
        row.sharing or NONE,
    )


def _loads(row: Row, now: datetime) -> Cells:
    return (
        _number(row.arriving_s),
        _number(row.capacity_s),
        _number(row.tokens_s),
        _number(row.itl_s, " ms", times=MS),
        _number(row.ttft_s, " ms", times=MS),
        _part(row.kv_usage),
        NONE if row.power is None else f"{row.power.text} {row.power.basis}",
        NONE if row.at is None else _age(now - row.at),
    )


def _why(row: Row) -> str:
    reason = ", ".join(dict.fromkeys(filter(None, (row.reason, row.limited_by))))
    return (reason or NONE) + (" (of an older spec)" if row.outdated else "")


def _gpus(gpus: Sequence[GpuRow]) -> str:
    if not gpus:
        return "No node with a GPU is there.\n"
    cells = [
        (
            it.node,
            it.unit or NONE,
            it.product or NONE,
            it.resource or NONE,
            f"{format_bytes(it.held_bytes)} of {format_bytes(it.usable_bytes)}" if it.usable_bytes else NONE,
            f"{it.ready}/{it.replicas}",
            str(it.others),
            it.note or ", ".join(it.holders) or "free",
        )
        for it in gpus
    ]
    return _table(("NODE", "GPU", "PRODUCT", "RESOURCE", "HELD", "READY", "OTHERS", "BY"), cells) + f"\n{HELD}\n"


def _readings(readings: Iterable[GpuReading], now: datetime) -> str:
    cells = [
        (
            it.node or NONE,
            it.uuid,
            NONE if it.power_w is None else f"{it.power_w:.0f} measured",
            _part(it.gr_engine_active),
            _part(it.dram_active),
            NONE if it.fb_used_bytes is None else format_bytes(it.fb_used_bytes),
            NONE if it.xid is None else str(it.xid),
            _age(now - it.at),
            ", ".join(it.pods) or NONE,
        )
        for it in sorted(readings, key=lambda it: (it.node, it.uuid))
    ]
    return _table(("NODE", "UUID", "W", "BUSY", "DRAM", "MEMORY", "XID", "AGE", "PODS BY THE EXPORTER"), cells)


def _table(head: Cells, rows: Sequence[Cells]) -> str:
    """Three spaces between columns, nothing after the last, as kubectl does."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _number(value: float | None, unit: str = "", *, times: float = 1.0) -> str:
    if value is None or not isfinite(value * times):
        return NONE
    shown = value * times
    return (f"{shown:,.0f}" if 100 <= shown <= MANY else f"{shown:.3g}") + unit


def _part(value: float | None) -> str:
    if value is None or abs(value) > MANY:
        return _number(value, "%", times=100)
    return f"{100 * value:.0f}%"


def _age(age: timedelta) -> str:
    seconds = max(0, round(age.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
