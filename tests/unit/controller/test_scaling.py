"""Scale decisions in status, events and conditions: said once, remembered by a restart, never lost to nonsense."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slmpack.adapters.cluster import KubeCluster
from slmpack.adapters.records import read_deployment
from slmpack.adapters.resources import SLM_DEPLOYMENTS
from slmpack.controller.execute import Execution
from slmpack.controller.report import Reporter
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, ScaleDecision, ScaleState
from slmpack.domain.snapshot import DeploymentView, Rejected
from tests.support.builders import NOW, POLICY
from tests.support.controller_world import World

CHANGED = NOW - timedelta(hours=1)
DECISION = ScaleDecision(
    desired=2,
    current=2,
    wished=3,
    reason=Reason.STEADY,
    message="12.3 requests/s of the 20 that 2 replicas answer",
    state=ScaleState(
        desired=2,
        changed=CHANGED,
        went_up=True,
        lower_since=NOW - timedelta(seconds=90),
        higher_since=NOW - timedelta(seconds=15),
        busy=NOW - timedelta(seconds=30),
        start_s=41.5,
        correction=1.2155,
        corrected=NOW - timedelta(minutes=3),
        corrected_of="0123456789ab",
    ),
    known=True,
    figures=(Figure(name="demand", value=12.3456, unit="requests/s", basis="measured"),),
    refused=Reason.AT_MAX,
    power_w=Interval(low=300.0, expected=350.0, high=400.0, basis=Basis.MODELLED),
)


class Scene:
    """A SLMDeployment that is scaled, and a reporter that is told what was decided."""

    def __init__(self, *, least: int = 0) -> None:
        self.world = World()
        self.world.apply(scaling={"min": least, "max": 2})
        cluster = KubeCluster(self.world.api, self.world.observer)
        world = self.world
        self.reporter = Reporter(cluster, leadership=world.leader, clock=world.clock, telemetry=world.telemetry)

    @property
    def view(self) -> DeploymentView:
        (found,) = self.world.observer.snapshot().deployments
        return found

    async def decided(self, decision: ScaleDecision) -> None:
        """A turn whose scaler decided so."""
        await self.world.observer.refresh()
        plan = plan_cluster(self.world.observer.snapshot(), POLICY)
        await self.reporter.report(_with(plan, decision), Execution(outcomes=(), done=(), broken=None))

    def said(self) -> list[tuple[str, str]]:
        items = self.world.store.items(self.world.store.registry.parse("/apis/events.k8s.io/v1/events"))
        return [(item["reason"], item["type"]) for item in items if item["action"] in {"Scale", "Start"}]


def _with(plan: ClusterPlan, decision: ScaleDecision) -> ClusterPlan:
    (part,) = plan.deployments
    demand = part.deployment.demand
    if isinstance(demand, Rejected):
        return plan
    view = replace(part.deployment, demand=replace(demand, replicas=decision.desired))
    return replace(plan, deployments=(replace(part, deployment=view, scale=decision),))


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_decision_is_in_status_and_comes_back_as_it_was(scene: Scene) -> None:
    await scene.decided(DECISION)
    status = scene.world.status()
    assert (status["desiredReplicas"], status["ready"]) == (2, "0/2")
    assert status["scaling"] == {
        "desired": 2,
        "wished": 3,
        "known": True,
        "reason": "Steady",
        "message": DECISION.message,
        "limitedBy": "AtMax",
        "power": "350 W (300 to 400)",
        "decidedAt": scene.world.clock.now().isoformat().replace("+00:00", "Z"),
        "lastScaleTime": "2026-11-21T11:00:00Z",
        "lastDirection": "Up",
        "lowerSince": "2026-11-21T11:58:30Z",
        "higherSince": "2026-11-21T11:59:45Z",
        "lastRequestTime": "2026-11-21T11:59:30Z",
        "startSeconds": 41.5,
        "correction": 1.2155,
        "correctedAt": "2026-11-21T11:57:00Z",
        "correctedOf": "0123456789ab",
        "figures": [{"name": "demand", "value": 12.3, "unit": "requests/s", "basis": "measured"}],
    }
    assert scene.view.scale == DECISION.state
    note = scene.view.scale_note
    assert note is not None
    assert (note.reason, note.refused, note.message, note.wished) == (
        Reason.STEADY,
        Reason.AT_MAX,
        DECISION.message,
        3,
    )
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert (conditions["ScalingActive"]["status"], conditions["ScalingActive"]["reason"]) == ("True", "Steady")
    assert (conditions["ScalingLimited"]["status"], conditions["ScalingLimited"]["reason"]) == ("True", "AtMax")


async def test_the_same_decision_is_written_once_and_told_once(scene: Scene) -> None:
    for _ in range(2):  # the second plan is for the decided number
        await scene.decided(DECISION)
    before = len(scene.world.api.writes())
    for turn in range(20):
        scene.world.clock.advance(15)
        jitter = replace(DECISION.figures[0], value=12.3 + turn / 100)
        message = DECISION.message.replace("12.3", str(jitter.value))
        await scene.decided(replace(DECISION, figures=(jitter,), message=message))
    assert scene.world.api.writes()[before:] == []
    assert scene.said() == [("AtMax", "Warning")]


@pytest.mark.parametrize(("ready", "kind"), [(False, "Normal"), (True, "Warning")])
async def test_each_change_is_one_event(scene: Scene, ready: bool, kind: str) -> None:
    """That nothing is measured is no warning while the first replica starts."""
    if ready:
        await scene.world.loop.turn()
        scene.world.make_ready()
        scene.world.clock.advance(1)  # events are named by the moment
    steady = replace(DECISION, refused=None)
    await scene.decided(steady)
    up = replace(steady, desired=3, reason=Reason.LOAD_ROSE, state=replace(steady.state, desired=3))
    blind = replace(up, current=3, known=False, reason=Reason.METRICS_UNKNOWN)
    for decision in (up, replace(up, current=3), blind, blind):
        await scene.decided(decision)
    assert scene.said()[-2:] == [("LoadRose", "Normal"), ("MetricsUnknown", kind)]
    conditions = {condition["type"]: condition for condition in scene.world.status()["conditions"]}
    assert conditions["ScalingActive"]["status"] == "False"


async def test_a_rejected_spec_keeps_the_number(scene: Scene) -> None:
    await scene.decided(DECISION)
    image = {"spec": {"engine": {"image": "vllm:latest"}}}
    scene.world.patch(SLM_DEPLOYMENTS, "m", image)
    for _ in range(2):
        await scene.decided(DECISION)
    assert isinstance(scene.view.demand, Rejected)
    assert scene.view.scale == DECISION.state
    assert scene.world.status()["scaling"]["reason"] == "Frozen"
    scene.world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"engine": {"image": "vllm/vllm-openai:v0.33.0"}}})
    await scene.decided(DECISION)
    assert scene.world.status()["scaling"]["reason"] == "Steady"


async def test_without_scaling_nothing_of_it_is_left(scene: Scene) -> None:
    await scene.decided(DECISION)
    scene.world.patch(SLM_DEPLOYMENTS, "m", {"spec": {"scaling": None, "replicas": 1}})
    await scene.world.loop.turn()
    status = scene.world.status()
    assert "scaling" not in status
    assert not [it for it in status["conditions"] if it["type"].startswith("Scaling")]
    assert (scene.view.scale, scene.view.scale_note) == (None, None)


async def _turns(scene: Scene) -> list[tuple[str, str]]:
    """What ten minutes of a new operator process write, where nothing changes."""
    for _ in range(4):
        await scene.world.loop.turn()
        scene.world.make_ready()
    scene.world.clock.advance(60)  # by then the last figures are told
    await scene.world.loop.turn()
    before = len(scene.world.api.writes())
    scene.world.start()
    for _ in range(40):
        scene.world.clock.advance(15)
        await scene.world.loop.turn()
    return list(scene.world.api.writes()[before:])


async def test_turns_of_the_loop_write_an_unchanged_decision_once() -> None:
    """Nothing is measured here: the number is held."""
    scene = Scene(least=1)
    assert await _turns(scene) == []
    status = scene.world.status()
    assert (status["ready"], status["scaling"]["reason"]) == ("1/1", "MetricsUnknown")


async def test_what_may_have_been_busy_is_remembered_once_a_minute() -> None:
    """With min 0, who measures nothing must remember that there may have been requests."""
    writes = await _turns(Scene(least=0))
    assert 1 <= len(writes) <= 10
    assert {path.rpartition("/")[2] for _, path in writes} == {"status"}


@pytest.mark.parametrize(
    ("scaling", "state", "note"),
    [
        (None, False, False),
        ("many", False, False),
        ({}, False, False),
        ({"desired": -1}, False, False),
        ({"desired": "two"}, False, False),
        ({"desired": 2, "lastScaleTime": "yesterday"}, False, False),
        ({"desired": 2, "startSeconds": -1}, False, False),
        ({"desired": 2}, True, False),
        ({"desired": 2, "decidedAt": "2026-11-21T12:00:00Z", "reason": "NotAReason"}, True, False),
        (
            {"desired": 2, "decidedAt": "2026-11-21T12:00:00Z", "reason": "Steady", "limitedBy": "NotOne"},
            True,
            False,
        ),
        ({"desired": 2, "decidedAt": "2026-11-21T12:00:00Z", "reason": "Steady", "newer": 1}, True, True),
    ],
)
def test_nonsense_in_status_is_no_decision(scaling: Any, state: bool, note: bool) -> None:
    raw = {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "metadata": {"name": "m", "namespace": "default", "uid": "u"},
        "spec": {"model": {"source": "hf://a/b"}, "scaling": {"max": 2}},
        "status": {"replicas": 1, "scaling": scaling},
    }
    record = read_deployment(raw)
    assert record is not None
    assert (record.scale is not None, record.scale_note is not None) == (state, note)
