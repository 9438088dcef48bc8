"""How a replica starts, is watched and ends: probes and drain that fit what vLLM 0.11 to 0.33 really does.

Observed on a running server: the port refuses connections until the engine is ready; /health answers 503 once the
engine died, and the process ends by itself seconds later; after SIGTERM with --shutdown-timeout, /health stays 200 and
requests in flight complete, but new ones get 500.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

__all__ = ["DEFAULT_GRACE_SECONDS", "Drain", "drain_within", "pre_stop", "probes"]

DEFAULT_GRACE_SECONDS = 60
"""As the field's description in the API says."""

_ENDPOINT_SECONDS = 10
"""For every kube-proxy and gateway to see that the pod is ending, before the engine refuses requests."""
_EXIT_SECONDS = 15
"""For the engine to free the GPU and exit once its requests are done, before it is killed."""
_STARTUP_PERIOD_SECONDS = 5
_STARTUP_FACTOR = 2
"""The operator ends a start that takes too long, and keeps its log; the kubelet only does where no operator runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How the termination grace period is divided; what is left of it is for the exit."""

    pre_stop_seconds: int
    """Asleep before SIGTERM; 0 for no such hook."""
    shutdown_timeout_seconds: int | None
    """After SIGTERM, for requests in flight; None where vLLM cannot wait for them."""


def drain_within(grace_seconds: int, *, waits: bool) -> Drain:
    """Divide a grace period. An engine that `waits` drains after SIGTERM; any other while it sleeps before SIGTERM."""
    endpoint = min(_ENDPOINT_SECONDS, grace_seconds // 3)
    leave = min(_EXIT_SECONDS, grace_seconds // 3)
    requests = grace_seconds - endpoint - leave
    if waits:
        return Drain(pre_stop_seconds=endpoint, shutdown_timeout_seconds=requests)
    return Drain(pre_stop_seconds=grace_seconds - leave, shutdown_timeout_seconds=None)


def pre_stop(drain: Drain) -> dict[str, Any]:
    """The container's `lifecycle`, or nothing. The kubelet's own sleep (Kubernetes 1.30) needs no shell."""
    if drain.pre_stop_seconds == 0:  # the API server refuses a sleep of 0 before 1.33
        return {}
    return {"lifecycle": {"preStop": {"sleep": {"seconds": drain.pre_stop_seconds}}}}


def probes(
    startup_budget: timedelta, *, port: str = "http", ready: str = "/health", alive: str = "/health"
) -> dict[str, Any]:
    """The three probes of a named port. Liveness is slow to act: a dead engine exits unasked, a busy one is no hang."""
    budget = _STARTUP_FACTOR * startup_budget
    attempts = -(-budget // timedelta(seconds=_STARTUP_PERIOD_SECONDS))
    return {
        "startupProbe": _probe(port, ready, period=_STARTUP_PERIOD_SECONDS, timeout=5, failures=attempts),
        "readinessProbe": _probe(port, ready, period=5, timeout=5, failures=3),
        "livenessProbe": _probe(port, alive, period=10, timeout=10, failures=12),
    }


def _probe(port: str, path: str, *, period: int, timeout: int, failures: int) -> dict[str, Any]:
    """GET the path every `period` seconds; `failures` in a row count."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }
