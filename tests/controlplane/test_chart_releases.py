"""Releases of the chart over time: upgraded, rolled back, beside one another, after one another, and over an applied CRD."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.chart_files import CHART
from tests.support.operator import eventually
from tests.support.releases import CRD, VALUES, Releases, forbidden_requests
from tests.support.scene import slm_spec

if TYPE_CHECKING:
    from tests.support.chart_pods import ChartWorld

    Json = dict[str, Any]

APPLIED = Path(__file__).parents[2] / "crds" / "slmdeployments.slmpack.dev.yaml"
NAME = "qwen"
ADOPTING = [
    pytest.param(["--take-ownership", "--force-conflicts"], {}, id="take-ownership"),
    pytest.param(["--take-ownership", "--server-side=false"], {}, id="take-ownership-as-flux-can"),
    pytest.param([], {"crds": {"install": False}}, id="crds.install=false"),
]
OWNED = (
    "/apis/apps/v1/deployments",
    "/api/v1/services",
    "/api/v1/serviceaccounts",
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
)


def _serve(releases: Releases, team: str) -> dict[str, str]:
    """Apply an SLMDeployment and wait until it serves; name and uid of its pods."""
    releases.apply(team, NAME, slm_spec())
    releases.wait(team, NAME, ready="1/1")
    return releases.pods_of(team)


def _owned(releases: Releases) -> dict[str, set[str]]:
    """Everything in the cluster of the kinds that a release makes."""
    return {path: releases.names(path) for path in OWNED}


def _apply_older_crd(releases: Releases, *flags: str) -> None:
    older = yaml.safe_load(APPLIED.read_text())
    del _replicas(older)["description"]
    releases.control_plane.kubectl("apply", "--server-side", *flags, "-f", "-", input=json.dumps(older))
    assert not _is_new(releases)


def _is_new(releases: Releases) -> bool:
    return "description" in _replicas(releases.control_plane.request("GET", CRD))


def _replicas(crd: Json) -> Json:
    """The schema of spec.replicas."""
    schema: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found: Json = schema["properties"]["spec"]["properties"]["replicas"]
    return found


def test_an_upgrade_reaches_the_process_and_a_rollback_takes_it_back(releases: Releases) -> None:
    namespace, team = releases.namespace(), releases.team()
    releases.install("slmpack", namespace)
    first = releases.operator(namespace)
    pods = _serve(releases, team)
    releases.install("slmpack", namespace, verb="upgrade", values={"operator": {"nodeSelector": "example.com/pool=a"}})
    second = releases.operator(namespace)
    assert "--node-selector=example.com/pool=a" in second.words
    releases.done("rollback", "slmpack", "1", "-n", namespace, "--wait", "--timeout", "60s")
    third = releases.operator(namespace)
    assert third.container["args"] == first.container["args"]
    history = json.loads(releases.done("history", "slmpack", "-n", namespace, "--output", "json"))
    assert [entry["status"] for entry in history] == ["superseded", "superseded", "deployed"]
    assert first.ended <= second.began  # Recreate: never two at a time
    assert second.ended <= third.began
    assert releases.pods_of(team) == pods  # what serves was not touched
    assert not forbidden_requests(first, second, third)


def test_an_upgrade_of_the_chart_upgrades_the_crd(releases: Releases, tmp_path: Path) -> None:
    api, namespace = releases.control_plane, releases.namespace()
    releases.install("slmpack", namespace)
    assert "brandNew" not in json.dumps(api.request("GET", CRD)["spec"])
    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    template, chart = newer / "templates" / "crd.yaml", newer / "Chart.yaml"
    before = template.read_text()
    field = r"\1brandNew:\n\1  type: string\n\1replicas:\n"  # before the spec's, which comes first
    template.write_text(re.sub(r"^( +)replicas:\n", field, before, count=1, flags=re.MULTILINE))
    assert template.read_text() != before
    chart.write_text(yaml.safe_dump(yaml.safe_load(chart.read_text()) | {"version": "999.0.0"}))
    releases.install("slmpack", namespace, verb="upgrade", chart=newer)
    eventually(lambda: "brandNew" in api.kubectl("explain", "slm.spec").stdout)
    _serve(releases, releases.team())


def test_one_namespace_is_looked_after_with_rights_in_that_namespace_only(releases: Releases) -> None:
    namespace, team, strangers = releases.namespace(), releases.team(), releases.team()
    releases.install("slmpack", namespace, values={"watch": {"namespace": team}})
    operator = releases.operator(namespace)
    releases.apply(strangers, NAME, slm_spec())
    _serve(releases, team)
    assert "ready" not in releases.status(strangers, NAME)
    assert not releases.pods_of(strangers)
    account = f"--as=system:serviceaccount:{namespace}:{operator.pod['spec']['serviceAccountName']}"
    for where, answer in ((team, "yes"), (strangers, "no")):
        asked = releases.control_plane.kubectl("auth", "can-i", "create", "pods", "-n", where, account, check=False)
        assert asked.stdout.strip() == answer, where
    assert not forbidden_requests(operator), operator.log


def test_files_and_secrets_of_the_values_reach_the_process(releases: Releases) -> None:
    api, namespace = releases.control_plane, releases.namespace()
    api.kubectl("create", "secret", "generic", "hub", "-n", namespace, "--from-literal=token=of-the-hub")
    api.kubectl("create", "secret", "generic", "prometheus", "-n", namespace, "--from-literal=token=of-prometheus")
    api.kubectl("create", "configmap", "ca", "-n", namespace, f"--from-file=ca.crt={api.ca_file}")
    prometheus = {
        "url": "https://prometheus.monitoring:9090",
        "tokenSecret": {"name": "prometheus"},
        "caConfigMap": {"name": "ca"},
        "headers": ["X-Scope-OrgID: team"],
        "metricNames": {"labels": {"deployment": "slmdeployment"}},
    }
    values = {"hub": {"offline": True, "bundledModels": True, "tokenSecret": {"name": "hub"}}, "prometheus": prometheus}
    releases.install("slmpack", namespace, values={**values, "page": {"enabled": True}})
    operator = releases.operator(namespace)
    assert "HF_TOKEN=of-the-hub" in Path(f"/proc/{operator.pid}/environ").read_text().split("\0")
    given = dict(word.split("=", 1) for word in operator.words if word.startswith("--") and "=" in word)
    assert Path(given["--prometheus-token-file"]).read_text() == "of-prometheus"
    assert Path(given["--prometheus-ca-file"]).read_text() == api.ca_file.read_text()
    assert "deployment: slmdeployment" in Path(given["--metric-names"]).read_text()
    assert operator.get("/")[0] == 200


def test_packs_are_made_with_the_rights_of_the_chart(releases: Releases, chart_world: ChartWorld) -> None:
    namespace, team = releases.namespace(), releases.team()
    image = '{{ include "slmpack.image" . }}'
    releases.install("slmpack", namespace, values={"supervisor": {"image": image}, "podProxy": chart_world.packs.proxy})
    operator = releases.operator(namespace)
    spec = slm_spec(replicas=2, mode="MPSPack", pod={"terminationGracePeriodSeconds": 3})
    releases.apply(team, NAME, spec | {"sharing": spec["sharing"] | {"maxPerGPU": 2}})
    releases.wait(team, NAME, ready="2/2")
    (pod,) = releases.control_plane.request("GET", f"/api/v1/namespaces/{team}/pods")["items"]
    assert pod["spec"]["initContainers"][0]["image"] == operator.container["image"]
    releases.control_plane.kubectl("delete", "slm", NAME, "-n", team)
    eventually(lambda: not releases.pods_of(team), seconds=60)
    assert not forbidden_requests(operator), operator.log


def test_a_crd_that_was_applied_is_not_taken_over_by_itself(releases: Releases) -> None:
    namespace = releases.namespace()
    _apply_older_crd(releases)
    said = releases.refused("install", "slmpack", str(CHART), "-n", namespace, values=VALUES)
    assert 'CustomResourceDefinition "slmdeployments.slmpack.dev"' in said
    assert "invalid ownership metadata" in said
    said = releases.refused("install", "slmpack", str(CHART), "-n", namespace, "--take-ownership", values=VALUES)
    assert 'conflict with "kubectl": .spec.versions' in said
    assert not _is_new(releases)


@pytest.mark.parametrize(("flags", "values"), ADOPTING)
def test_an_install_over_an_applied_crd(releases: Releases, flags: list[str], values: Json) -> None:
    namespace = releases.namespace()
    team = releases.team()
    _apply_older_crd(releases)
    before = releases.control_plane.request("GET", CRD)["metadata"]["uid"]
    releases.install("slmpack", namespace, *flags, values=values)
    _serve(releases, team)
    assert releases.control_plane.request("GET", CRD)["metadata"]["uid"] == before
    assert _is_new(releases) is bool(flags)
    releases.uninstall("slmpack", namespace)
    assert releases.has_crd()


def test_a_crd_that_was_applied_since_is_taken_back_by_an_upgrade_that_may(releases: Releases) -> None:
    namespace = releases.namespace()
    releases.install("slmpack", namespace)
    _apply_older_crd(releases, "--force-conflicts")
    said = releases.refused("upgrade", "slmpack", str(CHART), "-n", namespace, values=VALUES)
    assert 'conflict with "kubectl": .spec.versions' in said
    releases.install("slmpack", namespace, "--force-conflicts", verb="upgrade")
    assert _is_new(releases)
    releases.install("slmpack", namespace, verb="upgrade")


def test_after_an_uninstall_models_serve_on_and_go_when_they_are_deleted(releases: Releases) -> None:
    api, namespace = releases.control_plane, releases.namespace()
    team = releases.team()
    empty = _owned(releases)
    releases.install("slmpack", namespace)
    operator = releases.operator(namespace)
    pods = _serve(releases, team)
    said = releases.uninstall("slmpack", namespace)
    assert "[CustomResourceDefinition] slmdeployments.slmpack.dev" in said
    eventually(lambda: operator.ended > operator.began, what="the operator has ended")
    assert releases.pods_of(team) == pods
    assert NAME in api.kubectl("get", "slm", "-n", team).stdout
    left = {path: names - empty[path] for path, names in _owned(releases).items()}
    assert left.pop("/api/v1/services") == {f"{team}/{NAME}"}  # the model's
    assert not any(left.values()), left
    api.kubectl("delete", "slm", NAME, "-n", team, "--timeout=60s")
    eventually(lambda: not releases.pods_of(team), seconds=60)
    eventually(lambda: not releases.names(f"/api/v1/namespaces/{team}/services"), seconds=60)


def test_without_keep_an_uninstall_takes_everything_along(releases: Releases) -> None:
    namespace, team = releases.namespace(), releases.team()
    releases.install("slmpack", namespace, values={"crds": {"keep": False}})
    _serve(releases, team)
    releases.uninstall("slmpack", namespace)
    assert not releases.has_crd()
    eventually(lambda: not releases.pods_of(team), seconds=60)


def test_a_reinstall_under_the_same_name_needs_nothing(releases: Releases) -> None:
    namespace = releases.namespace()
    releases.install("slmpack", namespace)
    first = releases.operator(namespace)
    releases.uninstall("slmpack", namespace)
    releases.done("install", "slmpack", str(CHART), "-n", namespace, values=VALUES)
    second = releases.operator(namespace)
    # It does not get the Lease before the old one expires; how that goes on is the standby's test.
    waits = f"standby: the Lease {namespace}/slmpack is not ours: held by {first.pod['metadata']['name']}"
    eventually(lambda: waits in second.log, what=second.log)
    assert second.get("/healthz")[0] == 200


@pytest.mark.parametrize(("flags", "values"), ADOPTING)
def test_a_reinstall_under_another_name(releases: Releases, flags: list[str], values: Json) -> None:
    namespace, elsewhere = releases.namespace(), releases.namespace()
    team = releases.team()
    releases.install("slmpack", namespace)
    pods = _serve(releases, team)
    releases.uninstall("slmpack", namespace)
    said = releases.refused("install", "packer", str(CHART), "-n", elsewhere, values=VALUES)
    assert "invalid ownership metadata" in said
    releases.install("packer", elsewhere, *flags, values=values)
    operator = releases.operator(elsewhere, "packer")
    eventually(lambda: 'slmpack_replicas{name="qwen"' in operator.get("/metrics")[1])
    assert releases.pods_of(team) == pods
    assert not forbidden_requests(operator), operator.log


def test_a_second_release_waits_says_so_and_takes_over(releases: Releases) -> None:
    api, namespace = releases.control_plane, releases.namespace()
    team = releases.team()
    releases.install("slmpack", namespace)
    first = releases.operator(namespace)
    where = releases.namespace()
    said = releases.refused("install", "second", str(CHART), "-n", where, "--take-ownership", values=VALUES)
    assert "two operators would plan for the same GPUs" in said
    assert f"lease.namespace={namespace}" in said
    values = {**VALUES, "crds": {"install": False}, "lease": {"namespace": namespace}}
    releases.done("install", "second", str(CHART), "-n", where, values=values)  # no --wait: a standby is never Ready
    second = releases.operator(where, "second")
    waits = f"standby: held by {first.pod['metadata']['name']}"
    eventually(second.listens, seconds=60, what=second.log)
    eventually(lambda: second.get("/readyz") == (503, f"{waits}\n"), seconds=60, what=second.log)
    assert second.get("/healthz")[0] == 200
    assert "standby: the Lease" in second.log
    assert releases.deployment(where, "second")["status"].get("readyReplicas", 0) == 0
    pods = _serve(releases, team)
    releases.uninstall("slmpack", namespace)
    # helm takes the roles away with the pod, which then cannot give the Lease back: it has to expire, in 30 s.
    eventually(lambda: second.get("/readyz")[0] == 200, seconds=90, what=second.log)
    eventually(lambda: releases.deployment(where, "second")["status"].get("readyReplicas") == 1, seconds=60)
    assert second.starts == 1
    assert releases.pods_of(team) == pods
    api.kubectl("scale", "slm", NAME, "-n", team, "--replicas=2")
    releases.wait(team, NAME, ready="2/2")
    assert not forbidden_requests(second), second.log
