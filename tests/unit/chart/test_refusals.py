"""Values that do not fit are refused, and the message says what would."""

from __future__ import annotations

from typing import Any

import pytest

from slmpack.adapters.selector import parse_selector
from tests.support.chart import render, rendering_error

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
    ({"prometheus": {"metricNames": {"engine": {"runing": "x"}}}}, "additional properties 'runing' not allowed"),
    ({"prometheus": {"metricNames": {"gpu": {"xid": ["a", "b c"]}}}}, "gpu/xid/1': 'b c' does not match pattern"),
    ({"prometheus": {"metricNames": {"labels": {"deployment": ["a"]}}}}, "got array, want string"),
    ({"operator": {"nodeSelector": {"pool": "a"}}}, "at '/operator/nodeSelector': got object, want string"),
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
    ({"prometheus": {"url": "http://:9090"}}, 'prometheus.url is "http://:9090"'),
    ({"prometheus": {"url": "http://[bad"}}, 'prometheus.url is "http://[bad"'),
    ({"prometheus": {**URL, "headers": ["a: b\nc: d"]}}, "which is no header"),
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
    ({"http": {"host": "localhost"}}, "write 0.0.0.0, or [::]"),
    ({"http": {"host": "127.0.0.1"}}, "where the kubelet's probes may not reach the operator"),
    ({"extraArgs": ["kubeconfig=x"]}, 'extraArgs holds "kubeconfig=x": write each flag as one item'),
    (
        {"extraArgs": ["--nope"]},
        'extraArgs holds "--nope", a flag that `slmpack run` of this chart\'s version does not',
    ),
    ({"extraArgs": ["--kubeconfig"]}, "write --kubeconfig=..., in one item"),
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
IMAGES = [
    ("{{ .Nope", "which is no image's name"),
    ("{{ nope }}", "which is no image's name"),
    ('{{ include "slmpack.imag" . }}', "which is no image's name"),
    ("{{ .Release.Name }}/x", "of templates only this one, .Chart.AppVersion and .Values.NAME are understood"),
    ("two words", 'supervisor.image is "two words"'),
    ("{{ .Values.global.registry }}/x:1", ".Values.global.registry is not set, or no text: set it, or write an image"),
    ("{{ .Values.image.repository.name }}", ".Values.image.repository.name is not set"),
    ("{{ .Values.supervisor }}", ".Values.supervisor is not set, or no text"),
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


@pytest.mark.parametrize(("image", "message"), IMAGES)
def test_a_supervisor_image_that_helm_cannot_tell_is_named_and_the_rule(image: str, message: str) -> None:
    error = rendering_error({"supervisor": {"image": image}})
    assert "These values do not fit:\n  - supervisor.image is " in error
    assert message in error
    assert 'registry.example.com/vllm-slmpack:v0.33.0, or {{ include "slmpack.image" . }}' in error


@pytest.mark.parametrize("selector", ["pool batch", "pool in a", "!pool=a", "pool in (a,b", "pool=a;b", "=a"])
def test_a_selector_that_the_operator_refuses_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="is no label selector"):
        parse_selector(selector)
    error = rendering_error({"operator": {"nodeSelector": selector}})
    assert (
        f"operator.nodeSelector is \"{selector}\", which is no label selector: write for instance 'pool=gpu'" in error
    )


@pytest.mark.parametrize(
    "selector", ["pool=a", "pool in (a, b),!spot", "a==b , c!=d,e notin (f)", "slmpack.dev/x-y", "a="]
)
def test_a_selector_that_the_operator_takes_is_taken(selector: str) -> None:
    assert parse_selector(selector).terms
    assert f"--node-selector={selector}" in render({"operator": {"nodeSelector": selector}}).args


def test_all_that_is_wrong_is_said_at_once() -> None:
    error = rendering_error({"image": {}, "podProxy": "x", "prometheus": {"headers": ["a: b"]}})
    assert error.count("\n  - ") == 3
