"""What Argo CD, kstatus and Flux make of the statuses that the operator writes, by their own libraries."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from slmpack.domain.conditions import _WORST_FIRST
from slmpack.domain.reasons import Reason
from tests.gitops.generated import CONFIG_MAP, HEALTH, expressions, files, judged, stray
from tests.gitops.scenes import SCENES
from tests.support.gitops import judge

if TYPE_CHECKING:
    from tests.support.gitops import Judged

    Json = dict[str, Any]
    Found = tuple[dict[str, Json], dict[str, Judged]]


@pytest.fixture(scope="module")
def found() -> Found:
    return judged()


def _condition(obj: Json, kind: str) -> Json | None:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), None)


def _judge(obj: Json) -> Judged:
    (said,) = judge([obj], health=HEALTH.read_text(encoding="utf-8"), expressions=expressions())
    return said


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_is_what_it_says(found: Found, name: str) -> None:
    ready = _condition(found[0][name], "Ready")
    assert (ready["reason"] if ready else None) == SCENES[name].reason


@pytest.mark.parametrize("name", SCENES)
def test_every_tool_says_what_the_table_says(found: Found, name: str) -> None:
    scene, said = SCENES[name], found[1][name]
    assert (said.argo.status, said.argo.error) == (scene.argo, "")
    assert (said.sigs.status, said.flux.status) == (scene.kstatus, scene.kstatus)
    assert said.expressions.status == scene.flux
    assert said.expressions.error == ""


def test_no_tool_calls_well_what_another_calls_broken(found: Found) -> None:
    for name, said in found[1].items():
        tools = {said.argo.status, said.flux.status, said.expressions.status}
        broken = tools & {"Degraded", "Failed"}
        assert not (broken and tools & {"Healthy", "Current"}), (name, tools)


def test_all_reasons_of_trouble_are_known_to_the_script() -> None:
    table = re.search(r"local trouble = \{(.*?)\}", HEALTH.read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    listed = set(re.findall(r"(\w+) = true", table[1]))
    waits = {Reason.UNSCHEDULABLE}  # it is planned again, or waits for a node to come
    assert listed == {r.value for r in {*_WORST_FIRST, Reason.BACK_OFF, Reason.ROLLOUT_STOPPED} - waits}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ready", ["AllReady: 2 replicas are Ready"]),
        ("scaled-to-zero", ["ScaledToZero: no replica is wanted"]),
        (
            "crash-loop",
            ["1/2 Ready; CrashLoop: m-1", "CUDA error: out of memory", "kubectl describe pod -n default m-1"],
        ),
        ("rejected-while-running", ["2/2 Ready; InvalidSpec", "no-such-flag"]),
        ("metrics-unknown", ["the replica is Ready; scaling holds the number, MetricsUnknown: "]),
        ("outdated", ["; 2 made by an older version of the operator keep running"]),
        ("stale", ["has not seen the present spec"]),
    ],
)
def test_argo_cd_shows_why(found: Found, name: str, words: list[str]) -> None:
    message = found[1][name].argo.message
    assert all(word in message for word in words), message


def test_a_condition_of_an_earlier_spec_is_not_trusted(found: Found) -> None:
    obj = copy.deepcopy(found[0]["ready"])
    ready = _condition(obj, "Ready")
    assert ready is not None
    obj["metadata"]["generation"] = 2
    obj["status"]["observedGeneration"] = 2
    assert ready["observedGeneration"] == 1
    said = _judge(obj)
    assert (said.argo.status, said.expressions.status) == ("Progressing", "InProgress")


def test_a_status_without_ready_is_on_its_way(found: Found) -> None:
    obj = copy.deepcopy(found[0]["ready"])
    obj["status"]["conditions"] = [c for c in obj["status"]["conditions"] if c["type"] != "Ready"]
    said = _judge(obj)
    assert (said.argo.status, said.expressions.status) == ("Progressing", "InProgress")


def test_an_object_under_a_crd_without_the_default_is_current_by_kstatus_alone(found: Found) -> None:
    bare = {key: value for key, value in found[0]["no-status"].items() if key != "status"}
    said = _judge(bare)
    assert (said.argo.status, said.argo.error) == ("Progressing", "")
    assert (said.sigs.status, said.flux.status, said.expressions.status) == ("Current", "Current", "Unknown")


def test_a_reason_that_the_script_does_not_know_is_on_its_way(found: Found) -> None:
    obj = copy.deepcopy(found[0]["crash-loop"])
    ready = _condition(obj, "Ready")
    assert ready is not None
    ready["reason"] = "OfANewerOperator"
    assert _judge(obj).argo.status == "Progressing"


def test_the_script_needs_no_library_beyond_base() -> None:
    """Argo CD gives neither string nor math nor io to a script of argocd-cm."""
    script = HEALTH.read_text(encoding="utf-8")
    assert not re.search(r"\b(string|math|io|os|require|table)\b[.( ]", re.sub(r"--.*", "", script))


def test_the_generated_files_are_in_sync(found: Found) -> None:
    wanted = files(*found)
    for path, text in wanted.items():
        assert path.is_file(), f"{path.name} is missing; run: make golden"
        assert path.read_text(encoding="utf-8") == text, f"{path.name} differs; run: make golden"
    assert stray(wanted) == []


def test_the_config_map_holds_the_script_to_the_letter(found: Found) -> None:
    data = yaml.safe_load(CONFIG_MAP.read_text(encoding="utf-8"))["data"]
    script = HEALTH.read_text(encoding="utf-8")
    assert data["resource.customizations.health.slmpack.dev_SLMDeployment"] == script


@pytest.mark.parametrize("health", ["Healthy", "Degraded", None])
def test_an_application_is_as_healthy_as_argo_cd_found_it(health: str | None) -> None:
    data = yaml.safe_load(CONFIG_MAP.read_text(encoding="utf-8"))["data"]
    status = {"health": {"status": health}} if health else {}
    application = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": "a"},
        "status": status,
    }
    script = data["resource.customizations.health.argoproj.io_Application"]
    (said,) = judge([application], health=script, expressions=expressions())
    assert said.argo.status == (health or "Progressing")


def test_the_page_has_the_table() -> None:
    rows = [
        f"| {it.title} | {f'`{it.reason}`' if it.reason else ''} | {it.argo} | {it.kstatus} | {it.flux} |"
        for it in SCENES.values()
    ]
    page = (HEALTH.parents[5] / "docs" / "gitops.md").read_text(encoding="utf-8")
    start = "| | `Ready`'s reason | Argo CD | kstatus | Flux with `healthCheckExprs` |\n|---|---|---|---|---|\n"
    assert start + "\n".join(rows) + "\n" in page
