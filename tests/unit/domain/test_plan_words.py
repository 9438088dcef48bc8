"""Sentences about a plan, and what is counted for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.answer import answers
from slmpack.domain.plan import SetEngines
from slmpack.domain.plan_words import ends_of, offers_of, unknown_model
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Key, ModelUnknown, Rejected
from tests.support.builders import a_demand, a_deployment, a_pod, a_snapshot, creates, mps_node, plan, whole_node

QWEN = Key("llm", "qwen")
ALL = frozenset({QWEN})


def test_a_deployment_that_is_deleted_wants_none() -> None:
    world = a_snapshot(deployments=(a_deployment("qwen", deleting=True),), nodes=(whole_node("n"),))
    (answer,) = answers(plan(world), asked=ALL)
    assert (answer.wanted, answer.placed, answer.unplaced, answer.satisfied) == (0, 0, 0, True)


def test_a_pod_that_would_end_is_said_with_its_reason() -> None:
    view = a_deployment("qwen", a_demand(replicas=1, mode=Mode.EXCLUSIVE))
    world = a_snapshot(deployments=(view,), nodes=(whole_node("n"),))
    (create,) = creates(plan(world))
    fewer = replace(view, demand=a_demand(replicas=0, mode=Mode.EXCLUSIVE))
    made = plan(replace(world, deployments=(fewer,), pods=(a_pod(create, ready=True),)))
    (line,) = ends_of(made, ALL)
    assert line.startswith("llm/qwen-0 would end now: ScaledDown: ")
    assert list(ends_of(made, frozenset())) == []


def test_a_rollout_is_said() -> None:
    view = a_deployment("qwen", a_demand(replicas=1, mode=Mode.EXCLUSIVE))
    world = a_snapshot(deployments=(view,), nodes=(whole_node("n", gpus=2),))
    (create,) = creates(plan(world))
    newer = replace(view, demand=a_demand(replicas=1, mode=Mode.EXCLUSIVE, spec_hash="spec-b"))
    made = plan(replace(world, deployments=(newer,), pods=(a_pod(create, ready=True),)))
    assert next(ends_of(made, ALL)).startswith("llm/qwen: RollingOut: ")


@pytest.mark.parametrize(("running", "words"), [((0,), "run engine 0"), ((0, 2), "run engines 0, 2")])
def test_engines_of_a_pack_are_named(running: tuple[int, ...], words: str) -> None:
    action = SetEngines(
        pod=Key("llm", "qwen-0"),
        uid="u",
        deployment=QWEN,
        running=running,
        recorded=True,
        problem=Problem(reason=Reason.SCALED_DOWN, message="why"),
    )
    assert list(ends_of(replace(plan(a_snapshot()), actions=(action,)), ALL)) == [
        f"llm/qwen-0 would {words} now: ScaledDown: why"
    ]


def test_many_nodes_are_counted() -> None:
    nodes = tuple(whole_node(f"n{number}") for number in range(7))
    world = a_snapshot(deployments=(a_deployment("qwen", a_demand(replicas=7, mode=Mode.EXCLUSIVE)),), nodes=nodes)
    (answer,) = answers(plan(world), asked=ALL)
    assert offers_of(answer) == ["7 x Exclusive of 22.03 GiB, on n0, n1, n2, n3, n4 and 2 more"]


def test_what_is_not_known_of_a_model_is_said_while_its_replicas_run() -> None:
    view = a_deployment("qwen", a_demand(replicas=2, mode=Mode.MPS))
    world = a_snapshot(deployments=(view,), nodes=(mps_node("n"),))
    (create, *_) = creates(plan(world))
    (known,) = answers(plan(world), asked=ALL)
    assert unknown_model(known) == ""
    assert offers_of(known)[-1].endswith("fit and pay on one GPU")
    missing = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="why")
    demand = a_demand(replicas=2, mode=Mode.MPS)
    later = replace(view, demand=replace(demand, model=missing))
    (answer,) = answers(plan(replace(world, deployments=(later,), pods=(a_pod(create, ready=True),))), asked=ALL)
    assert unknown_model(answer).endswith("the least that would do. ModelUnavailable: why")
    assert offers_of(answer)[-1] == "4 fit on one GPU, how many pay is not known"
    (nowhere,) = answers(plan(replace(world, deployments=(later,))), asked=ALL)
    assert unknown_model(nowhere) == "", "that is why there is no place"
    short = replace(later, demand=replace(demand, model=missing, replicas=9))
    (both,) = answers(plan(replace(world, deployments=(short,), pods=(a_pod(create, ready=True),))), asked=ALL)
    assert both.unplaced
    assert unknown_model(both)
    told = replace(both, reasons=((Problem(reason=Reason.MODEL_UNAVAILABLE, message="why"), "why", 1),))
    assert unknown_model(told) == "", "said already"
    rejected = replace(view, demand=Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message="no"),)))
    (none,) = answers(plan(replace(world, deployments=(rejected,))), asked=ALL)
    assert unknown_model(none) == ""


def test_a_number_that_the_user_states_is_said_to_be_that() -> None:
    view = a_deployment("qwen", a_demand(replicas=2, mode=Mode.MPS, max_per_gpu=2))
    (answer,) = answers(plan(a_snapshot(deployments=(view,), nodes=(mps_node("n"),))), asked=ALL)
    assert offers_of(answer)[-1] == "2 on one GPU, as maxPerGPU asks"
