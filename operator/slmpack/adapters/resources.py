"""The kinds that slmpack reads or writes, and where the API server serves them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ACCESS_REVIEWS",
    "APPLY_THE_CRD",
    "CONFIG_MAPS",
    "DEVICE_CLASSES",
    "ENDPOINT_SLICES",
    "EVENTS",
    "LEASES",
    "NODES",
    "PODS",
    "PRIORITY_CLASSES",
    "RESOURCE_CLAIMS",
    "RESOURCE_CLAIM_TEMPLATES",
    "RESOURCE_SLICES",
    "ROLES",
    "ROLE_BINDINGS",
    "SECRETS",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "SLM_DEPLOYMENTS",
    "Resource",
    "resource_of",
]

APPLY_THE_CRD = "slmpack crd | kubectl apply --server-side -f -"
"""What brings the CRD where no chart does, from any folder."""


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
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
SERVICE_ACCOUNTS = Resource(group="", version="v1", plural="serviceaccounts", kind="ServiceAccount")
ROLES = Resource(group="rbac.authorization.k8s.io", version="v1", plural="roles", kind="Role")
ROLE_BINDINGS = Resource(group="rbac.authorization.k8s.io", version="v1", plural="rolebindings", kind="RoleBinding")
ENDPOINT_SLICES = Resource(group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice")
EVENTS = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
RESOURCE_SLICES = Resource(
    group="resource.k8s.io", version="v1", plural="resourceslices", kind="ResourceSlice", namespaced=False
)
RESOURCE_CLAIMS = Resource(group="resource.k8s.io", version="v1", plural="resourceclaims", kind="ResourceClaim")
RESOURCE_CLAIM_TEMPLATES = Resource(
    group="resource.k8s.io", version="v1", plural="resourceclaimtemplates", kind="ResourceClaimTemplate"
)
DEVICE_CLASSES = Resource(
    group="resource.k8s.io", version="v1", plural="deviceclasses", kind="DeviceClass", namespaced=False
)
ACCESS_REVIEWS = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    namespaced=False,
)

BY_KIND = {resource.kind: resource for resource in (SLM_DEPLOYMENTS, PODS, SERVICES)}
BY_KIND[RESOURCE_CLAIM_TEMPLATES.kind] = RESOURCE_CLAIM_TEMPLATES
BY_KIND |= {resource.kind: resource for resource in (SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, ENDPOINT_SLICES)}


def resource_of(kind: str) -> Resource:
    """The resource of a kind that the operator writes; KeyError for any other."""
    return BY_KIND[kind]
