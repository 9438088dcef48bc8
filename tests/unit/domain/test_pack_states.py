"""What is said of each engine of a pack, and how packs are drawn."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.pack import EngineReport, EngineState, PackRecord, PackReport
from slmpack.domain.plan import ClusterPlan, ReplicaState
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import NodeView, PodPhase, PodView, Rejected
from tests.support.builders import (
    H100,
    NOW,
    PACKS,
    a_demand,
    a_deployment,
    a_pod,
    a_report,
    a_snapshot,
    creates,
    heard,
    plan,
    whole_node,
)

NODE = whole_node("n", product=H100, gpus=1)
THREE = a_deployment(demand=a_demand(replicas=3, mode=Mode.MPS_PACK, max_per_gpu=3))


def planned(*pods: PodView, replicas: int = 3, most: int = 3, node: NodeView = NODE) -> ClusterPlan:
    view = a_deployment(demand=a_demand(replicas=replicas, mode=Mode.MPS_PACK, max_per_gpu=most))
    return plan(a_snapshot(deployments=(view,), nodes=(node,), pods=pods), PACKS)


(MADE,) = creates(planned())
READY = a_pod(MADE, ready=True, created=NOW - timedelta(minutes=2))
STARTING = a_pod(MADE, created=NOW - timedelta(seconds=90))


def states(pod: PodView, replicas: int = 3) -> tuple[ReplicaState, ...]:
    return planned(pod, replicas=replicas).deployments[0].states


def said(pod: PodView, replicas: int = 3) -> list[tuple[int | None, bool, Reason | None, str]]:
    return [
        (s.engine, s.ready, s.problem.reason if s.problem else None, s.problem.message if s.problem else "")
        for s in states(pod, replicas)
    ]


def report(*engines: EngineReport) -> PackReport:
    return PackReport(running=(0, 1, 2), ending=False, engines=engines)


# the replicas of a pod


@pytest.mark.parametrize(
    ("pod", "count"),
    [
        (heard(READY), 3),
        (heard(READY, {1: EngineState.STARTING}), 2),
        (heard(replace(READY, record=replace(MADE.record, pack=PackRecord(engines=3, running=(2,))))), 1),
        (READY, 1),
        (replace(READY, record=replace(MADE.record, pack=PackRecord(engines=3, running=()))), 0),
        (replace(READY, record=replace(MADE.record, pack=None)), 1),
        (replace(READY, record=None), 1),
        (heard(STARTING), 0),
    ],
    ids=["all", "one starts", "one is to run", "no report", "none is to run", "one engine", "stranger", "not Ready"],
)
def test_how_many_replicas_answer(pod: PodView, count: int) -> None:
    assert pod.ready_replicas == count


def test_what_a_report_says_is_ready_counts_only_where_it_is_to_run() -> None:
    assert a_report((0, 1, 3)).ready((1, 2, 3)) == (1, 3)


# states


def test_each_engine_that_is_to_run_is_a_replica() -> None:
    found = states(heard(READY))
    assert [(s.engine, s.ready, s.counts, s.problem, s.attached) for s in found] == [
        (index, True, True, None, True) for index in range(3)
    ]
    assert {(str(s.pod), s.node, s.share) for s in found} == {("llm/qwen-0", "n", "MpsPack of 3")}


@pytest.mark.parametrize(
    ("engine", "reason", "message"),
    [
        (EngineReport(index=1, state=EngineState.STOPPED, attached=None), Reason.STARTING, "engine 1 is stopped"),
        (EngineReport(index=1, state=EngineState.WAITING, attached=None), Reason.STARTING, "engine 1 is waiting"),
        (EngineReport(index=1, state=EngineState.STARTING, attached=None), Reason.STARTING, "engine 1 is starting"),
        (EngineReport(index=1, state=EngineState.STOPPING, attached=True), Reason.STARTING, "engine 1 is stopping"),
        (
            EngineReport(
                index=1, state=EngineState.BACKOFF, attached=True, restarts=3, reason="Crashed", message="exit code 1"
            ),
            Reason.ENGINE_FAILED,
            "Crashed exit code 1, restarted 3 times",
        ),
        (
            EngineReport(index=1, state=EngineState.FAILED, attached=None),
            Reason.ENGINE_FAILED,
            "no message",
        ),
        (
            EngineReport(
                index=1,
                state=EngineState.FAILED,
                attached=False,
                attached_message="its process is no client of the daemon",
                reason="NotAttached",
            ),
            Reason.NOT_ATTACHED,
            "engine 1 is outside the MPS limit: its process is no client of the daemon",
        ),
        (
            EngineReport(index=1, state=EngineState.BACKOFF, attached=False, reason="NotAttached", message="no limit"),
            Reason.NOT_ATTACHED,
            "engine 1 is outside the MPS limit: NotAttached no limit",
        ),
    ],
    ids=lambda value: value.state.value if isinstance(value, EngineReport) else "",
)
def test_why_an_engine_does_not_answer(engine: EngineReport, reason: Reason, message: str) -> None:
    fine = (EngineReport(index=i, state=EngineState.READY, attached=True, attached_message="seen") for i in (0, 2))
    pod = replace(READY, pack=report(*fine, engine))
    assert said(pod) == [(0, True, None, ""), (1, False, reason, message), (2, True, None, "")]
    found = states(pod)
    seen = None if engine.state is EngineState.BACKOFF and engine.attached else engine.attached  # its process has gone
    assert [s.attached for s in found] == [True, seen, True]
    assert [s.attached_message for s in found] == ["seen", engine.attached_message, "seen"]


def test_while_the_pod_is_not_ready_its_own_reason_is_told_but_not_in_place_of_an_engines() -> None:
    waiting = "starting for 90 s of at most 600 s"
    assert said(STARTING) == [(index, False, Reason.STARTING, waiting) for index in range(3)]
    told = heard(STARTING, {0: EngineState.READY, 1: EngineState.STARTING, 2: EngineState.FAILED})
    assert said(told) == [
        (0, False, Reason.STARTING, waiting),
        (1, False, Reason.STARTING, waiting),
        (2, False, Reason.ENGINE_FAILED, "no message"),
    ]


def test_of_a_ready_pod_that_says_nothing_one_engine_answers() -> None:
    assert said(replace(READY, ready_since=NOW - timedelta(seconds=59))) == [
        (0, True, None, ""),
        (1, False, Reason.STARTING, "the pack's supervisor has not said how engine 1 is"),
        (2, False, Reason.STARTING, "the pack's supervisor has not said how engine 2 is"),
    ]


def test_a_supervisor_that_stays_silent_is_said_of_every_engine_also_of_the_one_that_answers() -> None:
    silent = said(replace(READY, ready_since=NOW - timedelta(seconds=60)))
    assert [entry[:3] for entry in silent] == [(index, index == 0, Reason.SUPERVISOR_UNREACHABLE) for index in range(3)]
    assert all("port 8090" in message and "--pod-proxy" in message for *_, message in silent)


def test_an_engine_that_a_report_leaves_out_is_unknown() -> None:
    partly = replace(READY, pack=report(EngineReport(index=1, state=EngineState.READY, attached=True)))
    assert [(engine, ready) for engine, ready, *_ in said(partly)] == [(0, True), (1, True), (2, False)]


def test_states_are_of_what_this_plan_lets_run() -> None:
    assert [s.engine for s in states(heard(READY), replicas=2)] == [0, 1]
    one = heard(replace(READY, record=replace(MADE.record, pack=PackRecord(engines=3, running=(1,)))))
    assert said(one) == [
        (0, False, Reason.STARTING, "engine 0 is stopped"),
        (1, True, None, ""),
        (2, False, Reason.STARTING, "engine 2 is stopped"),
    ]


@pytest.mark.parametrize(
    "pod",
    [
        replace(heard(READY), deleting=True),
        replace(STARTING, ended="NotReadyInTime"),
        replace(STARTING, phase=PodPhase.FAILED, finished_at=NOW),
    ],
    ids=["deleting", "ended", "failed"],
)
def test_the_engines_of_a_pod_that_goes_do_not_count(pod: PodView) -> None:
    assert [(s.engine, s.counts) for s in states(pod)] == [(0, False), (1, False), (2, False)]
    frozen = replace(THREE, demand=Rejected(problems=()))
    found = plan(a_snapshot(deployments=(frozen,), nodes=(NODE,), pods=(pod,)), PACKS).deployments[0].states
    assert [s.counts for s in found] == [False, False, False]


def test_a_frozen_pack_counts_as_it_is_recorded() -> None:
    frozen = replace(THREE, demand=Rejected(problems=()))
    result = plan(a_snapshot(deployments=(frozen,), nodes=(NODE,), pods=(heard(READY),)), PACKS)
    assert [(s.engine, s.counts) for s in result.deployments[0].states] == [(0, True), (1, True), (2, True)]
    assert result.actions == ()


def test_how_many_a_gpu_carries() -> None:
    assert planned().deployments[0].per_gpu == 3
    assert planned(heard(READY)).deployments[0].per_gpu == 3
    auto = a_deployment(demand=a_demand(replicas=2))
    assert plan(a_snapshot(deployments=(auto,), nodes=(NODE,)), PACKS).deployments[0].per_gpu == 2
    assert [used.share for used in planned(heard(READY)).deployments[0].fits] == ["MpsPack of 3"]


# the picture


def blocks(result: ClusterPlan) -> list[list[tuple[str, str]]]:
    return [[(block.label.removeprefix("llm/"), block.state) for block in bar.blocks] for bar in result.bars]


def test_a_planned_pack_shows_each_engine_and_which_are_idle() -> None:
    (bar,) = planned(replicas=2).bars
    assert [(b.label, b.state, b.share) for b in bar.blocks] == [
        ("llm/qwen-0 engine 0", "planned", "MpsPack of 3"),
        ("llm/qwen-0 engine 1", "planned", "MpsPack of 3"),
        ("llm/qwen-0 engine 2", "idle", "MpsPack of 3"),
    ]
    assert sum(b.used_bytes for b in bar.blocks) <= bar.usable_bytes
    assert len({b.used_bytes for b in bar.blocks}) == 1


@pytest.mark.parametrize(
    ("pod", "shown"),
    [
        (heard(READY, {1: EngineState.BACKOFF}), ["ready", "starting", "ready"]),
        (READY, ["ready", "starting", "starting"]),
        (heard(STARTING), ["starting", "starting", "starting"]),
        (replace(heard(READY), deleting=True), ["ending", "ending", "ending"]),
        (
            heard(replace(READY, record=replace(MADE.record, pack=PackRecord(engines=3, running=(2,))))),
            ["idle", "idle", "ready"],
        ),
    ],
    ids=["one fails", "no report", "the pod starts", "it goes", "two are idle"],
)
def test_a_pack_that_runs(pod: PodView, shown: list[str]) -> None:
    assert pod.record is not None
    assert pod.record.pack is not None
    result = planned(pod, replicas=len(pod.record.pack.running))
    assert blocks(result) == [[(f"qwen-0 engine {index}", state) for index, state in enumerate(shown)]]
    (bar,) = result.bars
    assert sum(b.used_bytes for b in bar.blocks) <= bar.usable_bytes


def test_two_packs_have_a_bar_each() -> None:
    node = whole_node("n", product=H100, gpus=3)
    made = creates(planned(replicas=4, most=2, node=node))
    pods = tuple(heard(a_pod(create, ready=True)) for create in made)
    assert blocks(planned(*pods, replicas=5, most=2, node=node)) == [
        [("qwen-0 engine 0", "ready"), ("qwen-0 engine 1", "ready")],
        [("qwen-1 engine 0", "ready"), ("qwen-1 engine 1", "ready")],
        [("qwen-2 engine 0", "planned"), ("qwen-2 engine 1", "idle")],
    ]


def test_packs_that_wait_are_drawn_pod_by_pod() -> None:
    node = whole_node("n", product=H100, gpus=2)
    made = creates(planned(replicas=4, most=2, node=node))
    graves = tuple(
        replace(a_pod(create, created=NOW - timedelta(minutes=1)), phase=PodPhase.FAILED, finished_at=NOW)
        for create in made
    )
    result = planned(*graves, replicas=3, most=2, node=node)
    assert blocks(result) == [
        [("qwen-* engine 0", "waiting"), ("qwen-* engine 1", "waiting")],
        [("qwen-* engine 0", "waiting"), ("qwen-* engine 1", "idle")],
    ]


def test_a_pack_on_a_gpu_that_is_offered_no_more_is_still_drawn() -> None:
    result = planned(heard(READY), node=whole_node("n", product=H100, gpus=0))
    held = [bar for bar in result.bars if bar.blocks]
    assert [[block.label for block in bar.blocks] for bar in held] == [["llm/qwen-0"]]
