"""The kinds the embedded API server serves, and how a request path names them.

Built-ins are the ones that the operator, the stand-in kubelet and the demo's `kubectl` lines touch; custom ones come
from CustomResourceDefinitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from slmpack.devcluster.errors import StatusError

__all__ = ["Json", "Registry", "Resource", "Target"]

Json = dict[str, Any]

_FULL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One served kind. `version_spec` is the CRD's version entry for a custom one."""

    group: str = ""
    version: str = "v1"
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = _FULL
    version_spec: Json | None = field(default=None, compare=False)

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`, as objects spell it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """`plural.group`, the way errors name a resource, and where it is stored: both Event groups share it."""
        if self.group == "events.k8s.io":
            return self.plural
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one request path addresses."""

    resource: Resource
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None


_BUILT_IN = (
    Resource(
        plural="pods",
        kind="Pod",
        short_names=("po",),
        categories=("all",),
        subresources=("status", "log", "eviction", "binding"),
    ),
    Resource(plural="nodes", kind="Node", namespaced=False, short_names=("no",), subresources=("status",)),
    Resource(plural="services", kind="Service", short_names=("svc",), categories=("all",), subresources=("status",)),
    Resource(plural="events", kind="Event", short_names=("ev",)),
    Resource(group="events.k8s.io", plural="events", kind="Event"),
    Resource(plural="namespaces", kind="Namespace", namespaced=False, short_names=("ns",), subresources=("status",)),
    Resource(plural="configmaps", kind="ConfigMap", short_names=("cm",)),
    Resource(plural="secrets", kind="Secret"),
    Resource(plural="serviceaccounts", kind="ServiceAccount", short_names=("sa",)),
    Resource(plural="endpoints", kind="Endpoints", short_names=("ep",)),
    Resource(plural="persistentvolumeclaims", kind="PersistentVolumeClaim", short_names=("pvc",)),
    Resource(group="coordination.k8s.io", plural="leases", kind="Lease"),
    Resource(group="discovery.k8s.io", plural="endpointslices", kind="EndpointSlice"),
    Resource(group="rbac.authorization.k8s.io", plural="roles", kind="Role"),
    Resource(group="rbac.authorization.k8s.io", plural="rolebindings", kind="RoleBinding"),
    Resource(group="scheduling.k8s.io", plural="priorityclasses", kind="PriorityClass", namespaced=False),
    Resource(
        group="apiextensions.k8s.io",
        plural="customresourcedefinitions",
        kind="CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        subresources=("status",),
    ),
    Resource(
        group="authorization.k8s.io",
        plural="selfsubjectaccessreviews",
        kind="SelfSubjectAccessReview",
        namespaced=False,
        verbs=("create",),
    ),
)


class Registry:
    """Every served resource, found by path, by kind or by owner reference."""

    def __init__(self) -> None:
        self._resources = {(item.group, item.version, item.plural): item for item in _BUILT_IN}

    def __iter__(self) -> Iterator[Resource]:
        return iter(tuple(self._resources.values()))

    def add_crd(self, crd: Json) -> tuple[Resource, ...]:
        """Serve the versions of a CustomResourceDefinition from now on."""
        spec = crd["spec"]
        names = spec["names"]
        added = tuple(
            Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                namespaced=spec.get("scope", "Namespaced") == "Namespaced",
                short_names=tuple(names.get("shortNames", ())),
                categories=tuple(names.get("categories", ())),
                subresources=tuple(sorted(version.get("subresources", {}))),
                version_spec=version,
            )
            for version in spec["versions"]
            if version.get("served", True)
        )
        for item in added:
            self._resources[item.group, item.version, item.plural] = item
        return added

    def remove_crd(self, crd: Json) -> tuple[Resource, ...]:
        """Stop serving what a deleted CustomResourceDefinition named; the answer is what it was."""
        spec = crd["spec"]
        gone = [key for key in self._resources if key[0] == spec["group"] and key[2] == spec["names"]["plural"]]
        return tuple(self._resources.pop(key) for key in gone)

    def by_plural(self, group: str, version: str, plural: str) -> Resource:
        """The resource, or 404 in the API server's words."""
        found = self._resources.get((group, version, plural))
        if found is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        return found

    def parse(self, path: str) -> Target:
        """Split a request path: `/apis/G/V/namespaces/NS/PLURAL/NAME/SUBRESOURCE` and its shorter forms."""
        parts = [part for part in path.split("?", 1)[0].split("/") if part]
        group, rest = "", parts[1:]
        if parts[:1] == ["apis"]:
            group, rest = (parts[1] if len(parts) > 1 else ""), parts[2:]
        namespace = None
        if len(rest) >= 4 and rest[1] == "namespaces" and rest[3] not in {"status", "finalize"}:
            namespace, rest = rest[2], [rest[0], *rest[3:]]
        if len(rest) < 2 or parts[0] not in {"api", "apis"}:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        target = Target(resource=self.by_plural(group, rest[0], rest[1]), namespace=namespace)
        if len(rest) > 2:
            target = replace(target, name=rest[2], subresource="/".join(rest[3:]) or None)
        if target.subresource and target.subresource not in target.resource.subresources:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        return target

    def group_versions(self) -> dict[str, list[str]]:
        """Served versions of each group, in the order they were added."""
        found: dict[str, list[str]] = {}
        for group, version, _ in self._resources:
            versions = found.setdefault(group, [])
            if version not in versions:
                versions.append(version)
        return found
