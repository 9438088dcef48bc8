"""The one table of what the operator may do; its roles and its preflight are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["PERMISSIONS", "Permission", "Scope", "access_reviews", "cluster_role", "lease_role", "namespaced_role"]

READ = ("get", "list", "watch")


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


PERMISSIONS = (
    Permission(scope=Scope.CLUSTER, group="", resource="nodes", verbs=READ, why="what GPUs there are"),
    Permission(scope=Scope.CLUSTER, group="", resource="pods", verbs=READ, why="what uses them"),
    Permission(
        scope=Scope.CLUSTER, group="scheduling.k8s.io", resource="priorityclasses", verbs=READ, why="who goes first"
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
)


def cluster_role(name: str, *, all_namespaces: bool) -> dict[str, Any]:
    """The ClusterRole; with `all_namespaces` it holds what is needed in each namespace too."""
    scopes = {Scope.CLUSTER, Scope.MANAGED} if all_namespaces else {Scope.CLUSTER}
    return _role("ClusterRole", {"name": name}, scopes)


def namespaced_role(name: str, *, namespace: str) -> dict[str, Any]:
    """The Role in the one namespace of an operator that runs with --namespace."""
    return _role("Role", {"name": name, "namespace": namespace}, {Scope.MANAGED})


def lease_role(name: str, *, namespace: str) -> dict[str, Any]:
    """The Role in --lease-namespace."""
    return _role("Role", {"name": name, "namespace": namespace}, {Scope.LEASE})


def access_reviews(*, namespace: str | None, lease_namespace: str) -> Iterator[tuple[Permission, dict[str, Any]]]:
    """A SelfSubjectAccessReview's spec for each verb of the table; `namespace` None: all."""
    where = {Scope.CLUSTER: "", Scope.MANAGED: namespace or "", Scope.LEASE: lease_namespace}
    for permission in PERMISSIONS:
        resource, _, subresource = permission.resource.partition("/")
        for verb in permission.verbs:
            attributes = {"group": permission.group, "resource": resource, "verb": verb}
            if subresource:
                attributes["subresource"] = subresource
            if where[permission.scope]:
                attributes["namespace"] = where[permission.scope]
            yield permission, {"resourceAttributes": attributes}


def _role(kind: str, metadata: dict[str, str], scopes: set[Scope]) -> dict[str, Any]:
    rules = [
        {"apiGroups": [permission.group], "resources": [permission.resource], "verbs": list(permission.verbs)}
        for permission in PERMISSIONS
        if permission.scope in scopes
    ]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules}
