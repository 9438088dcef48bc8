"""Repack advice in status: a sentence for whose pods would move, looked for once as long as nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slmpack.controller import advice
from slmpack.controller.advice import MOST_PODS, Advisor
from slmpack.controller.status import status_of
from slmpack.domain.conditions import judge
from slmpack.domain.repack import advise_repack
from tests.support.builders import NOW, POLICY, a_stranger, plan
from tests.support.repack import spread

if TYPE_CHECKING:
    from slmpack.domain.case import World
    from slmpack.domain.plan import ClusterPlan
    from slmpack.domain.repack import Repack

SENTENCE = "moving 1 pod would free 1 GPU (about 94 W, estimated); see slmpack plan --repack"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[ClusterPlan]:
    """Every time that somebody looks for moves."""
    found: list[ClusterPlan] = []

    def counted(plan: ClusterPlan, world: World, *, tries: int) -> Repack | None:
        found.append(plan)
        return advise_repack(plan, world, tries=tries)

    monkeypatch.setattr(advice, "advise_repack", counted)
    return found


def test_status_says_what_a_move_would_free(looks: list[ClusterPlan]) -> None:
    snapshot, advisor = spread(2, 1), Advisor(POLICY)
    for _ in range(3):
        told = advisor.told(plan(snapshot), replace(snapshot, now=NOW))
        assert told.deployments[0].repack == SENTENCE
    assert len(looks) == 1
    part = told.deployments[0]
    assert status_of(part, judge(part, outcomes=(), now=NOW), product=None)["repack"] == SENTENCE


def test_a_changed_world_is_looked_at_anew(looks: list[ClusterPlan]) -> None:
    snapshot, advisor = spread(2, 1), Advisor(POLICY)
    advisor.told(plan(snapshot), snapshot)
    taken = replace(snapshot, pods=(*snapshot.pods, a_stranger("s", "n1", count=2), a_stranger("t", "n2", count=3)))
    told = advisor.told(plan(taken), taken)
    assert len(looks) == 2
    part = told.deployments[0]
    assert part.repack == ""
    assert "repack" not in status_of(part, judge(part, outcomes=(), now=NOW), product=None)


def test_nobody_looks_while_there_is_work_or_in_a_large_cluster(looks: list[ClusterPlan]) -> None:
    snapshot, advisor = spread(2, 1), Advisor(POLICY)
    short = replace(snapshot, pods=snapshot.pods[1:])
    assert advisor.told(plan(short), short) == plan(short)
    strangers = tuple(a_stranger(f"s{n}", "elsewhere") for n in range(MOST_PODS))
    large = replace(snapshot, pods=(*snapshot.pods, *strangers))
    assert advisor.told(plan(large), large) == plan(large)
    assert looks == []


def test_a_bug_in_the_advice_leaves_the_status_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(advice, "advise_repack", broken)
    snapshot = spread(2, 1)
    assert Advisor(POLICY).told(plan(snapshot), snapshot) == plan(snapshot)
