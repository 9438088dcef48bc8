"""The Service in front of a deployment's replicas."""

from __future__ import annotations

from typing import Any

from slmpack.domain.snapshot import Demand, DeploymentView
from slmpack.render.names import common_labels, owner_reference, selector_labels, service_name
from slmpack.render.template import mapping

__all__ = ["DEFAULT_PORT", "render_service"]

DEFAULT_PORT = 8000
"""Of the Service, as the field's description in the API says."""


def render_service(deployment: DeploymentView, demand: Demand) -> dict[str, Any]:
    """The Service's manifest. It selects Ready pods only, so starting, failed and ending replicas get no requests."""
    name = deployment.key.name
    wanted = mapping(demand.template, "service")
    annotations = mapping(wanted, "annotations")
    port = {
        "name": "http",
        "port": wanted.get("port", DEFAULT_PORT),
        "targetPort": "http",
        "protocol": "TCP",
        "appProtocol": "http",
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(name),
            "namespace": deployment.key.namespace,
            "labels": {**mapping(wanted, "labels"), **common_labels(name)},
            **({"annotations": annotations} if annotations else {}),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {"type": wanted.get("type", "ClusterIP"), "selector": selector_labels(name), "ports": [port]},
    }
