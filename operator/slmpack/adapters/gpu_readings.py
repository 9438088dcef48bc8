"""What dcgm-exporter says of GPUs, as `GpuReading`s: one a physical GPU."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from slmpack.adapters.metric_names import LabelNames
from slmpack.adapters.prometheus import Series
from slmpack.domain.load import GpuReading
from slmpack.domain.snapshot import Key

__all__ = ["gpu_readings"]

SAME = 0.01
"""Values of one GPU that differ by less are one value, read twice."""


def gpu_readings(
    answers: Mapping[str, Iterable[Series]],
    *,
    labels: LabelNames,
    users: frozenset[Key],
    age_of: Callable[[float], datetime | None],
) -> tuple[GpuReading, ...]:
    """`answers` by the names of `promql.gpu_queries`; `users` are the pods that request GPUs, anybody's.

    `age_of` says when a scrape was, by our clock, or None if it is too old: such a GPU is left out.
    """
    by_gpu = {name: _by_gpu(series, labels) for name, series in answers.items()}
    found = []
    for uuid, seen in sorted(by_gpu.get("seen", {}).items()):
        at = age_of(max(it.value for it in seen))
        if uuid and at is not None:
            figures = {name: series.get(uuid, []) for name, series in by_gpu.items()}
            found.append(_reading(uuid, at, figures, seen=seen, labels=labels, users=users))
    return tuple(found)


def _reading(  # noqa: PLR0913 - all that one GPU is made from
    uuid: str,
    at: datetime,
    figures: Mapping[str, list[Series]],
    *,
    seen: list[Series],
    labels: LabelNames,
    users: frozenset[Key],
) -> GpuReading:
    energy, power = _one(figures.get("energy_w", ())), _one(figures.get("power_w", ()))
    used = _fb_used(figures.get("fb_used", ()), labels)
    xid = _one(figures.get("xid", ()))
    pods = {_user(it, labels) for it in figures.get("pods", ())}
    return GpuReading(
        node=_first(seen[0], labels.gpu_node),
        uuid=uuid,
        at=at,
        # A GPU that is on takes power: a counter that stands still is one that is not supported.
        power_w=energy or power or None,
        gr_engine_active=_part(figures.get("gr_engine_active", ())),
        dram_active=_part(figures.get("dram_active", ())),
        fb_used_bytes=used,
        xid=None if xid is None else int(xid),
        pods=tuple(sorted(str(pod) for pod in pods & users)),
    )


def _by_gpu(series: Iterable[Series], labels: LabelNames) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = defaultdict(list)
    for it in series:
        found[it.labels.get(labels.gpu_uuid, "")].append(it)
    return found


def _one(series: Iterable[Series]) -> float | None:
    """The value, or None where there is none that can be."""
    values = [it.value for it in series]
    return max(values) if values and all(math.isfinite(value) and value >= 0 for value in values) else None


def _part(series: Iterable[Series]) -> float | None:
    value = _one(series)
    return value if value is not None and value <= 1 else None


def _fb_used(series: Iterable[Series], labels: LabelNames) -> int | None:
    """Summed over MIG instances. Exporters that split it by pod do so each in its own way: then it is unknown."""
    by_instance: dict[str, list[float]] = defaultdict(list)
    for it in series:
        by_instance[it.labels.get(labels.gpu_instance, "")].append(it.value)
    total = 0.0
    for values in by_instance.values():
        low, high = min(values), max(values)
        if not math.isfinite(sum(values)) or low < 0 or high - low > SAME * high:
            return None
        total += high
    return int(total) if by_instance else None


def _user(series: Series, labels: LabelNames) -> Key:
    return Key(_first(series, labels.gpu_namespace), _first(series, labels.gpu_pod))


def _first(series: Series, names: Iterable[str]) -> str:
    return next((found for name in names if (found := series.labels.get(name))), "")
