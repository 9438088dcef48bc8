"""The operator's own metrics as a whole."""

from __future__ import annotations

from datetime import timedelta

from slmpack.adapters.telemetry import PrometheusTelemetry
from slmpack.domain.conditions import judge
from tests.support.builders import NOW, a_deployment, a_snapshot, plan, whole_node


def _told(telemetry: PrometheusTelemetry) -> set[str]:
    """Series with a label of an SLMDeployment or a node."""
    lines = telemetry.text().decode().splitlines()
    return {line.partition("{")[0] for line in lines if 'name="qwen"' in line or 'node="n"' in line}


def test_a_leader_that_becomes_a_standby_says_nothing_of_the_cluster() -> None:
    telemetry = PrometheusTelemetry()
    found = plan(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),)))
    (part,) = found.deployments
    telemetry.judged({part.deployment.key: judge(part, outcomes=(), now=NOW + timedelta(seconds=1))})
    telemetry.planned(found)
    telemetry.turn("ok", seconds=0.1)
    assert {"slmpack_replicas", "slmpack_reason", "slmpack_gpus", "slmpack_replicas_per_gpu"} <= _told(telemetry)
    telemetry.turn("standby", seconds=0.1)
    assert _told(telemetry) == set()
    assert 'slmpack_turns_total{result="standby"} 1.0' in telemetry.text().decode()
