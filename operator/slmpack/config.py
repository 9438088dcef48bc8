"""How the operator process is set up: its flags, and its environment, read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slmpack.adapters.hub import HubSettings
from slmpack.adapters.measuring import MetricsSettings
from slmpack.adapters.selector import Selector, parse_selector
from slmpack.adapters.service_account import pod_namespace

__all__ = ["OperatorConfig", "hub_settings"]

FALLBACK_NAMESPACE = "slmpack-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConfig:
    """Everything that `slmpack run` can be told."""

    kubeconfig: str | None = None
    """None: as kubectl finds it, else the pod's service account."""
    context: str | None = None
    namespace: str | None = None
    """Whose SLMDeployments are reconciled; None: all namespaces."""
    node_selector: str = ""
    lease_namespace: str | None = None
    """None: the pod's own namespace, else slmpack-system."""
    identity: str | None = None
    """Who holds the Lease. In a pod its name ($POD_NAME), so that a container that restarts need not wait for its own
    Lease to expire; None: unique to the process."""
    host: str = "127.0.0.1"
    """Where health and metrics are served; in a cluster 0.0.0.0."""
    port: int = 8080
    """0: any free port; the log says which."""
    page: bool = False
    """Whether the last plan is shown there, at /, to whoever asks."""
    hub: HubSettings = field(default_factory=HubSettings)
    supervisor_image: str | None = None
    """Of the init container that brings the supervisor into a pack's pod; None: no packs are made."""
    pod_proxy: str | None = None
    """URL of the HTTP proxy through which supervisors, and engines that are scraped, are reached, for an operator that
    cannot reach pods itself."""
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    bundled_models: bool = False
    """Answer from the configs that ship with slmpack before asking the Hub (the demo does)."""

    @property
    def makes_packs(self) -> bool:
        """Whether packs are made and looked after."""
        return self.supervisor_image is not None

    @property
    def nodes(self) -> Selector:
        """`node_selector`, parsed; ValueError where it cannot be."""
        return parse_selector(self.node_selector)

    @property
    def where_the_lease_is(self) -> str:
        """The Lease's namespace."""
        if self.lease_namespace is not None:
            return self.lease_namespace
        return pod_namespace() or FALLBACK_NAMESPACE


def hub_settings(environ: Mapping[str, str] = os.environ) -> HubSettings:
    """HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and SLMPACK_MODEL_CACHE, as the Hub's own client reads the first three."""
    cache = environ.get("SLMPACK_MODEL_CACHE")
    return HubSettings(
        endpoint=environ.get("HF_ENDPOINT") or HubSettings().endpoint,
        token=environ.get("HF_TOKEN") or None,
        offline=environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        cache=Path(cache) if cache else None,
    )
