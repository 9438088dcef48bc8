"""One table makes the roles and the questions of the preflight."""

from __future__ import annotations

from typing import Any

import pytest

from slmpack.adapters.preflight import check_access, serves_claims
from slmpack.domain.snapshot import Key
from slmpack.permissions import (
    PACK_KEY,
    PERMISSIONS,
    Scope,
    access_reviews,
    cluster_role,
    lease_role,
    namespaced_role,
)
from slmpack.ports import NotFound, PortError, Unavailable
from slmpack.render.pack_children import PackPod, pack_children


def _rules(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(rule["apiGroups"][0], rule["resources"][0], verb) for rule in role["rules"] for verb in rule["verbs"]}


TABLE = {(row.group, row.resource, verb) for row in PERMISSIONS for verb in row.verbs}
FOR_PACKS = {(row.group, row.resource, verb) for row in PERMISSIONS if row.for_packs for verb in row.verbs}


@pytest.mark.parametrize("packs", [False, True])
def test_the_roles_grant_the_table_and_nothing_else(packs: bool) -> None:
    table = TABLE if packs else TABLE - FOR_PACKS
    lease = _rules(lease_role("slmpack", namespace="system", packs=packs))
    everywhere = _rules(cluster_role("slmpack", all_namespaces=True, packs=packs))
    assert everywhere | lease == table
    narrow = _rules(cluster_role("slmpack", all_namespaces=False, packs=packs))
    assert narrow | _rules(namespaced_role("slmpack", namespace="ns", packs=packs)) | lease == table
    assert all(verb in {"get", "list", "watch"} for _, _, verb in narrow)


def test_no_rule_has_a_wildcard_and_no_secret_is_read_but_our_own() -> None:
    assert not {row for row in TABLE if "*" in "".join(row)}
    secrets = [row for row in PERMISSIONS if row.resource == "secrets"]
    assert {row.scope for row in secrets} == {Scope.LEASE}
    assert {(row.verbs, row.names) for row in secrets} == {(("create",), ()), (("get",), (PACK_KEY,))}
    (rule,) = [
        rule for rule in lease_role("slmpack", namespace="system", packs=True)["rules"] if "resourceNames" in rule
    ]
    assert (rule["resources"], rule["verbs"], rule["resourceNames"]) == (["secrets"], ["get"], [PACK_KEY])


def test_what_a_packs_role_grants_the_operator_holds_itself() -> None:
    pod = PackPod(key=Key("ns", "m-0"), uid="u", ip="10.0.0.1", deployment="m", engines=2, account="m-pack")
    (role,) = [child for child in pack_children(pod) if child["kind"] == "Role"]
    granted = {
        (group, kind, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted
    assert granted <= _rules(namespaced_role("slmpack", namespace="ns", packs=True))


def test_the_reviews_ask_for_every_row_where_it_is_needed() -> None:
    reviews = access_reviews(namespace="ns", lease_namespace="system", packs=True)
    specs = [spec["resourceAttributes"] for _, spec in reviews]
    assert len(specs) == sum(len(row.verbs) for row in PERMISSIONS)
    assert {spec.get("namespace") for spec in specs if spec["resource"] == "leases"} == {"system"}
    assert {spec.get("namespace") for spec in specs if spec["resource"] == "nodes"} == {None}
    assert {spec.get("namespace") for spec in specs if spec["resource"] == "services"} == {"ns"}
    assert {spec.get("name") for spec in specs if spec["verb"] == "get" and spec["resource"] == "secrets"} == {PACK_KEY}
    assert [spec["subresource"] for spec in specs if "subresource" in spec] == ["status"]


def test_without_packs_nothing_of_theirs_is_asked_for() -> None:
    asked = {spec["resourceAttributes"]["resource"] for _, spec in access_reviews(namespace="ns", lease_namespace="s")}
    assert asked.isdisjoint({"secrets", "roles", "rolebindings", "serviceaccounts", "endpointslices"})


class Api:
    def __init__(self, *, denied: str = "", crd: bool = True, namespace: bool = True) -> None:
        self._denied = denied
        self._crd = crd
        self._namespace = namespace

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/leases?dryRun=All"):
            if not self._namespace:
                raise NotFound("404")
            return body
        return {"status": {"allowed": body["spec"]["resourceAttributes"]["resource"] != self._denied}}

    async def list(self, path: str, params: Any = None) -> tuple[list[dict[str, Any]], str]:
        if not self._crd:
            raise NotFound("404")
        return [], "1"


async def test_what_is_missing_is_listed() -> None:
    missing = await check_access(Api(denied="services"), namespace="ns", lease_namespace="system")
    assert missing[0] == "may not get services in namespace ns (needed for: where they answer)"
    assert len(missing) == 5


async def test_a_secret_that_may_not_be_read_is_named() -> None:
    missing = await check_access(Api(denied="secrets"), namespace="ns", lease_namespace="system", packs=True)
    assert missing == (
        "may not create secrets in namespace system (needed for: the key to the supervisors of packs)",
        "may not get secrets slmpack-pack-key in namespace system (needed for: the key to the supervisors of packs)",
    )


async def test_a_missing_crd_is_named() -> None:
    (line,) = await check_access(Api(crd=False), namespace=None, lease_namespace="system")
    assert line.endswith("SLMDeployment: slmpack crd | kubectl apply --server-side -f -")


async def test_nothing_missing_is_empty() -> None:
    assert await check_access(Api(), namespace=None, lease_namespace="system") == ()


async def test_a_missing_lease_namespace_is_named_with_what_makes_it() -> None:
    (line,) = await check_access(Api(namespace=False), namespace=None, lease_namespace="slmpack-system")
    assert line.endswith("does not exist: kubectl create namespace slmpack-system")


async def test_what_is_not_served_needs_no_permission() -> None:
    denied = Api(denied="resourceslices")
    missing = await check_access(denied, namespace="ns", lease_namespace="system")
    assert missing[0].startswith("may not get resourceslices.resource.k8s.io in the whole cluster")
    assert await check_access(denied, namespace="ns", lease_namespace="system", claims=False) == ()


class Served:
    def __init__(self, error: PortError | None = None) -> None:
        self._error = error

    async def get(self, path: str) -> dict[str, Any]:
        assert path == "/apis/resource.k8s.io/v1"
        if self._error is not None:
            raise self._error
        return {}


async def test_whether_claims_are_served_is_asked_of_the_api_server() -> None:
    assert await serves_claims(Served())
    assert not await serves_claims(Served(NotFound("404")))
    with pytest.raises(Unavailable):
        await serves_claims(Served(Unavailable("down")))
