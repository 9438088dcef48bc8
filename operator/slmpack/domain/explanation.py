"""What `slmpack explain` says of one SLMDeployment, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.answer import Answer
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import ScaleDecision, ScaleNote
from slmpack.domain.scale_words import what_would_change
from slmpack.domain.snapshot import Demand, DeploymentView

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is said of one SLMDeployment."""

    answer: Answer
    view: DeploymentView
    """As the cluster, or the file, has it: `scale` and `scale_note` are what status says."""
    source: str | None
    ready: int
    reason: Reason
    message: str
    """Why Ready is what it is, by this plan."""
    decided: ScaleDecision | None
    """Anew, from what is measured or was given; None where nothing is, or nothing has to be decided."""

    @property
    def note(self) -> ScaleNote | None:
        """What status says of the last decision."""
        return self.view.scale_note

    @property
    def changes(self) -> tuple[str, ...]:
        """What would make it another number of replicas."""
        demand = self.view.demand
        if not isinstance(demand, Demand):
            return ("any number: the spec has to be accepted",)
        if demand.scaling is None:
            fixed = "the user says how many: change spec.replicas, or give spec.scaling in its place"
            return (*(message for _, message, _ in self.answer.reasons), fixed)
        said = self.decided or self.note
        if said is None:
            return ("any other number: the operator has not decided yet; see its log, or try --loads or --live",)
        return what_would_change(
            said.desired if isinstance(said, ScaleDecision) else self._desired,
            demand.scaling,
            figures=said.figures,
            reasons=(said.reason, *((said.refused,) if said.refused is not None else ())),
        )

    @property
    def _desired(self) -> int:
        return self.view.scale.desired if self.view.scale is not None else 0
