"""Other deployments' engines on a GPU that we share, as busy as they are measured."""

from __future__ import annotations

from dataclasses import replace

from slmpack.domain.load import LoadSample
from slmpack.domain.neighbours import Neighbours
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Demand, ModelUnknown, PodView, Rejected
from tests.support.builders import POLICY, a_deployment, a_stranger, mps_node
from tests.support.scaling import Scaled, a_load, scaled

MINE = scaled(mps_node("n"))
OTHER = scaled(mps_node("n"), name="other")


def beside(load: LoadSample | None = None, *, demand: Demand | Rejected | None = None) -> Scaled:
    """Two replicas of another deployment, of which `load` is measured, on the GPU that ours would go to."""
    theirs = OTHER.running(2)
    view = replace(theirs.view, demand=demand or theirs.demand)
    world = replace(MINE, others=(view,), strangers=(*theirs.pods, a_stranger("s", "elsewhere")))
    return replace(world, other_loads={} if load is None else {view.key: load})


def among(world: Scaled, pods: tuple[PodView, ...] | None = None) -> list[float]:
    company = Neighbours(own=world.view.key, snapshot=world.snapshot, policy=POLICY)
    return [tenant.in_flight for tenant in company.among(world.strangers if pods is None else pods)]


def test_as_busy_as_they_are_measured() -> None:
    assert among(beside(a_load(16.0, reporting=2))) == [8.0, 8.0]
    assert among(beside(a_load(0.0, reporting=2))) == []
    assert among(beside()) == [32.0, 32.0], "unknown: as busy as the knee's reference"
    assert among(beside(a_load(16.0, reporting=0))) == [32.0, 32.0]


def test_who_does_not_run_or_is_not_known_counts_as_idle() -> None:
    world = beside()
    starting = tuple(replace(pod, ready=False) for pod in world.strangers)
    assert among(world, starting) == []
    unknown = replace(OTHER.demand, model=ModelUnknown(reason=Reason.MODEL_PENDING, message="asking"))
    assert among(beside(demand=unknown)) == []
    assert among(beside(demand=Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message="no"),)))) == []
    assert among(replace(world, others=(a_deployment("third"),))) == []
    assert among(replace(MINE, strangers=MINE.running(1).pods)) == [], "our own are no neighbours"


def test_they_slow_ours() -> None:
    def capacity(world: Scaled) -> float:
        both = replace(world, pods=MINE.running(1).pods).with_state(1, busy=world.now).under(1.0)
        return next(it.value for it in both.decide().figures if it.name == "capacity")

    assert capacity(beside(a_load(128.0, reporting=2))) < 0.97 * capacity(beside(a_load(0.0, reporting=2)))
