"""examples/gitops: what Argo CD and Flux are given is well-formed, is allowed, comes in order, and fits this repository."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slmpack.api.parse import parse_slmdeployment
from slmpack.api.v1alpha1 import SLMDeployment
from tests.support.gitops import read_strictly
from tests.support.helm import helm

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "gitops"
WAVE = "argocd.argoproj.io/sync-wave"
EVERYTHING = {
    "watch.namespace": "models",
    "supervisor.image": "registry.example.com/vllm-slmpack:v0.33.0",
    "networkPolicy.enabled": "true",
    "metrics.podMonitor.enabled": "true",
    "metrics.engines.enabled": "true",
    "metrics.prometheusRule.enabled": "true",
    "metrics.dashboards.enabled": "true",
}
"""Values that make the chart render more kinds."""


def _documents(path: Path) -> list[Json]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def _all() -> list[tuple[str, Json]]:
    return [
        (str(path.relative_to(EXAMPLES)), document)
        for path in sorted(EXAMPLES.rglob("*.yaml"))
        for document in _documents(path)
    ]


def _of(kind: str, *, group: str = "") -> list[tuple[str, Json]]:
    return [(file, it) for file, it in _all() if it["kind"] == kind and it["apiVersion"].startswith(group)]


def _releases() -> list[Json]:
    """The chart's values in each tool's object."""
    argo = [it["spec"]["source"].get("helm", {}).get("valuesObject") for _, it in _of("Application")]
    return [values for values in (*argo, *(it["spec"]["values"] for _, it in _of("HelmRelease"))) if values]


def test_every_file_is_there_for_a_tool() -> None:
    groups = {document["apiVersion"].partition("/")[0] for _, document in _all()}
    assert groups == {
        "argoproj.io",
        "helm.toolkit.fluxcd.io",
        "kustomize.toolkit.fluxcd.io",
        "kustomize.config.k8s.io",
        "slmpack.dev",
        "source.toolkit.fluxcd.io",
        "v1",
    }


@pytest.mark.parametrize(("file", "manifest"), _of("SLMDeployment"), ids=lambda it: it if isinstance(it, str) else "")
def test_the_models_are_accepted(file: str, manifest: Json) -> None:
    assert isinstance(parse_slmdeployment(manifest), SLMDeployment), file
    assert "namespace" not in manifest["metadata"], "the Application or Kustomization says where"


def test_flux_reads_its_objects_without_a_field_too_many_or_missing() -> None:
    ours = [document for _, document in _all() if "toolkit.fluxcd.io" in document["apiVersion"]]
    assert len(ours) == 6
    assert read_strictly(ours) == [""] * 6


def test_flux_reads_what_the_page_says_of_a_crd_that_is_there_already() -> None:
    page = (ROOT / "docs" / "gitops.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"```yaml\n(spec:\n  install:.*?)```", page, flags=re.DOTALL)
    more = yaml.safe_load(said)["spec"]
    for _, release in _of("HelmRelease"):
        spec = release["spec"] | {key: release["spec"][key] | more[key] for key in more}
        assert read_strictly([release | {"spec": spec}]) == [""]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec.pop("sourceRef"), "spec.sourceRef is required"),
        (lambda spec: spec.update(helthChecks=[]), 'unknown field "helthChecks"'),
        (lambda spec: spec["healthCheckExprs"][0].pop("current"), "spec.healthCheckExprs[0].current is required"),
        (lambda spec: spec.update(prune="yes"), "cannot unmarshal string"),
    ],
    ids=["no source", "a slip of the pen", "no expression", "another type"],
)
def test_flux_would_refuse_a_broken_one(change: Any, words: str) -> None:
    (models,) = (it for _, it in _of("Kustomization", group="kustomize.toolkit") if "healthCheckExprs" in it["spec"])
    broken = copy.deepcopy(models)
    change(broken["spec"])
    assert words in read_strictly([broken])[0]


def test_the_values_fit_the_chart(tmp_path: Path) -> None:
    """Helm itself judges them by values.schema.json, together with the chart's own."""
    releases = _releases()
    assert len(releases) == 3
    for values in releases:
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
        rendered = helm(
            "template", "slmpack", str(ROOT / "charts/slmpack"), "-f", str(tmp_path / "values.yaml"), home=tmp_path
        )
        assert rendered.returncode == 0, rendered.stderr


