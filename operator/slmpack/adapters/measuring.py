"""Where loads are measured: a Prometheus that is configured, else the replicas themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from slmpack.adapters.loads import LoadPoller, Source
from slmpack.adapters.metric_names import MetricNames
from slmpack.adapters.promql import GATEWAY_QUEUE
from slmpack.adapters.scrape import ReplicaScraper
from slmpack.ports import Clock

__all__ = ["ROUND", "MetricsSettings", "make_loads"]

ROUND = 3
"""So many times a request's timeout, a round of them takes at most."""
KEEP = 2
"""For so many periods a sample is held that no newer one has followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """What is measured where."""

    url: str | None = None
    """Prometheus; None: the replicas of SLMDeployments with spec.scaling are scraped."""
    token_file: Path | None = None
    basic_auth_file: Path | None = None
    ca_file: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()
    names: MetricNames = field(default_factory=MetricNames)
    gateway_query: str = GATEWAY_QUEUE
    """With $namespace and $name; empty: no gateway is asked."""
    period: timedelta = timedelta(seconds=15)
    timeout: timedelta = timedelta(seconds=3)
    """Of one request."""
    max_age: timedelta = timedelta(seconds=60)
    """Of a scrape that counts."""


def make_loads(
    settings: MetricsSettings, *, wake: Callable[[], object], clock: Clock, proxy: str | None = None
) -> LoadPoller:
    """`ports.Loads`; `proxy` leads to pods."""
    return LoadPoller(
        _source(settings, clock, proxy),
        wake=wake,
        clock=clock,
        period=settings.period,
        keep=settings.max_age + KEEP * settings.period,
    )


def _source(settings: MetricsSettings, clock: Clock, proxy: str | None) -> Source:
    deadline = ROUND * settings.timeout
    if settings.url is None:
        return ReplicaScraper(
            names=settings.names.engine, clock=clock, timeout=settings.timeout, deadline=deadline, proxy=proxy
        )
    # The package takes 0.2 s and 30 MB to import.
    from slmpack.adapters.prometheus import PrometheusClient, PrometheusSettings
    from slmpack.adapters.prometheus_loads import PrometheusLoads

    where = PrometheusSettings(
        url=settings.url,
        timeout_s=settings.timeout.total_seconds(),
        token_file=settings.token_file,
        basic_auth_file=settings.basic_auth_file,
        ca_file=settings.ca_file,
        headers=settings.headers,
    )
    return PrometheusLoads(
        PrometheusClient(where, clock),
        names=settings.names,
        clock=clock,
        gateway=settings.gateway_query,
        max_age=settings.max_age,
        deadline=deadline,
    )
