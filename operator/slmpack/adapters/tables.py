"""The tables that ship with the package, read once and turned into domain values.

They are ours: a table that does not parse is a bug, so nothing here catches errors.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import yaml

from slmpack.domain.engine import (
    EngineFlag,
    EngineRuntime,
    EngineTable,
    EngineVersion,
    FlagClass,
    FlagType,
    parse_version,
)
from slmpack.domain.gpu import GpuCatalogue, GpuModel, MigProfile
from slmpack.domain.quantity import GIB

__all__ = ["bundled_config", "bundled_models", "load_engine_table", "load_gpu_catalogue"]

_DATA = resources.files("slmpack") / "data"
_ANY_PATCH = 9999


@cache
def load_gpu_catalogue() -> GpuCatalogue:
    """The products of `data/gpus.yaml`."""
    return GpuCatalogue(models=tuple(_gpu(entry) for entry in _table("gpus.yaml")["gpus"]))


@cache
def load_engine_table() -> EngineTable:
    """The flags of `data/engine_flags.yaml` and the memory constants of `data/engines.yaml`."""
    return EngineTable(
        flags=tuple(_flag(row) for row in _table("engine_flags.yaml")["flags"]),
        runtimes=tuple(_runtime(row) for row in _table("engines.yaml")["runtimes"]),
    )


@cache
def bundled_models() -> tuple[str, ...]:
    """Ids of the models whose config.json ships with the package, sorted."""
    names = (entry.name for entry in (_DATA / "configs").iterdir())
    return tuple(sorted(name.removesuffix(".json").replace("--", "/", 1) for name in names if name.endswith(".json")))


def bundled_config(model_id: str) -> dict[str, object] | None:
    """A model's config.json without the network, or None; `_source` says where it was read."""
    if model_id not in bundled_models():
        return None
    text = (_DATA / "configs" / f"{model_id.replace('/', '--', 1)}.json").read_text(encoding="utf-8")
    config: dict[str, object] = json.loads(text)
    return config


def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load((_DATA / name).read_text(encoding="utf-8"))
    return table


def _gpu(entry: dict[str, Any]) -> GpuModel:
    usable = entry["memory_usable_mib"]
    total = entry["memory_total_mib"]
    return GpuModel(
        id=entry["id"],
        product_labels=tuple(entry["product_labels"]),
        compute_capability=entry["compute_capability"],
        memory_total_mib=usable if total is None else total,
        memory_usable_mib=usable,
        bandwidth_gb_s=entry["memory_bandwidth_gb_s"],
        tdp_w=entry["tdp_w"],
        sm_count=entry["sm_count"],
        mig_profiles=tuple(_mig_profile(profile) for profile in entry["mig"]["profiles"]),
        mps_max_clients=entry["mps"].get("max_clients_device_plugin"),
    )


def _mig_profile(entry: dict[str, Any]) -> MigProfile:
    return MigProfile(
        name=entry["name"],
        memory_mib=entry["memory_mib"],
        compute_slices=entry["compute_slices"],
        memory_slices=entry["placement_size"],
        placement_starts=tuple(entry["placement_starts"]),
        max_instances=entry["max_instances"],
        sm_count=entry["sm_count"],
    )


def _flag(row: dict[str, Any]) -> EngineFlag:
    return EngineFlag(
        name=row["flag"],
        flag_class=FlagClass(row["class"]),
        type=FlagType(row["type"]),
        since=_version(row["since"]),
        until=_until(row.get("until")),
        aliases=tuple(row.get("aliases", ())),
        why=row.get("why", ""),
        values=tuple(row.get("values", ())),
    )


def _runtime(row: dict[str, Any]) -> EngineRuntime:
    terms = {name: term["value"] for name, term in row["terms"].items()}
    return EngineRuntime(
        since=_version(row["since"]),
        until=_until(row["until"]),
        weights_factor=terms["weights_factor"],
        logits_copies=terms["logits_copies"],
        activation_constant_bytes=_gib(terms["activation_constant_gib"]),
        non_torch_bytes=_gib(terms["non_torch_gib"]),
        cuda_graph_bytes=_gib(terms["cuda_graph_gib"]),
        cuda_graphs_inside_budget=row["cuda_graphs_inside_budget"],
        context_bytes=_gib(terms["context_gib"]),
        margin_bytes=_gib(terms["margin_gib"]),
    )


def _gib(value: float) -> int:
    return round(value * GIB)


def _version(text: str) -> EngineVersion:
    version = parse_version(text)
    if version is None:
        raise ValueError(f"{text!r} in a bundled table is no version")
    return version


def _until(text: str | None) -> EngineVersion | None:
    """A bound of two numbers ("0.26") holds for every patch of that minor version."""
    if text is None:
        return None
    version = _version(text)
    return version if text.count(".") > 1 else EngineVersion(version.major, version.minor, _ANY_PATCH)
