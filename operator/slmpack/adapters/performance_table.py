"""`data/performance.yaml` as domain values. The table is ours: one that does not parse is a bug."""

from __future__ import annotations

from functools import cache
from typing import Any

from slmpack.adapters.tables import read_table
from slmpack.domain.engine_version import EngineVersion, parse_version
from slmpack.domain.performance_table import (
    EngineConstants,
    PerformanceTable,
    PowerConstants,
    PowerFit,
    SharingConstants,
    Spread,
    Spreads,
)

__all__ = ["load_performance_table"]

_MICRO = 1e-6


@cache
def load_performance_table() -> PerformanceTable:
    """The engine generations, oldest first."""
    table = read_table("performance.yaml")
    return PerformanceTable(
        generations=tuple((_version(entry["since"]), _constants(entry, table)) for entry in table["generations"])
    )


def _constants(generation: dict[str, Any], table: dict[str, Any]) -> EngineConstants:
    engine = table["engine"]
    return EngineConstants(
        generation=generation["name"],
        chunked_prefill=generation["chunked_prefill"],
        step_s=_seconds(generation["step_us"]),
        sequence_s=_seconds(generation["sequence_us"]),
        layer_s=_seconds(engine["layer_us"]),
        eager_layer_s=_seconds(engine["eager_layer_us"]),
        request_s=_seconds(engine["request_us"]),
        cores=engine["cores"]["value"],
        weight_efficiency=engine["weight_efficiency"]["value"],
        cache_efficiency=engine["cache_efficiency"]["value"],
        gddr_factor=engine["gddr_factor"]["value"],
        compute_efficiency=engine["compute_efficiency"]["value"],
        spreads=_spreads(table["spreads"]),
        calibrated=_spreads(table["calibrated_spreads"]),
        preemption_part=engine["preemption_part"]["value"],
        sharing=_sharing(table["sharing"]),
        power=_power(table["power"]),
    )


def _sharing(entry: dict[str, Any]) -> SharingConstants:
    return SharingConstants(
        busy_part=entry["busy_part"]["value"],
        sequence_busy_part=entry["sequence_busy_part"]["value"],
        cap_bandwidth_share=entry["cap_bandwidth_share"]["value"],
        cap_compute_exponent=entry["cap_compute_exponent"]["value"],
        timeslice_factor=entry["timeslice_factor"]["value"],
        timeslice=_spread(entry["timeslice"]),
        mps=_spread(entry["mps"]),
        difference=entry["difference"]["value"],
    )


def _power(entry: dict[str, Any]) -> PowerConstants:
    return PowerConstants(
        by_gpu=tuple((row["gpu"], _power_fit(row)) for row in entry["gpus"]),
        generic=_power_fit(entry["generic"]),
        loaded_idle_share=entry["loaded_idle_share"]["value"],
    )


def _power_fit(row: dict[str, Any]) -> PowerFit:
    return PowerFit(active_w=row["active"], memory_w=row["memory"], compute_w=row["compute"], spread=_spread(row))


def _spreads(entry: dict[str, Any]) -> Spreads:
    return Spreads(itl=_spread(entry["itl"]), throughput=_spread(entry["throughput"]), ttft=_spread(entry["ttft"]))


def _spread(row: dict[str, Any]) -> Spread:
    return Spread(low=row["low"], high=row["high"])


def _seconds(row: dict[str, Any]) -> float:
    value: float = row["value"]
    return value * _MICRO


def _version(text: str) -> EngineVersion:
    version = parse_version(text)
    if version is None:
        raise ValueError(f"since {text!r} in performance.yaml is no version; write for example '0.14.0'")
    return version
