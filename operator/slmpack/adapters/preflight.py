"""May we do what we shall have to do? Asked before anything starts, so that the answer is a list and not a hang."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from slmpack.adapters.resources import ACCESS_REVIEWS, APPLY_THE_CRD, LEASES, RESOURCE_CLAIMS, SLM_DEPLOYMENTS
from slmpack.permissions import Permission, access_reviews
from slmpack.ports import NotFound, PortError

__all__ = ["PreflightClient", "Reader", "check_access", "serves_claims"]


class PreflightClient(Protocol):
    """What the preflight needs; `KubeClient` is one."""

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST."""
        ...

    async def list(self, path: str, params: dict[str, str | int] | None = None) -> tuple[list[dict[str, Any]], str]:
        """A collection."""
        ...


class Reader(Protocol):
    """What finding out needs; `KubeClient` is one."""

    async def get(self, path: str) -> dict[str, Any]:
        """GET."""
        ...


async def check_access(
    client: PreflightClient,
    *,
    namespace: str | None,
    lease_namespace: str,
    packs: bool = False,
    claims: bool = True,
) -> tuple[str, ...]:
    """What is missing, a line each; empty if nothing is. Raises PortError where the API server gives no answer."""
    reviews = access_reviews(namespace=namespace, lease_namespace=lease_namespace, packs=packs, claims=claims)
    asked = list(reviews)
    answers = await asyncio.gather(*(_is_allowed(client, spec) for _, spec in asked))
    missing = tuple(_missing(permission, spec) for (permission, spec), ok in zip(asked, answers, strict=True) if not ok)
    return missing or (
        *await _missing_crd(client, namespace=namespace),
        *await _missing_namespace(client, lease_namespace),
    )


async def serves_claims(client: Reader) -> bool:
    """Whether the API server serves resource.k8s.io/v1. Raises PortError where it gives no answer."""
    try:
        await client.get(f"/apis/{RESOURCE_CLAIMS.api_version}")
    except NotFound:
        return False
    return True


async def _is_allowed(client: PreflightClient, spec: dict[str, Any]) -> bool:
    body = {"apiVersion": ACCESS_REVIEWS.api_version, "kind": ACCESS_REVIEWS.kind, "spec": spec}
    answer = await client.create(ACCESS_REVIEWS.path(), body)
    return (answer.get("status") or {}).get("allowed") is True


async def _missing_crd(client: PreflightClient, *, namespace: str | None) -> tuple[str, ...]:
    try:
        await client.list(SLM_DEPLOYMENTS.path(namespace=namespace))
    except NotFound:
        return (f"the cluster does not serve {SLM_DEPLOYMENTS.api_version} {SLM_DEPLOYMENTS.kind}: {APPLY_THE_CRD}",)
    return ()


async def _missing_namespace(client: PreflightClient, name: str) -> tuple[str, ...]:
    """A dry run of making a Lease tells; asking for the namespace itself would need a permission of its own."""
    lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"generateName": "slmpack-"}}
    try:
        await client.create(f"{LEASES.path(namespace=name)}?dryRun=All", lease)
    except NotFound:
        return (f"the namespace {name} of the Lease does not exist: kubectl create namespace {name}",)
    except PortError:
        return ()  # a quota, say: the Lease itself may be there already
    return ()


def _missing(permission: Permission, spec: dict[str, Any]) -> str:
    attributes = spec["resourceAttributes"]
    where = f"in namespace {attributes['namespace']}" if "namespace" in attributes else "in the whole cluster"
    group = f".{permission.group}" if permission.group else ""
    name = f" {attributes['name']}" if "name" in attributes else ""
    return f"may not {attributes['verb']} {permission.resource}{group}{name} {where} (needed for: {permission.why})"
