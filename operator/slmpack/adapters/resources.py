"""The kinds that slmpack reads or writes, and where the API server serves them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ACCESS_REVIEWS",
    "CONFIG_MAPS",
    "EVENTS",
    "LEASES",
    "NODES",
    "PODS",
    "PRIORITY_CLASSES",
    "SERVICES",
    "SLM_DEPLOYMENTS",
    "Resource",
    "resource_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind; `group` is empty for core/v1."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of one object, or of a collection (of all namespaces where none is given)."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)


SLM_DEPLOYMENTS = Resource(group="slmpack.dev", version="v1alpha1", plural="slmdeployments", kind="SLMDeployment")
PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", namespaced=False)
SERVICES = Resource(group="", version="v1", plural="services", kind="Service")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
PRIORITY_CLASSES = Resource(
    group="scheduling.k8s.io", version="v1", plural="priorityclasses", kind="PriorityClass", namespaced=False
)
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
EVENTS = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
ACCESS_REVIEWS = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    namespaced=False,
)

BY_KIND = {resource.kind: resource for resource in (SLM_DEPLOYMENTS, PODS, SERVICES)}


def resource_of(kind: str) -> Resource:
    """The resource of a kind that the operator writes; KeyError for any other."""
    return BY_KIND[kind]
