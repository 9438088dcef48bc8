"""Values that do not fit are refused, and the message says what would."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chart import rendering_error

URL = {"url": "http://prometheus.monitoring:9090"}
BY_SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 2}, "additional properties 'replicas' not allowed"),
    ({"image": {"repo": "x"}}, "at '/image': additional properties 'repo' not allowed"),
    ({"image": {"repository": "x", "tag": 1.0}}, "at '/image/tag': got number, want string"),
    ({"image": {"repository": "x", "digest": "abc"}}, "at '/image/digest'"),
    ({"image": {"repository": "x", "pullPolicy": "always"}}, "must be one of 'Always', 'IfNotPresent', 'Never'"),
    ({"image": {"repository": "x", "pullSecrets": ["reg"]}}, "at '/image/pullSecrets/0': got string, want object"),
    ({"watch": {"namespace": "Team"}}, "at '/watch/namespace'"),
    ({"watch": {"namespaces": ["a", "b"]}}, "additional properties 'namespaces' not allowed"),
    ({"hub": {"offline": "yes"}}, "at '/hub/offline': got string, want boolean"),
    ({"prometheus": {"period": 0.5}}, "at '/prometheus/period': minimum: got 0.5, want 1"),
    ({"prometheus": {"timeout": 31}}, "at '/prometheus/timeout': maximum: got 31, want 30"),
    ({"prometheus": {"metricNames": {"gpus": {}}}}, "additional properties 'gpus' not allowed"),
    ({"http": {"port": 0}}, "at '/http/port': minimum: got 0, want 1"),
    ({"crds": {"install": "yes"}}, "at '/crds/install': got string, want boolean"),
    ({"rbac": {"aggregate": True}}, "at '/rbac/aggregate': got boolean, want object"),
    ({"probes": {"liveness": {"httpGet": {}}}}, "additional properties 'httpGet' not allowed"),
    ({"metrics": {"engines": {"interval": "15"}}}, "at '/metrics/engines/interval'"),
    ({"metrics": {"engines": {"interval": ""}}}, "minLength: got 0, want 1"),
    ({"networkPolicy": {"egress": {"apiServerPorts": []}}}, "at '/networkPolicy/egress/apiServerPorts': minItems"),
    ({"fullnameOverride": 123}, "at '/fullnameOverride': got number, want string"),
    ({"resources": {"limit": {}}}, "additional properties 'limit' not allowed"),
]
BY_TEMPLATE: list[tuple[dict[str, Any], str]] = [
    ({"image": {}}, "image.repository is empty, and no image of slmpack is published: build one"),
    ({"image": {"repository": "a.b/c:1"}}, "a tag belongs in image.tag, a digest in image.digest"),
    ({"image": {"repository": "a.b/c@sha256:1"}}, 'image.repository is "a.b/c@sha256:1"'),
    ({"image": {"repository": "https://a.b/c"}}, 'image.repository is "https://a.b/c"'),
    ({"prometheus": {"url": "prometheus:9090"}}, "write for instance http://prometheus.monitoring:9090"),
    ({"prometheus": {"url": "http://me:secret@p:9090"}}, "passwords belong in prometheus.basicAuthSecret"),
    ({"prometheus": {**URL, "headers": ["team"]}}, 'prometheus.headers holds "team", which is no header'),
    ({"prometheus": {"headers": ["a: b"]}}, "prometheus.headers is set and prometheus.url is empty"),
    ({"prometheus": {"tokenSecret": {"name": "t"}}}, "prometheus.tokenSecret.name is set and prometheus.url is empty"),
    (
        {"prometheus": {**URL, "tokenSecret": {"name": "t"}, "basicAuthSecret": {"name": "b"}}},
        "prometheus.tokenSecret.name and prometheus.basicAuthSecret.name are set",
    ),
    ({"prometheus": {**URL, "gatewayWaitingQuery": "sum(w)"}}, "prometheus.gatewayWaitingQuery has no $name"),
    ({"podProxy": "socks5://p:1"}, "podProxy is"),
    ({"hub": {"endpoint": "hub.example.com"}}, "hub.endpoint is"),
    ({"http": {"host": "localhost"}}, "write an address, 0.0.0.0 or [::]"),
    ({"extraArgs": ["kubeconfig=x"]}, "extraArgs holds"),
    (
        {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        "the operator would be scraped twice",
    ),
    (
        {"networkPolicy": {"egress": {"apiServerCIDRs": ["10.0.0.1"]}}},
        'apiServerCIDRs holds "10.0.0.1", which is no CIDR',
    ),
    ({"networkPolicy": {"egress": {"apiServerCIDRs": ["10.0.0.256/8"]}}}, "such as 10.0.0.1/32 or fd00::1/128"),
    ({"nameOverride": "Slm"}, 'nameOverride is "Slm", which no object may be called'),
    ({"fullnameOverride": "a.b"}, 'fullnameOverride is "a.b", which no object may be called'),
    ({"priorityClassName": "very high"}, 'priorityClassName is "very high"'),
    ({"extraEnv": [{"name": "POD_NAME", "value": "x"}]}, 'extraEnv holds "POD_NAME", which is set already'),
    (
        {"hub": {"tokenSecret": {"name": "hub"}}, "extraEnv": [{"name": "HF_TOKEN", "value": "x"}]},
        'extraEnv holds "HF_TOKEN", which is set already',
    ),
    ({"extraEnv": [{"name": "TWICE"}, {"name": "TWICE"}]}, 'extraEnv holds "TWICE", which is set already'),
    ({"metrics": {"prometheusRule": {"disabledAlerts": ["SlmpackTypo"]}}}, "names SlmpackTypo, which no rule"),
]


@pytest.mark.parametrize(("values", "message"), BY_SCHEMA, ids=lambda it: str(it)[:60])
def test_the_schema_refuses(values: dict[str, Any], message: str) -> None:
    error = rendering_error(values)
    assert "don't meet the specifications of the schema" in error
    assert message in error


@pytest.mark.parametrize(("values", "message"), BY_TEMPLATE, ids=lambda it: str(it)[:60])
def test_what_no_schema_can_say_is_said_by_the_templates(values: dict[str, Any], message: str) -> None:
    error = rendering_error(values)
    assert "These values do not fit:" in error
    assert message in error


def test_all_that_is_wrong_is_said_at_once() -> None:
    error = rendering_error({"image": {}, "podProxy": "x", "prometheus": {"headers": ["a: b"]}})
    assert error.count("\n  - ") == 3
