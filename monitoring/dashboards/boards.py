"""All dashboards."""

from __future__ import annotations

from monitoring.dashboards.cluster import CLUSTER
from monitoring.dashboards.deployment import DEPLOYMENT
from monitoring.dashboards.power import POWER

__all__ = ["BOARDS", "FOLDER"]

BOARDS = (CLUSTER, DEPLOYMENT, POWER)
FOLDER = "charts/slmpack/files/dashboards"
"""Where their JSON goes, `<uid>.json`; the chart makes a ConfigMap of each."""
