"""One table makes the roles and the questions of the preflight."""

from __future__ import annotations

from typing import Any

from slmpack.adapters.preflight import check_access
from slmpack.permissions import PERMISSIONS, access_reviews, cluster_role, lease_role, namespaced_role
from slmpack.ports import NotFound


def _rules(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(rule["apiGroups"][0], rule["resources"][0], verb) for rule in role["rules"] for verb in rule["verbs"]}


TABLE = {(row.group, row.resource, verb) for row in PERMISSIONS for verb in row.verbs}


def test_the_roles_grant_the_table_and_nothing_else() -> None:
    lease = _rules(lease_role("slmpack", namespace="system"))
    everywhere = _rules(cluster_role("slmpack", all_namespaces=True))
    assert everywhere | lease == TABLE
    narrow = _rules(cluster_role("slmpack", all_namespaces=False))
    assert narrow | _rules(namespaced_role("slmpack", namespace="ns")) | lease == TABLE
    assert all(verb in {"get", "list", "watch"} for _, _, verb in narrow)


def test_no_rule_reaches_secrets_or_wildcards() -> None:
    assert not {row for row in TABLE if "secret" in row[1] or "*" in row}


def test_the_reviews_ask_for_every_row_where_it_is_needed() -> None:
    specs = [spec["resourceAttributes"] for _, spec in access_reviews(namespace="ns", lease_namespace="system")]
    assert len(specs) == sum(len(row.verbs) for row in PERMISSIONS)
    assert {spec.get("namespace") for spec in specs if spec["resource"] == "leases"} == {"system"}
    assert {spec.get("namespace") for spec in specs if spec["resource"] == "nodes"} == {None}
    assert {spec.get("namespace") for spec in specs if spec["resource"] == "services"} == {"ns"}
    assert [spec["subresource"] for spec in specs if "subresource" in spec] == ["status"]


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


async def test_a_missing_crd_is_named() -> None:
    (line,) = await check_access(Api(crd=False), namespace=None, lease_namespace="system")
    assert "kubectl apply -f crds/" in line


async def test_nothing_missing_is_empty() -> None:
    assert await check_access(Api(), namespace=None, lease_namespace="system") == ()


async def test_a_missing_lease_namespace_is_named_with_what_makes_it() -> None:
    (line,) = await check_access(Api(namespace=False), namespace=None, lease_namespace="slmpack-system")
    assert line.endswith("does not exist: kubectl create namespace slmpack-system")
