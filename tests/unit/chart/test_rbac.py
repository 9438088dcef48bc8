"""The operator's account may do exactly what the code asks for, per values; people's roles are what they say."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from slmpack.permissions import access_reviews
from tests.support.chart import RELEASE_NAMESPACE, Rendered, render
from tests.support.chart_cases import CASES

WRITE = ("update", "patch")
Grant = tuple[str, str, str, str, str]
"""Namespace or empty for the whole cluster, group, resource, verb, name or empty for all."""


def _granted(rendered: Rendered) -> set[Grant]:
    """What the bindings give to the account of the operator's pod."""
    account = {
        "kind": "ServiceAccount",
        "name": rendered.pod["spec"]["serviceAccountName"],
        "namespace": RELEASE_NAMESPACE,
    }
    grants: set[Grant] = set()
    for binding in (*rendered.of("ClusterRoleBinding"), *rendered.of("RoleBinding")):
        assert binding["subjects"] == [account]
        namespace = binding["metadata"].get("namespace", "")
        role = rendered.one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace", "") == namespace
        for rule in role["rules"]:
            names = rule.get("resourceNames", [""])
            for group, resource, verb, name in product(rule["apiGroups"], rule["resources"], rule["verbs"], names):
                grants.add((namespace, group, resource, verb, name))
    return grants


def _needed(values: dict[str, Any]) -> set[Grant]:
    """What the code's own preflight asks for, told what the flags of these values tell it."""
    asked = access_reviews(
        namespace=values.get("watch", {}).get("namespace") or None,
        lease_namespace=values.get("lease", {}).get("namespace") or RELEASE_NAMESPACE,
        packs=bool(values.get("supervisor", {}).get("image")),
    )
    found: set[Grant] = set()
    for _, spec in asked:
        it = spec["resourceAttributes"]
        resource = "/".join(filter(None, (it["resource"], it.get("subresource"))))
        found.add((it.get("namespace", ""), it["group"], resource, it["verb"], it.get("name", "")))
    return found


@pytest.mark.parametrize("case", [name for name in CASES if name != "no-rbac"])
def test_the_account_may_do_what_the_code_asks_for_and_nothing_else(case: str) -> None:
    assert _granted(render(CASES[case])) == _needed(CASES[case])


def test_no_wildcard_and_no_way_to_more_rights() -> None:
    for case in CASES.values():
        for _, group, resource, verb, _ in _granted(render(case)):
            assert "*" not in group + resource + verb
            assert verb not in {"escalate", "bind", "impersonate", "deletecollection"}
            assert resource not in {
                "pods/exec",
                "pods/attach",
                "pods/portforward",
                "nodes/proxy",
                "serviceaccounts/token",
            }


def test_without_packs_no_secret_and_no_role_is_touched() -> None:
    touched = {resource for _, _, resource, _, _ in _granted(render())}
    assert touched.isdisjoint({"secrets", "roles", "rolebindings", "serviceaccounts", "endpointslices"})


def test_in_one_namespace_nothing_is_written_elsewhere_but_the_lease() -> None:
    writes = {
        (where, resource)
        for where, _, resource, verb, _ in _granted(render(CASES["packs-in-one-namespace"]))
        if verb not in {"get", "list", "watch"} and where != "team"
    }
    assert writes == {(RELEASE_NAMESPACE, "leases"), (RELEASE_NAMESPACE, "secrets")}


def test_without_rbac_no_role_and_no_binding_is_made() -> None:
    rendered = render(CASES["no-rbac"])
    kinds = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount"}
    assert kinds.isdisjoint(one["kind"] for one in rendered.objects)
    assert rendered.pod["spec"]["serviceAccountName"] == "given"
    defaulted = render({"serviceAccount": {"create": False}})
    assert defaulted.pod["spec"]["serviceAccountName"] == "default"


def test_two_releases_of_one_name_in_two_namespaces_share_no_cluster_wide_name() -> None:
    def names(namespace: str) -> set[tuple[str, str]]:
        rendered = render({"crds": {"install": False}, "lease": {"namespace": "both"}}, namespace=namespace)
        return {
            (one["kind"], one["metadata"]["name"])
            for one in rendered.objects
            if one["metadata"].get("namespace") in {None, "both"}
        }

    assert names("a")
    assert names("a").isdisjoint(names("b"))


def test_the_token_is_mounted_into_the_operators_pod_alone() -> None:
    rendered = render()
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert rendered.pod["spec"]["automountServiceAccountToken"] is True


def _people(rendered: Rendered, suffix: str) -> tuple[set[tuple[str, str]], set[str]]:
    role = rendered.one("ClusterRole", f"slmpack:{RELEASE_NAMESPACE}:{suffix}")
    rules = {pair for rule in role["rules"] for pair in product(rule["resources"], rule["verbs"])}
    assert all(rule["apiGroups"] == ["slmpack.dev"] for rule in role["rules"])
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    labels = role["metadata"]["labels"]
    return rules, {
        label.removeprefix(prefix) for label, on in labels.items() if label.startswith(prefix) and on == "true"
    }


def test_who_views_reads_and_who_edits_writes_and_scales() -> None:
    view, seen_by = _people(render(), "view")
    edit, edited_by = _people(render(), "edit")
    scale, scaled_by = _people(render(), "scale")
    assert {verb for _, verb in view} == {"get", "list", "watch"}
    assert {verb for kind, verb in edit if kind == "slmdeployments"} == {*WRITE, "delete", "deletecollection", "create"}
    assert {verb for kind, verb in edit | scale if kind == "slmdeployments/scale"} == {*WRITE, "get"}
    assert {kind for kind, _ in edit} == {"slmdeployments", "slmdeployments/scale"}
    assert ("slmdeployments/status", "patch") not in edit | view | scale
    assert {kind for kind, verb in scale if verb not in {"get", "list", "watch"}} == {"slmdeployments/scale"}
    assert (seen_by, edited_by, scaled_by) == ({"view", "edit", "admin"}, {"edit", "admin"}, set())


@pytest.mark.parametrize(
    ("aggregate", "view", "edit"),
    [
        ({"edit": False}, {"view", "admin"}, {"admin"}),
        ({"edit": False, "admin": False}, {"view"}, set()),
        ({"view": False, "edit": False, "admin": False}, set(), set()),
    ],
)
def test_each_role_of_kubernetes_is_given_ours_on_request(
    aggregate: dict[str, bool], view: set[str], edit: set[str]
) -> None:
    rendered = render({"rbac": {"aggregate": aggregate}})
    assert _people(rendered, "view")[1] == view
    assert _people(rendered, "edit")[1] == edit
