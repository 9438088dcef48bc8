"""`slmpack top -o json`; docs/cli.md explains every key. null is: not known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slmpack.cli.top_gpus import GpuRow
from slmpack.cli.top_rows import Row
from slmpack.domain.load import GpuReading

__all__ = ["top_to_json"]

Json = dict[str, Any]


def top_to_json(
    rows: Iterable[Row], gpus: Iterable[GpuRow] | None, readings: Iterable[GpuReading], *, trouble: str = ""
) -> Json:
    """`nodes` is there with --nodes; `gpus` are those that are measured, `trouble` why nothing is."""
    held = {} if gpus is None else {"nodes": [_gpu(it) for it in gpus]}
    measured = [_reading(it) for it in sorted(readings, key=lambda it: (it.node, it.uuid))]
    return {"deployments": [_row(row) for row in rows], **held, "gpus": measured, "trouble": trouble or None}


def _row(row: Row) -> Json:
    return {
        "namespace": row.key.namespace,
        "name": row.key.name,
        "ready": row.ready,
        "wanted": row.wanted,
        "gpus": None if row.gpus is None else {"count": row.gpus.count, "exact": row.gpus.exact},
        "sharing": row.sharing or None,
        "requests_s": {"arriving": row.arriving_s, "carried": row.capacity_s},
        "tokens_s": row.tokens_s,
        "itl_s": row.itl_s,
        "ttft_p95_s": row.ttft_s,
        "kv_usage": row.kv_usage,
        "power": None
        if row.power is None
        else {
            "basis": row.power.basis,
            "watts": row.power.watts,
            "text": row.power.text,
            "at_most": row.power.at_most,
        },
        "reason": row.reason or None,
        "message": row.message or None,
        "limited_by": row.limited_by or None,
        "of_older_spec": row.outdated,
        "loads_from": row.source or None,
        "loads_at": None if row.at is None else row.at.isoformat(),
        "trouble": list(row.trouble),
    }


def _gpu(row: GpuRow) -> Json:
    return {
        "node": row.node,
        "unit": row.unit or None,
        "product": row.product or None,
        "resource": row.resource or None,
        "held_bytes": row.held_bytes,
        "usable_bytes": row.usable_bytes or None,
        "ready": row.ready,
        "replicas": row.replicas,
        "others": row.others,
        "holders": list(row.holders),
        "note": row.note or None,
    }


def _reading(it: GpuReading) -> Json:
    return {
        "node": it.node or None,
        "uuid": it.uuid,
        "at": it.at.isoformat(),
        "power_w": it.power_w,
        "gr_engine_active": it.gr_engine_active,
        "dram_active": it.dram_active,
        "fb_used_bytes": it.fb_used_bytes,
        "xid": it.xid,
        "pods": list(it.pods),
    }
