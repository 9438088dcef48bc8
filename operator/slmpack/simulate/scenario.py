"""What one simulation is of, but for the policy: the load, the latency that must be kept, what counts.

A frozen scenario is a YAML file; every policy gets the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BadScenarioError", "Scenario", "Slo", "read_scenario"]


class BadScenarioError(Exception):
    """The message is for the user: where, what is wrong, what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What each request must keep."""

    ttft_s: float | None = None
    """Time to first token at most this, or `ttft_times` what it takes on an empty engine, whichever is more. None: the
    SLMDeployment's spec.bounds.ttft, else 1 s."""
    ttft_times: float = 3.0
    tpot_s: float | None = None
    """Mean time of each further token at most. None: the SLMDeployment's spec.bounds.itl, else 50 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The frozen circumstances."""

    name: str
    warm_up_s: float
    """Left out of every figure: latency and cost alike."""
    initial: int = 1
    """Replicas of each SLMDeployment that are ready when the trace begins, within its bounds."""
    multiplier: int = 1
    """Copies of the trace laid over each other, shifted at random by up to a minute."""
    slo: Slo = field(default_factory=Slo)
    kind: str = ""
    """For the benchmark: conversation, bursty, day or control."""
    trace: str = ""
    """File name, for the benchmark."""
    since_s: float = 0.0
    until_s: float | None = None
    """The part of the trace that is played; None: to its end."""
    objects: tuple[Path, ...] = ()
    """The SLMDeployments and nodes."""

    @staticmethod
    def default_warm_up(span_s: float) -> float:
        """10 minutes of an hour, 15 of a day (facts-autoscaling, section 1), a fifth of anything shorter."""
        return min(900.0 if span_s > 6 * 3600.0 else 600.0, span_s / 5.0)


_FIELDS = {
    "name": str,
    "trace": str,
    "kind": str,
    "warmUpSeconds": (int, float),
    "initialReplicas": int,
    "rateMultiplier": int,
    "from": (int, float),
    "to": (int, float),
    "objects": list,
    "slo": dict,
}
_SLO_FIELDS = ("ttftSeconds", "ttftTimesUnloaded", "tpotSeconds")
_NEEDED = ("name", "trace", "warmUpSeconds", "objects")


def read_scenario(path: Path) -> Scenario:
    """A scenario file; the paths of `objects` start at its folder. Raises BadScenarioError."""
    try:
        raw: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadScenarioError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadScenarioError(f"{path}: is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise BadScenarioError(f"{path}: must be a mapping of {', '.join(_FIELDS)}")
    _check(raw, path)
    slo = raw.get("slo", {})
    return Scenario(
        name=raw["name"],
        trace=raw["trace"],
        kind=raw.get("kind", ""),
        warm_up_s=float(raw["warmUpSeconds"]),
        initial=raw.get("initialReplicas", 1),
        multiplier=raw.get("rateMultiplier", 1),
        since_s=float(raw.get("from", 0.0)),
        until_s=None if raw.get("to") is None else float(raw["to"]),
        objects=tuple(path.parent / name for name in raw["objects"]),
        slo=Slo(
            ttft_s=slo.get("ttftSeconds"),
            ttft_times=float(slo.get("ttftTimesUnloaded", Slo().ttft_times)),
            tpot_s=slo.get("tpotSeconds"),
        ),
    )


def _check(raw: Mapping[str, Any], path: Path) -> None:
    unknown = sorted(set(raw) - set(_FIELDS))
    if unknown:
        raise BadScenarioError(f"{path}: {', '.join(unknown)}: no such field; there are {', '.join(_FIELDS)}")
    missing = [name for name in _NEEDED if name not in raw]
    if missing:
        raise BadScenarioError(f"{path}: {', '.join(missing)} must be given")
    for name, value in raw.items():
        kind = _FIELDS[name]
        if isinstance(value, bool) or not isinstance(value, kind):  # type: ignore[arg-type]
            raise BadScenarioError(f"{path}: {name}: {value!r} is of the wrong kind")
        if isinstance(value, int | float) and value < 0:
            raise BadScenarioError(f"{path}: {name}: {value} must not be negative")
    for name, value in raw.get("slo", {}).items():
        if name not in _SLO_FIELDS or isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise BadScenarioError(f"{path}: slo.{name}: {value!r}; {', '.join(_SLO_FIELDS)} are numbers above 0")
    if raw.get("rateMultiplier", 1) < 1:
        raise BadScenarioError(f"{path}: rateMultiplier: {raw['rateMultiplier']} must be at least 1")
