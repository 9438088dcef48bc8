"""Names that YAML would take for numbers or truths stay strings, and names of two releases differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chart import render
from tests.support.chart_cases import CASES

LIKE_NUMBERS: dict[str, Any] = {
    "watch": {"namespace": "123"},
    "lease": {"namespace": "1e3"},
    "supervisor": {"image": "0"},
    "hub": {"tokenSecret": {"name": "7", "key": "8"}, "cacheSizeLimit": "1000000"},
    "prometheus": {
        "url": "http://prometheus.monitoring:9090",
        "tokenSecret": {"name": "9", "key": "10"},
        "caConfigMap": {"name": "11", "key": "on"},
        "metricNames": {"labels": {"deployment": "slmdeployment"}},
    },
    "priorityClassName": "13",
    "serviceAccount": {"name": "14"},
    "metrics": {
        "podMonitor": {"enabled": True, "interval": "15s"},
        "engines": {"enabled": True, "scrapeTimeout": "10s"},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True, "namespace": "16"},
    },
    "networkPolicy": {
        "enabled": True,
        "ingress": {"from": [{"podSelector": {}}]},
        "egress": {"apiServerCIDRs": ["10.0.0.1/32"]},
    },
    "terminationGracePeriodSeconds": 1000000,
}
NUMBERS = {
    "containerPort", "port", "endPort", "replicas", "revisionHistoryLimit", "terminationGracePeriodSeconds",
    "periodSeconds", "timeoutSeconds", "failureThreshold",
}  # fmt: skip
TRUTHS = {
    "any", "allowPrivilegeEscalation", "automountServiceAccountToken", "enableServiceLinks", "honorLabels", "optional",
    "publishNotReadyAddresses", "readOnly", "readOnlyRootFilesystem", "runAsNonRoot",
}  # fmt: skip


def _not_strings(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if not isinstance(name, str):
                yield key, name
            yield from _not_strings(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _not_strings(value, key)
    elif not isinstance(node, str):
        yield key, node


@pytest.mark.parametrize(
    ("release", "namespace", "more"),
    [
        ("12", "123", {}),
        ("12", "on", {"fullnameOverride": "123"}),
        ("y", "true", {"fullnameOverride": "true", "nameOverride": "1e3"}),
    ],
)
def test_names_like_numbers_stay_strings(release: str, namespace: str, more: dict[str, Any]) -> None:
    rendered = render({**LIKE_NUMBERS, **more}, release=release, namespace=namespace)
    for one in rendered.objects:
        if one["kind"] == "CustomResourceDefinition":
            one = {"metadata": one["metadata"]}  # noqa: PLW2901 - its schema holds numbers and truths of its own.
        for key, value in _not_strings(one):
            assert type(value) is (bool if key in TRUTHS else int), (key, value)
            assert key in NUMBERS | TRUTHS, (key, value)
    names = {one["metadata"]["name"] for one in rendered.objects}
    assert more.get("fullnameOverride", "12-slmpack") in names


def test_a_name_and_a_namespace_are_told_apart_in_the_names_of_roles() -> None:
    def roles(namespace: str) -> set[str]:
        return {one["metadata"]["name"] for one in render(namespace=namespace).of("ClusterRole")}

    assert roles("x") == {"slmpack:x", "slmpack:x:view", "slmpack:x:edit", "slmpack:x:scale"}
    assert roles("x").isdisjoint(roles("x-edit"))


def test_dashboards_of_two_releases_of_one_name_fit_into_one_namespace() -> None:
    def boards(namespace: str, where: str) -> set[str]:
        values = {"metrics": {"dashboards": {"enabled": True, "namespace": where}}}
        return {one["metadata"]["name"] for one in render(values, namespace=namespace).of("ConfigMap")}

    assert boards("a", "monitoring").isdisjoint(boards("b", "monitoring"))
    assert boards("a", "a") == boards("a", "")
    assert "slmpack-dashboard-cluster" in boards("a", "")
    assert "slmpack.a-dashboard-cluster" in boards("a", "monitoring")


def test_annotations_of_the_pod_are_each_there_once() -> None:
    key = "kubectl.kubernetes.io/default-container"
    sums = "checksum/metric-names"
    names = CASES["everything"]["prometheus"]["metricNames"]
    plain = render({"prometheus": {"metricNames": names}}).pod["metadata"]["annotations"]
    own = {"prometheus": {"metricNames": names}, "podAnnotations": {key: "sidecar", sums: "mine", "owner": "ml"}}
    assert plain[key] == "operator"
    assert render(own).pod["metadata"]["annotations"] == {**plain, key: "sidecar", "owner": "ml"}
