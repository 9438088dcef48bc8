"""Every flag of `slmpack run` can be set by the chart, and what the chart sets is what the program takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from slmpack.cli import main
from tests.support.chart import render, rendering_error
from tests.support.chart_cases import CASES

URL = {"url": "http://prometheus.monitoring:9090"}
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
BY_VALUE: dict[str, tuple[dict[str, Any], str]] = {
    "--kubeconfig": ({"extraArgs": ["--kubeconfig=/etc/own"]}, "--kubeconfig=/etc/own"),
    "--namespace": ({"watch": {"namespace": "team"}}, "--namespace=team"),
    "--all-namespaces": ({}, "--all-namespaces"),
    "--node-selector": ({"operator": {"nodeSelector": "pool=a"}}, "--node-selector=pool=a"),
    "--lease-namespace": ({"lease": {"namespace": "leases"}}, "--lease-namespace=leases"),
    "--http": ({"http": {"port": 9000}}, "--http=0.0.0.0:9000"),
    "--supervisor-image": ({"supervisor": {"image": "r.example.com/s:1"}}, "--supervisor-image=r.example.com/s:1"),
    "--pod-proxy": ({"podProxy": "http://p.example.com:3128"}, "--pod-proxy=http://p.example.com:3128"),
    "--bundled-models": ({"hub": {"bundledModels": True}}, "--bundled-models"),
    "--page": ({"page": {"enabled": True}}, "--page"),
    "--prometheus-url": ({"prometheus": URL}, "--prometheus-url=http://prometheus.monitoring:9090"),
    "--prometheus-token-file": (
        {"prometheus": {**URL, "tokenSecret": {"name": "token", "key": "bearer"}}},
        "--prometheus-token-file=/etc/slmpack/prometheus-token/bearer",
    ),
    "--prometheus-basic-auth-file": (
        {"prometheus": {**URL, "basicAuthSecret": {"name": "auth"}}},
        "--prometheus-basic-auth-file=/etc/slmpack/prometheus-auth/auth",
    ),
    "--prometheus-ca-file": (
        {"prometheus": {**URL, "caConfigMap": {"name": "ca"}}},
        "--prometheus-ca-file=/etc/slmpack/prometheus-ca/ca.crt",
    ),
    "--prometheus-header": (
        {"prometheus": {**URL, "headers": ["X-Scope-OrgID: team"]}},
        "--prometheus-header=X-Scope-OrgID: team",
    ),
    "--metric-names": (
        {"prometheus": {"metricNames": {"labels": {"deployment": "slm"}}}},
        "--metric-names=/etc/slmpack/config/metric-names.yaml",
    ),
    "--gateway-waiting-query": (
        {"prometheus": {**URL, "gatewayWaitingQuery": 'w{n="$name"}'}},
        '--gateway-waiting-query=w{n="$name"}',
    ),
    "--metrics-period": ({"prometheus": {"period": 5}}, "--metrics-period=5"),
    "--metrics-timeout": ({"prometheus": {"timeout": 0.5}}, "--metrics-timeout=0.5"),
    "--metrics-max-age": ({"prometheus": {"maxAge": 30}}, "--metrics-max-age=30"),
}


def _options() -> list[click.Parameter]:
    return [one for one in main.commands["run"].params if isinstance(one, click.Option)]


def test_every_flag_of_the_program_has_its_value_and_no_other_is_known() -> None:
    assert set(BY_VALUE) == {flag for one in _options() for flag in one.opts if flag.startswith("--")}


def test_a_flag_that_a_value_sets_is_refused_among_the_extra_ones_and_the_value_named() -> None:
    """Another time on the command line it would exclude the first, or win over what ports and mounts were made for."""
    set_by_values = {flag: values for flag, (values, _) in BY_VALUE.items() if "extraArgs" not in values}
    error = rendering_error({"extraArgs": [f"{flag}=x" for flag in set_by_values]})
    for flag, values in set_by_values.items():
        said = re.search(f'extraArgs holds "{flag}=x", which a value of the chart sets: set (.*) instead', error)
        assert said is not None, flag
        (group, below), *_ = values.items() or [("watch", {"namespace": ""})]
        names = {f"{group}.{name}" for name in below} if isinstance(below, dict) else {group}
        assert names & set(said[1].split(" and ")), (flag, said[1])


@pytest.mark.parametrize("flag", BY_VALUE)
def test_a_value_becomes_its_flag(flag: str) -> None:
    values, expected = BY_VALUE[flag]
    args = render(values).args
    assert args[0] == "run"
    assert [one for one in args if one.partition("=")[0] == flag] == [expected]


def test_flags_without_a_value_are_left_to_the_programs_defaults() -> None:
    assert render().args == [
        "run",
        "--http=0.0.0.0:8080",
        "--all-namespaces",
        "--lease-namespace=slmpack-system",
        "--metrics-timeout=3",
        "--metrics-max-age=60",
    ]


def test_an_empty_gateway_query_is_told_for_it_asks_no_gateway() -> None:
    assert "--gateway-waiting-query=" in render({"prometheus": {"gatewayWaitingQuery": ""}}).args


def test_the_token_of_the_service_account_can_be_used_for_prometheus() -> None:
    assert f"--prometheus-token-file={ACCOUNT}" in render({"prometheus": {**URL, "serviceAccountToken": True}}).args


@pytest.mark.parametrize("case", CASES)
def test_the_program_takes_what_the_chart_says(case: str, tmp_path: Path) -> None:
    """Files that are mounted in the pod are looked up below tmp_path."""
    rendered = render(CASES[case])
    mounts = {mount["mountPath"] for mount in rendered.container["volumeMounts"]}
    args = []
    for arg in rendered.args[1:]:
        flag, _, value = arg.partition("=")
        if value.startswith("/etc/slmpack/"):
            assert str(Path(value).parent) in mounts
            there = tmp_path / value.lstrip("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(rendered.one("ConfigMap", "packer")["data"][there.name] if "config/" in value else "x")
            args.append(f"{flag}={there}")
        else:
            args.append(arg)
    context = main.commands["run"].make_context("run", args)
    assert context.params["lease_namespace"]
    assert main.commands["run"].callback is not None


@pytest.mark.parametrize("case", CASES)
def test_files_that_flags_name_are_mounted_from_what_exists(case: str) -> None:
    pod = render(CASES[case]).pod["spec"]
    (container,) = pod["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_the_environment_says_how_the_hub_is_reached() -> None:
    env = {
        one["name"]: one for one in render({"hub": {"offline": True, **CASES["everything"]["hub"]}}).container["env"]
    }
    assert env["HF_HUB_OFFLINE"]["value"] == "1"
    assert env["HF_ENDPOINT"]["value"] == "https://hub.example.com:8443"
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub-token", "key": "token"}
    assert env["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert set(env) == {"POD_NAME", "SLMPACK_MODEL_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"}
    assert {one["name"] for one in render().container["env"]} == {"POD_NAME", "SLMPACK_MODEL_CACHE"}
