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
from slmpack.domain.gpu import DenseTflops, GpuCatalogue, GpuModel, MigProfile
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.quantity import GIB

__all__ = ["bundled_config", "bundled_models", "load_engine_table", "load_gpu_catalogue", "read_table"]

_DATA = resources.files("slmpack") / "data"
_ANY_PATCH = 9999


@cache
def load_gpu_catalogue() -> GpuCatalogue:
    """The products of `data/gpus.yaml`."""
    return GpuCatalogue(models=tuple(_gpu(entry) for entry in read_table("gpus.yaml")["gpus"]))


@cache
def load_engine_table() -> EngineTable:
    """The flags of `data/engine_flags.yaml` and the memory constants of `data/engines.yaml`."""
    return EngineTable(
        flags=tuple(_flag(row) for row in read_table("engine_flags.yaml")["flags"]),
        runtimes=tuple(_runtime(row) for row in read_table("engines.yaml")["runtimes"]),
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


def read_table(name: str) -> dict[str, Any]:
    """A YAML file of `data/`; by libyaml where PyYAML has it, a tenth of the time."""
    text = (_DATA / name).read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
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
        dense_tflops=DenseTflops(**entry["dense_tflops"]),
        idle_w=_watts(entry["idle_w_observed"]),
        loaded_idle_w=_watts(entry["loaded_idle_w_observed"]),
        stacked_memory=entry["memory_type"] == "HBM",
    )


def _watts(entry: list[float] | None) -> tuple[float, float] | None:
    return None if entry is None else (entry[0], entry[1])


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
    terms = {name: _interval(term) for name, term in row["terms"].items()}
    return EngineRuntime(
        since=_version(row["since"]),
        until=_until(row["until"]),
        validated=row["validated"],
        weights_factor=terms["weights_factor"],
        logits_copies=terms["logits_copies"],
        mlp_factor=terms["mlp_factor"],
        activation_constant_bytes=_gib_interval(terms["activation_constant_gib"]),
        non_torch_bytes=_gib_interval(terms["non_torch_gib"]),
        cuda_graph_base_bytes=_gib_interval(terms["cuda_graph_base_gib"]),
        cuda_graph_each_bytes=_gib_interval(terms["cuda_graph_each_gib"]),
        cuda_graphs_inside_budget=row["cuda_graphs_inside_budget"],
        context_bytes=_gib_interval(terms["context_gib"]),
        margin_bytes=_gib(row["margin_gib"]["value"]),
    )


def _interval(term: dict[str, Any]) -> Interval:
    return Interval(low=term["low"], expected=term["expected"], high=term["high"], basis=Basis.MODELLED)


def _gib_interval(gib: Interval) -> Interval:
    """In whole bytes."""
    low, expected, high = (float(_gib(value)) for value in (gib.low, gib.expected, gib.high))
    return Interval(low=low, expected=expected, high=high, basis=gib.basis)


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
