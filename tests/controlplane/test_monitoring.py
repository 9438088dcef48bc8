"""The rules in monitoring/: promtool checks and tests them, and they name nothing that nobody exports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slmpack.adapters.telemetry import PrometheusTelemetry
from tests.support.live_metrics import DCGM, SAMPLE
from tests.support.prometheus import Prometheus, promtool

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))
OLD_NAMES = {"vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds"}
METRIC = re.compile(r"(?<![\w:])(?:vllm:|DCGM_|slmpack_)\w+")


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in _load(path)["groups"] for rule in group["rules"]]


def _cases() -> list[dict[str, Any]]:
    return [case for path in TESTS for case in _load(path)["tests"]]


def test_promtool_finds_nothing_to_say_about_configuration_and_rules() -> None:
    config = promtool("check", "config", "prometheus.yaml", cwd=MONITORING)
    assert config.returncode == 0, config.stdout + config.stderr
    rules = promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES))
    assert rules.returncode == 0, rules.stdout + rules.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path: Path) -> None:
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    tested = [test for case in _cases() for test in case.get("alert_rule_test", ())]
    alerts = {rule["alert"] for rule in _rules() if "alert" in rule}
    assert {test["alertname"] for test in tested if test.get("exp_alerts")} == alerts
    assert {test["alertname"] for test in tested if not test.get("exp_alerts")} == alerts


def test_every_recorded_series_is_tested_by_its_value() -> None:
    text = " ".join(
        test["expr"] for case in _cases() for test in case.get("promql_expr_test", ()) if test.get("exp_samples")
    )
    names = [rule["record"] for rule in _rules() if "record" in rule]
    assert [name for name in names if name not in re.findall(r"[\w:]+", text)] == []


def test_no_name_is_made_up() -> None:
    used = {name for rule in _rules() for name in METRIC.findall(rule["expr"])}
    exported = SAMPLE.read_text() + PrometheusTelemetry().text().decode()
    known = set(re.findall(r"# TYPE (\S+) ", exported)) | OLD_NAMES | {counter.name for counter in DCGM}
    unknown = {name for name in used if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known}
    assert unknown == set()


def test_a_real_prometheus_loads_the_rules_and_evaluates_them() -> None:
    with Prometheus.start(rules=RULES, interval="1s") as prometheus:
        groups = prometheus.rule_groups()
        assert len(groups) == sum(len(_load(path)["groups"]) for path in RULES)
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
