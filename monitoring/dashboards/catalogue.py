"""Every series that a dashboard may ask for, from where the project names it: a renamed one breaks the generator."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml

from slmpack.adapters.metric_names import MetricNames
from slmpack.adapters.telemetry import PrometheusTelemetry

__all__ = ["RULES", "UnknownMetricError", "checked", "known_metrics"]

RULES = Path(__file__).parents[1] / "rules"
PROCESS = frozenset({"process_resident_memory_bytes", "process_cpu_seconds_total"})
"""Of prometheus-client's ProcessCollector, which the operator registers; it tells nothing but on Linux."""
PROMETHEUS = frozenset({"ALERTS"})
TYPED = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
SERIES = re.compile(
    r"(?<![\w:.\"$-])(?:(?:slmpack|process|DCGM)_\w+|ALERTS|(?:vllm|gpu|slmpack|slmdeployment|slmdeployment_node):[\w:]+)"
)
"""What can only be the name of a series: those of vLLM and of recording rules have a colon."""


class UnknownMetricError(ValueError):
    """A query names a series that nobody exposes and no rule records."""


def checked(query: str) -> str:
    """The query itself, if all of its series are known. Raises UnknownMetricError."""
    named = SERIES.findall(query)
    if not named:
        raise UnknownMetricError(f"{query}: names no series of slmpack, vLLM or dcgm-exporter")
    for name in named:
        if name not in known_metrics():
            near = ", ".join(get_close_matches(name, sorted(known_metrics()), n=3)) or "no similar name"
            raise UnknownMetricError(f"{query}: nobody exposes or records {name}; known: {near}")
    return query


@cache
def known_metrics() -> frozenset[str]:
    """Names of series, histograms by their parts."""
    names = MetricNames()
    plain = {name for group in (names.engine, names.gpu) for found in group.model_dump().values() for name in found}
    plain |= {f"{name}{part}" for name in plain for part in ("_bucket", "_sum", "_count")}
    return frozenset(plain) | _operator() | _recorded() | PROCESS | PROMETHEUS


def _operator() -> frozenset[str]:
    found: set[str] = set()
    for name, kind in TYPED.findall(PrometheusTelemetry().text().decode()):
        found.update({f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name})
    return frozenset(found)


def _recorded() -> frozenset[str]:
    rules = [
        rule
        for path in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    return frozenset(rule["record"] for rule in rules if "record" in rule)