def test_argo_cds_project_allows_every_kind_that_the_chart_makes(tmp_path: Path) -> None:
    (project,) = (it["spec"] for _, it in _of("AppProject"))
    allowed = {
        (it["group"], it["kind"]) for key in ("cluster", "namespace") for it in project[f"{key}ResourceWhitelist"]
    }
    chart = str(ROOT / "charts" / "slmpack")
    flags = [f"--set={key}={value}" for key, value in {"image.repository": "r.example.com/s", **EVERYTHING}.items()]
    rendered = helm("template", "slmpack", chart, "--no-hooks", *flags, home=tmp_path)
    assert rendered.returncode == 0, rendered.stderr
    made = {
        (it["apiVersion"].rpartition("/")[0], it["kind"])
        for it in yaml.safe_load_all(rendered.stdout)
        if it is not None
    }
    assert {("apps", "Deployment"), ("monitoring.coreos.com", "PrometheusRule")} <= made
    assert made - allowed == set()
    assert {("slmpack.dev", "SLMDeployment"), ("", "Namespace")} <= allowed


def test_argo_cds_applications_stay_in_their_project() -> None:
    (project,) = (it["spec"] for _, it in _of("AppProject"))
    where = {(it["server"], it["namespace"]) for it in project["destinations"]}
    for _, application in _of("Application"):
        spec = application["spec"]
        if spec["project"] == "slmpack":
            assert (spec["destination"]["server"], spec["destination"]["namespace"]) in where
            assert spec["source"]["repoURL"] in project["sourceRepos"]


def test_argo_cd_makes_the_crd_before_the_models() -> None:
    waves = {
        it["metadata"]["name"]: int(it["metadata"]["annotations"][WAVE])
        for file, it in _all()
        if file.startswith("argocd/apps/")
    }
    assert waves["slmpack"] < waves["slmpack-operator"] < waves["slmpack-models"]
    applications = {it["metadata"]["name"]: it["spec"] for _, it in _of("Application")}
    options = applications["slmpack-models"]["syncPolicy"]["syncOptions"]
    assert {"ServerSideApply=true", "SkipDryRunOnMissingResource=true"} <= set(options)
    assert all("ignoreDifferences" not in spec for spec in applications.values())


def test_flux_makes_the_crd_before_the_models() -> None:
    specs = {it["metadata"]["name"]: it["spec"] for _, it in _of("Kustomization", group="kustomize.toolkit")}
    assert specs["slmpack-models"]["dependsOn"] == [{"name": "slmpack-operator"}]
    assert specs["slmpack-operator"]["wait"] is specs["slmpack-models"]["wait"] is True


def test_every_path_leads_somewhere() -> None:
    paths = [it["spec"]["source"]["path"] for _, it in _of("Application")]
    paths += [it["spec"]["path"] for _, it in _of("Kustomization", group="kustomize.toolkit")]
    paths += [it["spec"]["chart"]["spec"]["chart"] for _, it in _of("HelmRelease") if "chart" in it["spec"]]
    assert len(paths) == 6
    for path in paths:
        assert any((ROOT / path).iterdir()), path


@pytest.mark.parametrize("folder", ["models", "flux/operator"])
def test_a_kustomization_names_files_that_are_there(folder: str) -> None:
    (found,) = _documents(EXAMPLES / folder / "kustomization.yaml")
    assert all((EXAMPLES / folder / name).is_file() for name in found["resources"])


def test_removing_the_operator_from_git_keeps_the_namespace_of_the_models() -> None:
    objects = yaml.safe_load_all((EXAMPLES / "flux" / "operator" / "namespaces.yaml").read_text(encoding="utf-8"))
    (models,) = [each for each in objects if each["metadata"]["name"] == "models"]
    assert models["metadata"]["annotations"] == {"kustomize.toolkit.fluxcd.io/prune": "disabled"}
