from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.snapshot import Key
from slmpack.render.names import pod_name
from slmpack.render.pack_children import PackPod, pack_account, pack_children
from slmpack.render.service import render_service
from slmpack.supervisor.config import parse_pack
from tests.support.render_cases import KNOBS, PACK_POD, a_demand, a_deployment, a_pack, render

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def by_kind(pod: PackPod) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for child in pack_children(pod):
        found.setdefault(child["kind"], []).append(child)
    return found


def test_the_account_belongs_to_the_deployment_and_the_rest_to_the_pod() -> None:
    account = pack_account(a_deployment(), a_demand())
    assert account is not None
    assert account["metadata"]["ownerReferences"][0]["kind"] == "SLMDeployment"
    for child in pack_children(PACK_POD):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
            "Pod",
            "chat-0",
            PACK_POD.uid,
            True,
        )
        assert child["metadata"]["namespace"] == "team-a"


def test_no_account_where_the_user_names_one() -> None:
    assert pack_account(a_deployment(), a_demand(KNOBS)) is None


def test_pod_and_account_agree() -> None:
    create = a_pack()
    account = pack_account(create.deployment, create.demand)
    assert account is not None
    assert render(create)["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False


def test_the_pod_may_write_its_own_slices_and_nothing_else() -> None:
    found = by_kind(PACK_POD)
    (role,), (binding,) = found["Role"], found["RoleBinding"]
    (rule,) = role["rules"]
    assert rule == {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "resourceNames": [one["metadata"]["name"] for one in found["EndpointSlice"]],
        "verbs": ["get", "patch"],
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "chat-pack", "namespace": "team-a"}]


def test_slices_are_those_that_the_supervisor_writes() -> None:
    create = a_pack()
    variables = {one["name"]: one for one in render(create)["spec"]["containers"][0]["env"]}
    engines = parse_pack(variables["SLMPACK_PACK"]["value"]).engines
    slices = by_kind(PACK_POD)["EndpointSlice"]
    assert [(one["metadata"]["name"], one["ports"][0]["port"]) for one in slices] == [
        (engine.slice, engine.port) for engine in engines
    ]
    assert [one["endpoints"] for one in slices] == [[], [], []]


def test_slices_are_of_the_service() -> None:
    create = a_pack()
    service = render_service(create.deployment, create.demand)
    for one in by_kind(PACK_POD)["EndpointSlice"]:
        labels = one["metadata"]["labels"]
        assert labels["kubernetes.io/service-name"] == service["metadata"]["name"]
        assert labels["endpointslice.kubernetes.io/managed-by"] == "slmpack.dev"
        assert labels["slmpack.dev/name"] == "chat"
        (port,), (wanted,) = one["ports"], service["spec"]["ports"]
        assert {key: port[key] for key in ("name", "protocol", "appProtocol")} == {
            key: wanted[key] for key in ("name", "protocol", "appProtocol")
        }


@pytest.mark.parametrize(("ip", "family"), [("10.1.2.3", "IPv4"), ("fd00::7", "IPv6")])
def test_the_address_family_is_the_pod_s(ip: str, family: str) -> None:
    assert {one["addressType"] for one in by_kind(replace(PACK_POD, ip=ip))["EndpointSlice"]} == {family}


@pytest.mark.parametrize("ip", ["", "chat-0"])
def test_no_slices_without_an_address(ip: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        pack_children(replace(PACK_POD, ip=ip))


@given(
    name=st.from_regex(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", fullmatch=True),
    ordinal=st.integers(min_value=0, max_value=99_999),
    engines=st.integers(min_value=1, max_value=64),
)
def test_names_of_any_pack(name: str, ordinal: int, engines: int) -> None:
    key = Key(namespace="team-a", name=pod_name(name, ordinal=ordinal))
    children = pack_children(replace(PACK_POD, key=key, deployment=name, engines=engines))
    assert len(children) == 2 + engines
    names = {(child["kind"], child["metadata"]["name"]) for child in children}
    assert len(names) == len(children)
    for child in children:
        assert SUBDOMAIN.fullmatch(child["metadata"]["name"])
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())
