"""The last replica, while no request comes: whether it stays depends on who else keeps its GPU on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import ScaleState, ScalingSpec
from slmpack.domain.snapshot import DeploymentView, PodPhase, PodView, Rejected
from tests.support.builders import NOW, a_demand, a_deployment, a_stranger, mps_node
from tests.support.scaling import Scaled, a_load, scaled

NODE = mps_node("n0")
IDLE_FOR = timedelta(seconds=601)


def quiet(*, running: int = 1, spec: ScalingSpec | None = None) -> Scaled:
    """May go to zero, and has had no request for as long as that takes."""
    world = scaled(NODE, least=0, spec=spec).running(running)
    world = replace(world, load=a_load(0.0, reporting=running))
    return world.with_state(running, busy=NOW - IDLE_FOR)


def theirs(
    *, least: int = 1, idle: timedelta = timedelta(0), running: int = 1
) -> tuple[DeploymentView, tuple[PodView, ...]]:
    """Another deployment on the same node, that saw its last request so long ago."""
    world = scaled(NODE, least=least, name="other").running(running)
    return replace(world.view, scale=ScaleState(desired=running, busy=NOW - idle)), world.pods


def beside(view: DeploymentView, pods: tuple[PodView, ...], *, mine: Scaled | None = None) -> Scaled:
    return replace(mine or quiet(), others=(view,), strangers=pods)


def test_alone_the_last_one_ends() -> None:
    decision = quiet().decide()
    assert (decision.desired, decision.reason) == (0, Reason.IDLE)


def test_where_its_gpu_stays_on_for_others_it_stays() -> None:
    decision = beside(*theirs()).decide()
    assert (decision.desired, decision.reason) == (1, Reason.STEADY)
    assert decision.message == (
        "no request for 600 s: 1 replica is kept, as its GPU on n0 stays on for others, and shares are free: nothing would "
        "be saved"
    )


def test_a_stranger_keeps_a_gpu_on_as_well() -> None:
    world = replace(quiet(), strangers=(a_stranger("s", "n0"),))
    assert world.decide().reason is Reason.STEADY


def test_who_says_when_is_obeyed() -> None:
    spec = ScalingSpec(least=0, most=16, idle_asked=True)
    assert beside(*theirs(), mine=quiet(spec=spec)).decide().desired == 0


def test_two_that_are_idle_do_not_keep_each_other() -> None:
    assert beside(*theirs(least=0, idle=IDLE_FOR)).decide().desired == 0
    assert beside(*theirs(least=0, idle=timedelta(seconds=599))).decide().desired == 1
    assert beside(*theirs(least=1, idle=IDLE_FOR)).decide().desired == 1


def test_one_that_does_not_scale_or_is_not_understood_keeps_a_gpu_on() -> None:
    view, pods = theirs()
    fixed = replace(a_deployment("other", a_demand(replicas=1)), uid=view.uid)
    assert beside(fixed, pods).decide().desired == 1
    odd = replace(view, demand=Rejected(problems=()))
    assert beside(odd, pods).decide().desired == 1


@pytest.mark.parametrize("change", [{"deleting": True}, {"phase": PodPhase.FAILED}, {"ended": "for a test"}])
def test_a_pod_that_ends_keeps_nothing(change: dict[str, object]) -> None:
    view, pods = theirs()
    assert beside(view, tuple(replace(pod, **change) for pod in pods)).decide().desired == 0  # type: ignore[arg-type]


def test_a_pod_whose_owner_is_gone_keeps_nothing() -> None:
    _, pods = theirs()
    assert replace(quiet(), strangers=pods).decide().desired == 0


def test_where_no_share_is_free_the_last_one_makes_room() -> None:
    view, pods = theirs(running=2)
    third, more = (
        a_deployment("third", a_demand(replicas=1)),
        tuple(replace(pod, key=replace(pod.key, name="third-0"), uid="third-0") for pod in pods[:1]),
    )
    world = beside(view, (*pods, *more))
    assert replace(world, others=(view, third)).decide().desired == 0


def test_of_several_one_is_kept_and_the_others_need_wait_for_no_window() -> None:
    decision = beside(*theirs(), mine=quiet(running=2)).decide()
    assert (decision.desired, decision.reason) == (1, Reason.IDLE)


def test_where_nobody_knows_which_gpu_a_share_is_on_none_is_kept() -> None:
    """Of several GPUs of a node ours may be alone on one, which would come free."""
    node = mps_node("n0", gpus=2)
    others = scaled(node, name="other").running(1)
    mine = scaled(node, least=0).running(1).with_state(1, busy=NOW - IDLE_FOR)
    mine = replace(mine, load=a_load(0.0), others=(others.view,), strangers=others.pods)
    assert mine.decide().desired == 0


def test_an_empty_gpu_elsewhere_is_no_free_share() -> None:
    """Another deployment would have to open it, so ours makes room where it is."""
    view, pods = theirs(running=2)
    more = tuple(replace(pod, key=replace(pod.key, name="other-9"), uid="other-9") for pod in pods[:1])
    full = beside(replace(view, scale=ScaleState(desired=3)), (*pods, *more))
    assert replace(full, nodes=(NODE, mps_node("n1"))).decide().desired == 0
    elsewhere = tuple(replace(pod, key=replace(pod.key, name="x"), uid="x", node="n1") for pod in pods[:1])
    open_too = replace(full, nodes=(NODE, mps_node("n1")), strangers=(*full.strangers, *elsewhere))
    assert open_too.decide().desired == 1


def test_while_another_lacks_replicas_none_is_kept() -> None:
    view, pods = theirs()
    assert beside(replace(view, scale=ScaleState(desired=2)), pods).decide().desired == 0
    fixed = replace(a_deployment("third", a_demand(replicas=1)), uid="uid-third")
    assert replace(beside(view, pods), others=(view, fixed)).decide().desired == 0
    odd = replace(fixed, demand=Rejected(problems=()))
    assert replace(beside(view, pods), others=(view, odd)).decide().desired == 1


def test_one_that_is_deleted_keeps_nothing_and_lacks_nothing() -> None:
    view, pods = theirs()
    assert beside(replace(view, deleting=True), pods).decide().desired == 0
    gone = replace(a_deployment("third", a_demand(replicas=3)), deleting=True)
    assert replace(beside(view, pods), others=(view, gone)).decide().desired == 1
