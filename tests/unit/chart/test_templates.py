"""What the chart makes of its values."""

from __future__ import annotations

import json
import re
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from slmpack import __version__
from slmpack.adapters.resources import APPLY_THE_CRD
from slmpack.api.crd import build_crd
from slmpack.domain.pack import CONTROL_PORT, MOST_ENGINES
from slmpack.render.names import NAME_LABEL, common_labels
from slmpack.render.pack import CONTROL, engine_port
from tests.support.chart import IMAGE, RELEASE_NAMESPACE, lint, notes, render
from tests.support.chart_cases import CASES, MONITORS
from tests.support.chart_files import CHART, RULES

ROOT = Path(__file__).parents[3]
KEEP = {"helm.sh/resource-policy": "keep"}
COMMON = "app.kubernetes.io/"


@pytest.mark.parametrize("case", CASES)
def test_every_object_has_its_name_once_its_labels_and_its_namespace(case: str) -> None:
    rendered = render(CASES[case])
    own = {str(one.get("metadata", {}).get("name")) for one in rendered.objects if "labels" not in one["metadata"]}
    assert own <= {"packer-own", "slmpack-own"}
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered.objects]
    assert len(names) == len(set(names))
    for one in rendered.objects:
        labels = one["metadata"].get("labels")
        if labels:
            assert labels[f"{COMMON}name"] == "slmpack"
            assert labels[f"{COMMON}managed-by"] == "Helm"
            assert ("team" in labels) == (case == "everything")
            cluster_wide = one["kind"] in {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
            assert ("namespace" in one["metadata"]) != cluster_wide


@pytest.mark.parametrize("case", CASES)
def test_whatever_selects_the_operators_pod_finds_it(case: str) -> None:
    rendered = render(CASES[case])
    labels = rendered.pod["metadata"]["labels"].items()
    assert rendered.one("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    assert rendered.one("Service")["spec"]["selector"].items() <= labels
    for policy in rendered.of("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
    (test,) = rendered.of("Pod")
    assert not rendered.one("Service")["spec"]["selector"].items() <= test["metadata"]["labels"].items()


def test_the_pod_has_no_label_that_changes_with_the_chart_alone() -> None:
    labels = render().pod["metadata"]["labels"]
    assert {f"{COMMON}version", "helm.sh/chart"}.isdisjoint(labels)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"{IMAGE}:{__version__}"),
        ({"tag": "v9"}, f"{IMAGE}:v9"),
        ({"tag": "v9", "digest": f"sha256:{'b' * 64}"}, f"{IMAGE}@sha256:{'b' * 64}"),
    ],
)
def test_the_image_is_by_tag_or_digest_in_the_operator_and_in_the_test(image: dict[str, str], expected: str) -> None:
    rendered = render({"image": {"repository": IMAGE, **image}})
    assert rendered.container["image"] == expected
    assert rendered.one("Pod")["spec"]["containers"][0]["image"] == expected


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("slmpack", {}, "slmpack"),
        ("prod", {}, "prod-slmpack"),
        ("my-slmpack", {}, "my-slmpack"),
        ("slmpack", {"fullnameOverride": "packer"}, "packer"),
        ("slmpack", {"fullnameOverride": "x" * 60}, "x" * 50),
        ("prod", {"nameOverride": "gpu"}, "prod-gpu"),
    ],
)
def test_the_release_names_what_it_makes(release: str, values: dict[str, Any], name: str) -> None:
    rendered = render(values, release=release)
    assert rendered.one("Deployment")["metadata"]["name"] == name
    assert rendered.one("ServiceAccount")["metadata"]["name"] == name


def test_a_change_of_metric_names_restarts_the_operator_and_nothing_else_does() -> None:
    def sums(names: dict[str, Any]) -> dict[str, str]:
        notes = render({"prometheus": {"metricNames": names}}).pod["metadata"]["annotations"]
        return {key: value for key, value in notes.items() if key.startswith("checksum/")}

    assert sums({}) == {}
    assert sums({"labels": {"pod": "a"}}) == sums({"labels": {"pod": "a"}})
    assert sums({"labels": {"pod": "a"}}) != sums({"labels": {"pod": "b"}})


