"""How often the supervisor looks, and how long it waits for helpers.

`SLMPACK_INTERVALS`, a JSON object of names and seconds, changes them. It is there for tests; nothing else sets it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from slmpack.supervisor.config import ConfigError

__all__ = ["Intervals", "parse_intervals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Seconds."""

    tick: float = 0.2
    """Between two turns of the loop."""
    health: float = 1.0
    """Between two looks at an engine's /health."""
    health_limit: float = 5.0
    """For one look."""
    mps: float = 2.0
    """Between two looks at the MPS servers."""
    control_limit: float = 10.0
    """For one run of nvidia-cuda-mps-control."""
    daemon_limit: float = 60.0
    """Until the control daemon must have answered once."""
    probe_limit: float = 60.0
    """For the probe: a cold GPU and the MPS server's start are in it."""
    nvml: float = 15.0
    """Between two readings of device memory."""
    nvml_limit: float = 10.0
    """For one reading."""
    attach_limit: float = 30.0
    """Between a healthy answer and the engine's place in the list of MPS clients."""
    backoff: float = 10.0
    """Before the first restart; doubles with each."""
    backoff_most: float = 300.0
    settled: float = 600.0
    """Ready for so long: the back-off begins anew."""
    together: float = 10.0
    """Two deaths within it are one fault of the GPU."""
    withdraw_limit: float = 10.0
    """For the API server to take the withdrawal of an endpoint."""
    leftover: float = 3.0
    """For the children of an engine that has ended."""
    fatal: float = 5.0
    """For engines to end by themselves once the domain is undefined."""
    unkillable: float = 15.0
    """For SIGKILL to work, while the pod ends; a driver can hold a process for ever."""
    endpoint_repeat: float = 1.0
    """Before a failed write is repeated; doubles up to `endpoint_resync`."""
    endpoint_resync: float = 30.0
    """Between two readings of a slice that should be right."""
    client_limit: float = 10.0
    """For one request to the control API."""


def parse_intervals(text: str | None) -> Intervals:
    """The defaults, changed by what `text` says. ConfigError if it says something else."""
    if not text:
        return Intervals()
    names = {field.name for field in fields(Intervals)}
    try:
        given = {str(name): float(value) for name, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"SLMPACK_INTERVALS: {text[:100]!r} must be an object of seconds: {error}") from None
    if unknown := sorted(set(given) - names):
        raise ConfigError(f"SLMPACK_INTERVALS: {unknown} are not intervals; these are: {', '.join(sorted(names))}")
    return Intervals(**given)
