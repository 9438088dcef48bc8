"""The operator's metrics of its own scaling."""

from __future__ import annotations

import re
from inspect import getsource
from typing import Any

from prometheus_client import CollectorRegistry

from slmpack.adapters.scale_metrics import COUNTED, ScaleMetrics
from slmpack.domain import scale_turn, scaling
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, ScaleDecision, ScaleState
from slmpack.domain.snapshot import Key

CHAT = Key("llm", "chat")


def decision(desired: int, *, current: int | None = None, reason: Reason = Reason.STEADY, **rest: Any) -> ScaleDecision:
    return ScaleDecision(
        desired=desired,
        current=desired if current is None else current,
        message="",
        reason=reason,
        state=ScaleState(desired=desired),
        **{"wished": desired, "known": True} | rest,
    )


class Scene:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ScaleMetrics(self.registry)

    def decided(self, *found: ScaleDecision) -> None:
        for one in found:
            self.metrics.decided({CHAT: one})

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"namespace": "llm", "name": "chat", **labels})


def test_the_counters_that_begin_at_0_are_those_of_every_reason_that_a_decision_gives() -> None:
    told = {name for module in (scaling, scale_turn) for name in re.findall(r"Reason\.([A-Z_]+)", getsource(module))}
    assert {reason.name for reason in COUNTED} == told


def test_the_present_decision_is_shown() -> None:
    scene = Scene()
    power = Interval(low=300.0, expected=350.0, high=400.0, basis=Basis.MODELLED)
    refused = Reason.POWER_CEILING
    scene.decided(decision(2, wished=5, known=False, power_w=power, ceiling_w=380.0, refused=refused))
    assert scene.value("slmpack_desired_replicas") == 2
    assert scene.value("slmpack_wished_replicas") == 5
    assert scene.value("slmpack_metrics_known") == 0
    assert scene.value("slmpack_predicted_power_watts") == 350
    assert scene.value("slmpack_max_watts_per_gpu") == 380
    assert scene.value("slmpack_scale_refused", reason="PowerCeiling") == 1
    assert scene.value("slmpack_scale_reversals_total") == 0
    scene.decided(decision(2))
    assert scene.value("slmpack_max_watts_per_gpu") is None
    assert scene.value("slmpack_scale_refused", reason="PowerCeiling") is None
    assert scene.value("slmpack_metrics_known") == 1
    assert scene.value("slmpack_predicted_power_watts") is None


def test_the_figures_of_a_decision_are_shown_while_they_are_known() -> None:
    scene = Scene()
    figures = tuple(
        Figure(name=name, value=value, unit="requests/s") for name, value in (("demand", 7.5), ("odd", 1.0))
    )
    scene.decided(decision(2, figures=figures))
    assert scene.value("slmpack_demand_requests_per_second") == 7.5
    assert scene.value("slmpack_capacity_requests_per_second") is None
    scene.decided(decision(2))
    assert scene.value("slmpack_demand_requests_per_second") is None


def test_decisions_count_when_they_differ_from_the_one_before() -> None:
    scene = Scene()
    up = decision(3, current=2, reason=Reason.LOAD_ROSE)
    scene.decided(decision(2), decision(2), up, up, decision(3), decision(3))
    assert scene.value("slmpack_scale_decisions_total", reason="Steady") == 2
    assert scene.value("slmpack_scale_decisions_total", reason="LoadRose") == 1


def test_a_counter_is_there_before_it_counts() -> None:
    scene = Scene()
    scene.decided(decision(2))
    assert scene.value("slmpack_scale_decisions_total", reason="Steady") == 1
    assert scene.value("slmpack_scale_decisions_total", reason="AtMax") == 0
    scene.decided(decision(2, reason=Reason.REPACK))
    assert scene.value("slmpack_scale_decisions_total", reason="Repack") == 1, (
        "one that was not expected counts as well"
    )


def test_reversals_count_changes_of_direction() -> None:
    scene = Scene()
    scene.decided(decision(3, current=2), decision(4), decision(4), decision(3), decision(2), decision(3))
    assert scene.value("slmpack_scale_reversals_total") == 2


def test_a_deployment_that_is_gone_leaves_no_metric() -> None:
    scene = Scene()
    scene.decided(decision(2), decision(3, reason=Reason.LOAD_ROSE))
    scene.metrics.decided({})
    left = [sample for metric in scene.registry.collect() for sample in metric.samples]
    assert left == []