def test_the_crd_is_the_models_and_is_kept() -> None:
    crd = render().one("CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == KEEP
    assert crd["metadata"].pop("labels")[f"{COMMON}managed-by"] == "Helm"
    assert crd == build_crd()
    assert "annotations" not in render({"crds": {"keep": False}}).one("CustomResourceDefinition")["metadata"]
    assert not render({"crds": {"install": False}}).of("CustomResourceDefinition")


def test_the_operator_is_scraped_once_with_the_labels_of_slmdeployments() -> None:
    pod = render(CASES["monitored"]).one("PodMonitor", "slmpack")
    service = render(CASES["service-monitor"]).one("ServiceMonitor")
    (by_pod,) = pod["spec"]["podMetricsEndpoints"]
    (by_service,) = service["spec"]["endpoints"]
    assert by_pod == {"port": "http", "path": "/metrics", "honorLabels": True}
    assert by_service == {**by_pod, "interval": "30s", "scrapeTimeout": "10s"}
    assert pod["metadata"]["labels"]["release"] == "kps"
    assert service["spec"]["selector"]["matchLabels"].items() <= render().one("Service")["metadata"]["labels"].items()
    assert render().one("Service")["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize(("case", "where"), [("monitored", {"any": True}), ("everything", {"matchNames": ["team"]})])
def test_every_engine_is_scraped_and_told_apart(case: str, where: dict[str, Any]) -> None:
    (monitor,) = [one for one in render(CASES[case]).of("PodMonitor") if one["metadata"]["name"].endswith("-engines")]
    assert monitor["spec"]["namespaceSelector"] == where
    labels = common_labels("chat")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    keep, name, node = endpoint["relabelings"]
    assert keep["action"] == "keep"
    # Prometheus anchors its expressions.
    assert [bool(re.fullmatch(keep["regex"], port)) for port in ("http", "engine-0", "engine-12", CONTROL)] == [
        True
    ] * 3 + [False]
    assert name["sourceLabels"] == ["__meta_kubernetes_pod_label_" + re.sub(r"[^a-zA-Z0-9_]", "_", NAME_LABEL)]
    assert (name["targetLabel"], node["targetLabel"]) == ("slmdeployment", "node")


def test_engines_get_the_labels_of_the_example_for_a_plain_prometheus() -> None:
    """The Prometheus operator adds namespace and pod itself, and takes running pods only."""
    plain = yaml.safe_load((RULES.parent / "prometheus.yaml").read_text())["scrape_configs"]
    (job,) = [one for one in plain if one["job_name"] == "slmpack-engines"]
    own = {"namespace", "pod", "__meta_kubernetes_pod_phase"}
    wanted = [one for one in job["relabel_configs"] if not own & {one.get("target_label"), *one["source_labels"]}]
    (endpoint,) = render(CASES["monitored"]).one("PodMonitor", "slmpack-engines")["spec"]["podMetricsEndpoints"]
    camel = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    assert [{camel.get(key, key): value for key, value in one.items()} for one in endpoint["relabelings"]] == wanted


def test_a_label_of_the_defaults_can_be_taken_away() -> None:
    values = {"metrics": {"dashboards": {"enabled": True, "labels": {"grafana_dashboard": None, "board": "yes"}}}}
    for one in render(values).of("ConfigMap"):
        assert "grafana_dashboard" not in one["metadata"]["labels"]
        assert one["metadata"]["labels"]["board"] == "yes"


def test_the_rules_are_those_of_monitoring() -> None:
    rendered = render(CASES["monitored"])
    for path in RULES.glob("*.yaml"):
        rule = rendered.one("PrometheusRule", f"slmpack-{path.stem}")
        assert rule["spec"] == yaml.safe_load(path.read_text())
        assert rule["metadata"]["labels"]["release"] == "kps"
    assert len(rendered.of("PrometheusRule")) == len(list(RULES.glob("*.yaml")))


def test_alerts_can_be_left_out_and_nothing_else_goes_with_them() -> None:
    def rules(disabled: list[str]) -> list[dict[str, Any]]:
        values = {"metrics": {"prometheusRule": {"enabled": True, "disabledAlerts": disabled}}}
        groups = chain.from_iterable(one["spec"]["groups"] for one in render(values).of("PrometheusRule"))
        return [rule for group in groups for rule in group["rules"]]

    out = ["SlmpackFirstTokenSlow", "SlmpackGpuXid"]
    assert rules(out) == [rule for rule in rules([]) if rule.get("alert") not in out]
    assert len(rules(out)) == len(rules([])) - 2


@pytest.mark.parametrize("boards", [[], ["cluster"], ["cluster", "deployment"]])
def test_each_dashboard_is_a_config_map_for_grafanas_sidecar(boards: list[str], tmp_path: Path) -> None:
    chart = tmp_path / "slmpack"
    shutil.copytree(CHART, chart)
    shutil.rmtree(chart / "files" / "dashboards", ignore_errors=True)
    written = {}
    for name in boards:
        board = {"title": name, "legend": "{{namespace}}/{{ name }}", "expr": "a\n  b\\n", "uid": f"slmpack-{name}"}
        written[f"{name}.json"] = board
        (chart / "files" / "dashboards").mkdir(exist_ok=True)
        (chart / "files" / "dashboards" / f"{name}.json").write_text(json.dumps(board, indent=2) + "\n")
    values = {
        "metrics": {"dashboards": {"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "GPUs"}}}
    }
    maps = render(values, chart=chart).of("ConfigMap")
    assert {name: json.loads(text) for one in maps for name, text in one["data"].items()} == written
    assert {one["metadata"]["name"] for one in maps} == {
        f"slmpack.{RELEASE_NAMESPACE}-dashboard-{name}" for name in boards
    }
    for one in maps:
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "GPUs"}
        assert one["metadata"]["namespace"] == "grafana"


def test_the_dashboards_of_the_chart_are_installed_as_they_are() -> None:
    maps = render(CASES["monitored"]).of("ConfigMap")
    files = {path.name: path.read_text() for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert {name: text for one in maps for name, text in one["data"].items()} == files


def _egress(values: dict[str, Any]) -> list[tuple[set[Any], Any]]:
    rules = render({**values, "networkPolicy": {"enabled": True, **values.get("networkPolicy", {})}}).one(
        "NetworkPolicy"
    )
    return [
        ({(port["port"], port.get("endPort")) for port in rule.get("ports", [])}, rule.get("to"))
        for rule in rules["spec"]["egress"]
    ]


def test_the_operator_reaches_what_it_needs() -> None:
    names, api, engines, hub = _egress({})
    assert names == ({(53, None), (5353, None)}, None)
    assert api == ({(443, None), (6443, None)}, None)
    assert engines[0] == {(engine_port(0), engine_port(MOST_ENGINES - 1)), (CONTROL_PORT, None)}
    assert engines[1][0]["podSelector"]["matchLabels"].items() <= common_labels("chat").items()
    assert engines[1][0]["namespaceSelector"] == {}
    assert hub == ({(443, None)}, None)


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({"prometheus": {"url": "http://prometheus:9090"}, "hub": {"offline": True}}, {9090}),
        ({"prometheus": {"url": "https://prometheus/x"}, "hub": {"offline": True}}, {443}),
        ({"prometheus": {"url": "http://[fd00::1]"}, "hub": {"offline": True}}, {80}),
        ({"prometheus": {"url": "http://[fd00::1]:81"}, "hub": {"offline": True}}, {81}),
        ({"hub": {"endpoint": "http://hub.example.com:8000/x"}}, {8000}),
        ({"hub": {"offline": True}, "podProxy": "http://p.example.com:3128/"}, {3128}),
        (
            {
                "hub": {"offline": True},
                "prometheus": {"url": "http://prometheus"},
                "networkPolicy": {"egress": {"prometheusPorts": [9090]}},
            },
            {80, 9090},
        ),
    ],
)
def test_ports_follow_from_the_addresses(values: dict[str, Any], ports: set[int]) -> None:
    ((found, to),) = _egress(values)[3:]
    assert {port for port, _ in found} == ports
    assert to is None


def test_a_policy_narrows_who_reads_metrics_and_lets_the_test_in() -> None:
    policy = render(CASES["everything"]).one("NetworkPolicy")["spec"]
    ((rule,), egress) = policy["ingress"], policy["egress"]
    assert rule["ports"] == [{"port": 9000, "protocol": "TCP"}]
    assert rule["from"][0] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    (test,) = render(CASES["everything"]).of("Pod")
    assert rule["from"][1]["podSelector"]["matchLabels"].items() <= test["metadata"]["labels"].items()
    assert {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}.items() <= egress[1].items()
    assert egress[-1] == {"to": []}
    only_in = render({"networkPolicy": {"enabled": True, "egress": {"enabled": False}}}).one("NetworkPolicy")["spec"]
    assert only_in["policyTypes"] == ["Ingress"]
    assert "egress" not in only_in
    assert not render().of("NetworkPolicy")


def test_further_objects_are_templates() -> None:
    rendered = render(CASES["everything"])
    assert rendered.one("ConfigMap", "packer-own")
    assert rendered.one("Secret", "slmpack-own")


def test_the_test_asks_for_what_the_operator_may_see() -> None:
    def env(values: dict[str, Any]) -> dict[str, str]:
        (container,) = render(values).one("Pod")["spec"]["containers"]
        return {one["name"]: one["value"] for one in container["env"]}

    assert env({})["SLMDEPLOYMENTS"] == "/apis/slmpack.dev/v1alpha1/slmdeployments?limit=1"
    everything = env(CASES["everything"])
    assert everything["SLMDEPLOYMENTS"] == "/apis/slmpack.dev/v1alpha1/namespaces/team/slmdeployments?limit=1"
    assert everything["READY_URL"] == f"http://packer.{RELEASE_NAMESPACE}.svc:80/readyz"
    assert not render({"tests": {"enabled": False}}).of("Pod")


@pytest.mark.parametrize(
    ("values", "said", "unsaid"),
    [
        ({}, ["No Prometheus is set", "Packs are off", "role `edit`", "helm test slmpack"], ["crds.keep is false"]),
        (CASES["one-namespace"], ["only namespace team is looked after", "kubectl apply -n team"], []),
        (CASES["packs"], ["Packs (sharing.mode MPSPack) are made with"], ["Packs are off"]),
        (CASES["standby"], ["The chart did not install the CRD", APPLY_THE_CRD], []),
        (CASES["no-rbac"], ["The chart made no roles"], ["role `edit`"]),
        ({"crds": {"keep": False}}, ["deletes the CRD, every SLMDeployment"], []),
        ({"hub": {"offline": True}}, ["stays off the Hub"], []),
        ({"page": {"enabled": True}}, ["port-forward service/slmpack 8080"], []),
        ({"tests": {"enabled": False}}, [], ["helm test"]),
        (CASES["monitored"], ["the PodMonitor slmpack-engines does"], ["No Prometheus is set", "Nothing scrapes"]),
        ({"prometheus": {"url": "http://p:9090"}}, ["set metrics.engines.enabled"], []),
        ({"rbac": {"aggregate": {"edit": False}}}, [], ["role `edit`"]),
    ],
)
def test_the_notes_tell_what_to_do_next(values: dict[str, Any], said: list[str], unsaid: list[str]) -> None:
    text = notes(values)
    assert [one for one in said if one not in text] == []
    assert [one for one in unsaid if one in text] == []
    assert "kind: SLMDeployment" in text


def test_the_notes_and_the_readme_show_the_example_as_it_is() -> None:
    example = yaml.safe_load((ROOT / "examples" / "qwen2.5-1.5b.yaml").read_text(encoding="utf-8"))
    shown = [notes().split("<<EOF\n")[1].split("EOF")[0]]
    shown += re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [yaml.safe_load(one) for one in shown] == [example, example]


def test_monitors_are_off_until_they_are_asked_for() -> None:
    kinds = {one["kind"] for one in render().objects}
    assert {"PodMonitor", "ServiceMonitor", "PrometheusRule", "ConfigMap"}.isdisjoint(kinds)
    assert set(MONITORS) | {"serviceMonitor"} == set(yaml.safe_load((CHART / "values.yaml").read_text())["metrics"])


def test_every_recipe_of_the_page_is_taken() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (CHART / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    recipes = [yaml.safe_load(block) for block in blocks]
    assert len(recipes) >= 7
    for values in recipes:
        assert render(values).args != render().args or render(values).objects != render().objects


@pytest.mark.parametrize("case", CASES)
def test_helms_own_lint_has_no_complaint(case: str) -> None:
    assert "[WARNING]" not in lint(CASES[case])
