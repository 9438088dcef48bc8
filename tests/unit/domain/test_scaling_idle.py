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
        "1 replica held: no request for 600 s, but its GPU on n0 stays on for others, and shares are free: nothing would "
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


def test_of_several_the_others_end_as_ever() -> None:
    first = beside(*theirs(), mine=quiet(running=2)).decide()
    assert (first.desired, first.reason) == (2, Reason.HELD)
    assert beside(*theirs(), mine=quiet(running=2)).after(300, first).decide().desired == 1
