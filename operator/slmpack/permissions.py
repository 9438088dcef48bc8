"""The one table of what the operator may do; its roles and its preflight are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

__all__ = [
    "PACK_KEY",
    "PERMISSIONS",
    "Permission",
    "Scope",
    "access_reviews",
    "cluster_role",
    "lease_role",
    "namespaced_role",
]

READ = ("get", "list", "watch")
PACK_KEY = "slmpack-pack-key"
"""The one Secret that the operator reads: its own, in --lease-namespace."""


class Scope(Enum):
    """Where a permission must hold."""

    CLUSTER = "cluster"
    """Always in the whole cluster: other people's pods use GPUs too."""
    MANAGED = "managed"
    """In every namespace whose SLMDeployments are reconciled."""
    LEASE = "lease"
    """In --lease-namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Verbs on one resource; `resource` may name a subresource."""

    scope: Scope
    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()
    """Of these objects only; all where empty. Creating cannot be limited so."""
    for_packs: bool = False
    """Needed only where --supervisor-image is given."""
    for_claims: bool = False
    """Needed only where the API server serves resource.k8s.io/v1; the roles hold it anyway."""


PERMISSIONS = (
    Permission(scope=Scope.CLUSTER, group="", resource="nodes", verbs=READ, why="what GPUs there are"),
    Permission(scope=Scope.CLUSTER, group="", resource="pods", verbs=READ, why="what uses them"),
    Permission(
        scope=Scope.CLUSTER, group="scheduling.k8s.io", resource="priorityclasses", verbs=READ, why="who goes first"
    ),
    Permission(
        scope=Scope.CLUSTER,
        group="resource.k8s.io",
        resource="resourceslices",
        verbs=READ,
        why="what devices there are",
        for_claims=True,
    ),
    Permission(
        scope=Scope.CLUSTER,
        group="resource.k8s.io",
        resource="deviceclasses",
        verbs=READ,
        why="whether they can be claimed",
        for_claims=True,
    ),
    Permission(
        scope=Scope.CLUSTER,
        group="resource.k8s.io",
        resource="resourceclaims",
        verbs=READ,
        why="who holds them",
        for_claims=True,
    ),
    Permission(
        scope=Scope.MANAGED,
        group="resource.k8s.io",
        resource="resourceclaimtemplates",
        verbs=("get", "create"),
        why="claiming them for replicas",
        for_claims=True,
    ),
    Permission(scope=Scope.MANAGED, group="slmpack.dev", resource="slmdeployments", verbs=READ, why="what is wanted"),
    Permission(
        scope=Scope.MANAGED, group="slmpack.dev", resource="slmdeployments/status", verbs=("patch",), why="saying why"
    ),
    Permission(scope=Scope.MANAGED, group="", resource="pods", verbs=("create", "delete", "patch"), why="replicas"),
    Permission(
        scope=Scope.MANAGED, group="", resource="services", verbs=(*READ, "create", "patch"), why="where they answer"
    ),
    Permission(scope=Scope.MANAGED, group="", resource="configmaps", verbs=READ, why="profiles that specs refer to"),
    Permission(
        scope=Scope.MANAGED, group="events.k8s.io", resource="events", verbs=("create",), why="what has happened"
    ),
    Permission(
        scope=Scope.LEASE,
        group="coordination.k8s.io",
        resource="leases",
        verbs=("get", "create", "update"),
        why="one planner a cluster",
    ),
    Permission(
        scope=Scope.MANAGED,
        group="",
        resource="serviceaccounts",
        verbs=("get", "create"),
        why="who a pack's supervisor is",
        for_packs=True,
    ),
    Permission(
        scope=Scope.MANAGED,
        group="rbac.authorization.k8s.io",
        resource="roles",
        verbs=("get", "create"),
        why="what a pack's supervisor may do: write its own endpoints",
        for_packs=True,
    ),
    Permission(
        scope=Scope.MANAGED,
        group="rbac.authorization.k8s.io",
        resource="rolebindings",
        verbs=("get", "create"),
        why="that a pack's supervisor may do it",
        for_packs=True,
    ),
    Permission(
        scope=Scope.MANAGED,
        group="discovery.k8s.io",
        resource="endpointslices",
        verbs=(*READ, "create", "patch"),
        why="where a pack's engines answer; who grants get and patch to a supervisor must hold them",
        for_packs=True,
    ),
    Permission(
        scope=Scope.LEASE,
        group="",
        resource="secrets",
        verbs=("create",),
        why="the key to the supervisors of packs",
        for_packs=True,
    ),
    Permission(
        scope=Scope.LEASE,
        group="",
        resource="secrets",
        verbs=("get",),
        why="the key to the supervisors of packs",
        names=(PACK_KEY,),
        for_packs=True,
    ),
)


def cluster_role(name: str, *, all_namespaces: bool, packs: bool = False) -> dict[str, Any]:
    """The ClusterRole; with `all_namespaces` it holds what is needed in each namespace too."""
    scopes = {Scope.CLUSTER, Scope.MANAGED} if all_namespaces else {Scope.CLUSTER}
    return _role("ClusterRole", {"name": name}, scopes, packs=packs)


def namespaced_role(name: str, *, namespace: str, packs: bool = False) -> dict[str, Any]:
    """The Role in the one namespace of an operator that runs with --namespace."""
    return _role("Role", {"name": name, "namespace": namespace}, {Scope.MANAGED}, packs=packs)


def lease_role(name: str, *, namespace: str, packs: bool = False) -> dict[str, Any]:
    """The Role in --lease-namespace."""
    return _role("Role", {"name": name, "namespace": namespace}, {Scope.LEASE}, packs=packs)


def access_reviews(
    *, namespace: str | None, lease_namespace: str, packs: bool = False, claims: bool = True
) -> Iterator[tuple[Permission, dict[str, Any]]]:
    """A SelfSubjectAccessReview's spec for each verb of the table; `namespace` None: all."""
    where = {Scope.CLUSTER: "", Scope.MANAGED: namespace or "", Scope.LEASE: lease_namespace}
    for permission in _asked(packs=packs, claims=claims):
        resource, _, subresource = permission.resource.partition("/")
        for verb, name in product(permission.verbs, permission.names or ("",)):
            attributes = {"group": permission.group, "resource": resource, "verb": verb}
            if subresource:
                attributes["subresource"] = subresource
            if where[permission.scope]:
                attributes["namespace"] = where[permission.scope]
            if name:
                attributes["name"] = name
            yield permission, {"resourceAttributes": attributes}


def _asked(*, packs: bool, claims: bool = True) -> Iterator[Permission]:
    return (it for it in PERMISSIONS if (packs or not it.for_packs) and (claims or not it.for_claims))


def _role(kind: str, metadata: dict[str, str], scopes: set[Scope], *, packs: bool) -> dict[str, Any]:
    rules = [_rule(permission) for permission in _asked(packs=packs) if permission.scope in scopes]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules}


def _rule(permission: Permission) -> dict[str, Any]:
    return {
        "apiGroups": [permission.group],
        "resources": [permission.resource],
        "verbs": list(permission.verbs),
        **({"resourceNames": list(permission.names)} if permission.names else {}),
    }
