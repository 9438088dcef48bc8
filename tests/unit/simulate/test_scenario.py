"""Scenario files: the frozen ones are whole, and a wrong one is told what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slmpack.cli.manifests import read_manifests
from slmpack.simulate.scenario import BadScenarioError, Scenario, read_scenario

FROZEN = sorted((Path(__file__).parents[3] / "benchmarks/scenarios").glob("*.scenario.yaml"))
GOOD = {"name": "x", "trace": "x.csv", "warmUpSeconds": 600, "objects": ["a.yaml"]}


def written(folder: Path, body: object) -> Path:
    path = folder / "x.scenario.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def test_a_scenario_is_frozen_for_each_trace() -> None:
    names = {read_scenario(path).trace for path in FROZEN}
    assert len(names) == len(FROZEN) == 6


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.name)
def test_a_frozen_scenario_is_whole(path: Path) -> None:
    scenario = read_scenario(path)
    manifests = read_manifests([str(each) for each in scenario.objects])
    assert manifests.of("Node")
    assert all("scaling" in each.body["spec"] for each in manifests.of("SLMDeployment"))
    assert scenario.kind in {"conversation", "bursty", "control", "day"}
    assert scenario.slo.ttft_s is not None
    assert scenario.slo.tpot_s is not None
    for each in manifests.of("SLMDeployment"):  # the operator is told of the bound that is judged
        assert each.body["spec"]["bounds"]["itl"] == f"{scenario.slo.tpot_s * 1000:.0f}ms"
        assert each.body["spec"]["scaling"]["slo"]["ttft"] == f"{scenario.slo.ttft_s:g}s"


def test_what_is_not_given_has_its_default(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, GOOD))
    assert (scenario.multiplier, scenario.initial, scenario.since_s, scenario.until_s) == (1, 1, 0.0, None)
    assert (scenario.slo.ttft_s, scenario.slo.ttft_times, scenario.slo.tpot_s) == (None, 3.0, None)
    assert scenario.objects == (tmp_path / "a.yaml",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": None}, "trace: None is of the wrong kind"),
        ({"warmup": 5}, "warmup: no such field"),
        ({"warmUpSeconds": "600"}, "warmUpSeconds: '600' is of the wrong kind"),
        ({"warmUpSeconds": -1}, "warmUpSeconds: -1 must not be negative"),
        ({"rateMultiplier": 0}, "rateMultiplier: 0 must be at least 1"),
        ({"slo": {"tpot": 1}}, r"slo\.tpot: 1; ttftSeconds, ttftTimesUnloaded, tpotSeconds are numbers above 0"),
        ({"slo": {"tpotSeconds": 0}}, r"slo\.tpotSeconds: 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadScenarioError, match=message):
        read_scenario(written(tmp_path, GOOD | change))


def test_what_is_needed_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadScenarioError, match="trace, warmUpSeconds, objects must be given"):
        read_scenario(written(tmp_path, {"name": "x"}))
    with pytest.raises(BadScenarioError, match="must be a mapping"):
        read_scenario(written(tmp_path, ["x"]))
    with pytest.raises(BadScenarioError, match="cannot be read"):
        read_scenario(tmp_path / "none.yaml")


@pytest.mark.parametrize(("span", "warm_up"), [(86_400.0, 900.0), (3600.0, 600.0), (1000.0, 200.0)])
def test_the_warm_up_of_a_trace(span: float, warm_up: float) -> None:
    assert Scenario.default_warm_up(span) == warm_up
