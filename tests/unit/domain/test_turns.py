"""Serial starts on a node whose GPUs are shared; nobody else waits."""

from __future__ import annotations

from dataclasses import replace

from slmpack.domain.plan import DeletePod, Placement
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Exclusive
from slmpack.domain.snapshot import Key, PodPhase, PodView
from slmpack.domain.turns import Turns
from tests.support.builders import a_demand, a_deployment, a_pod, a_snapshot, creates, mps_node, plan, whole_node

(FIRST,) = creates(plan(a_snapshot(deployments=(a_deployment(),), nodes=(mps_node("n"),))))
STARTING, READY = a_pod(FIRST), replace(a_pod(FIRST, ready=True), key=Key("llm", "ready"), uid="ready")
HERE = FIRST.placement


def delete(pod: PodView) -> DeletePod:
    return DeletePod(
        pod=pod.key,
        uid=pod.uid,
        deployment=Key("llm", "qwen"),
        problem=Problem(reason=Reason.SCALED_DOWN, message="x"),
        spec_hash="spec-a",
    )


def test_the_first_start_takes_the_turn_and_the_second_waits() -> None:
    turns = Turns(pods=(READY,), ending=())
    assert turns.take(HERE) is None
    assert turns.take(HERE) == Problem(
        reason=Reason.WAITING_FOR_START,
        message="replicas that share GPUs start one at a time: another replica starts on node n",
    )
    assert turns.take(replace(HERE, node="m")) is None, "another node has a turn of its own"


def test_what_holds_a_turn() -> None:
    table = {
        "a start": ((STARTING,), (), "llm/qwen-0 starts"),
        "a start that the scheduler has not bound yet": ((replace(STARTING, node=None),), (), "llm/qwen-0 starts"),
        "a Terminating neighbour": ((replace(READY, deleting=True),), (), "llm/ready stops"),
        "a neighbour that is ended": ((replace(READY, ended="x"),), (), "llm/ready stops"),
        "a neighbour that this plan ends": ((READY,), ("ready",), "llm/ready stops"),
    }
    for name, (pods, ending, holder) in table.items():
        waits = Turns(pods=pods, ending=ending).take(HERE)
        assert waits is not None, name
        assert holder in waits.message, name


def test_what_holds_none() -> None:
    assert STARTING.record is not None
    whole = replace(STARTING, record=replace(STARTING.record, starts_alone=False))
    for pod in (
        READY,
        replace(READY, ready=False),
        replace(STARTING, phase=PodPhase.FAILED),
        whole,
        replace(STARTING, record=None),
    ):
        assert Turns(pods=(pod,), ending=()).take(HERE) is None
    alone = Placement(node="n", share=Exclusive(resource="nvidia.com/gpu", memory_bytes=GIB))
    assert Turns(pods=(STARTING,), ending=()).take(alone) is None


def test_an_end_waits_while_a_neighbour_starts() -> None:
    other = replace(STARTING, key=Key("other", STARTING.key.name), uid="other")
    assert not Turns(pods=(STARTING, READY), ending=("ready",)).may_end(delete(READY))
    assert Turns(pods=(READY,), ending=("ready",)).may_end(delete(READY))
    assert Turns(pods=(STARTING,), ending=(STARTING.uid,)).may_end(delete(STARTING)), (
        "the one that starts may go itself"
    )
    assert not Turns(pods=(STARTING, other), ending=("other",)).may_end(delete(other)), (
        "a namesake elsewhere is a neighbour"
    )
    both = Turns(pods=(STARTING, READY), ending=("ready", STARTING.uid))
    assert both.may_end(delete(STARTING))
    assert not both.may_end(delete(READY)), "not before the one that starts has gone"


def test_ends_that_wait_for_nobody() -> None:
    assert READY.record is not None
    failed = replace(READY, phase=PodPhase.FAILED)
    whole = replace(READY, record=replace(READY.record, starts_alone=False))
    for pod in (failed, whole, replace(READY, record=None)):
        assert Turns(pods=(STARTING, pod), ending=("ready",)).may_end(delete(pod))


def test_replicas_of_whole_gpus_start_together() -> None:
    world = a_snapshot(deployments=(a_deployment("qwen", a_demand(replicas=3)),), nodes=(whole_node("n", gpus=3),))
    assert [create.name for create in creates(plan(world))] == ["qwen-0", "qwen-1", "qwen-2"]
