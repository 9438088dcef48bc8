"""What a plan says about each SLMDeployment, counted once for every way of printing it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import count

from slmpack.domain.plan import ClusterPlan, DeploymentPlan
from slmpack.domain.reasons import Problem
from slmpack.domain.snapshot import Demand, Key

__all__ = ["Answer", "answers", "with_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One SLMDeployment."""

    plan: DeploymentPlan
    wanted: int | None
    """None where the spec is rejected."""
    placed: int
    """Replicas that run, start, or have room and wait for their turn."""
    unplaced: int
    reasons: tuple[tuple[Problem, str, int], ...]
    """Why replicas are unplaced: the problem, its message with the field, and how many replicas it concerns."""

    @property
    def accepted(self) -> bool:
        """Whether the spec can be used."""
        return self.wanted is not None

    @property
    def satisfied(self) -> bool:
        """Whether every replica has a place."""
        return self.accepted and self.unplaced == 0


def answers(plan: ClusterPlan, *, asked: Collection[Key]) -> tuple[Answer, ...]:
    """The SLMDeployments that were asked about, by namespace and name."""
    return tuple(_answer(deployment) for deployment in plan.deployments if deployment.deployment.key in asked)


def with_names(plan: ClusterPlan) -> ClusterPlan:
    """The plan with a name for every block: a replica that starts later gets the lowest free number, as then."""
    taken = {block.label for bar in plan.bars for block in bar.blocks}
    taken |= {str(state.pod) for deployment in plan.deployments for state in deployment.states}
    bars = []
    for bar in plan.bars:
        blocks = []
        for block in bar.blocks:
            stem = block.label.removesuffix("*")
            name = next(label for label in (f"{stem}{n}" for n in count()) if label not in taken)
            label = name if block.state == "waiting" and block.label.endswith("-*") else block.label
            taken.add(label)
            blocks.append(replace(block, label=label))
        bars.append(replace(bar, blocks=tuple(blocks)))
    return replace(plan, bars=tuple(bars))


def _answer(plan: DeploymentPlan) -> Answer:
    demand = plan.deployment.demand
    made = sum(create.record.replicas for create in plan.creates)
    placed = sum(state.counts for state in plan.states) + made + len(plan.waiting)
    wanted = demand.replicas if isinstance(demand, Demand) else None
    if plan.deployment.deleting:
        wanted = 0
    placed -= sum(state.counts for state in plan.states if state.pod.name in plan.pending)
    placed -= sum(create.record.replicas for create in plan.creates if create.placement.pins is not None)
    if wanted is not None:  # a rollout may have one more for a while
        placed = min(placed, wanted)
    unplaced = (wanted or 0) - placed if wanted else 0
    reasons = [(problem, _message(problem), unplaced) for problem in plan.problems]
    reasons += [(entry.problem, _message(entry.problem), entry.count) for entry in plan.unplaced]
    return Answer(plan=plan, wanted=wanted, placed=placed, unplaced=unplaced, reasons=tuple(reasons))


def _message(problem: Problem) -> str:
    if not problem.field or problem.message.startswith(problem.field):
        return problem.message
    return f"{problem.field}: {problem.message}"
