"""The answer of `slmpack estimate` for one GPU, before it is printed in any form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmpack.cli.question import Asked, Subject
from slmpack.domain.choice import Ask, BoundsNotKept
from slmpack.domain.cut import Cut
from slmpack.domain.decide import MOST_REPLICAS, Decision, decide
from slmpack.domain.engine_version import FIRST_SUPPORTED, FIRST_UNSUPPORTED
from slmpack.domain.mig import plain_profiles
from slmpack.domain.performance import Unpredictable
from slmpack.domain.snapshot import Policy

__all__ = ["DOES_NOT_FIT", "FITS", "Estimate", "estimate_on"]

FITS, DOES_NOT_FIT = 0, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The answer for one GPU."""

    asked: Asked
    subject: Subject
    ask: Ask
    decision: Decision

    @property
    def assumed(self) -> bool:
        """Whether nobody gave a load."""
        return self.ask.workload.assumed

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the figures are used."""
        found = []
        if not FIRST_SUPPORTED <= self.subject.version < FIRST_UNSUPPORTED:
            found.append(
                f"the operator does not start vLLM {self.subject.version}, only {FIRST_SUPPORTED} or later, before"
                f" {FIRST_UNSUPPORTED}; the figures are of the nearest generation that is known"
            )
        if self.left_out:
            found.append(f"{self.decision.part.cut.site.gpu.id}: {self.left_out}")
        note = self.ask.engine.model.weights_note
        return (*found, note) if note else tuple(found)

    @property
    def left_out(self) -> str:
        """Which ways to share the GPU are not compared, though nobody left them out, and why."""
        profiles = plain_profiles(self.decision.part.cut.site.gpu)
        unknown = [profile.name for profile in profiles if profile.memory_mib is None and profile.max_instances > 1]
        if self.asked.mechanism is not None or not unknown:
            return ""
        every = len(unknown) == sum(profile.max_instances > 1 for profile in profiles)
        what = "MIG" if every else f"MIG {', '.join(unknown)}"
        return f"not compared: {what}, as the memory of the instances is not in the catalogue"

    @property
    def why_nothing(self) -> str:
        """Why there is no choice."""
        choice = self.decision.choice
        if isinstance(choice, BoundsNotKept | Unpredictable):
            return choice.reason
        return self.decision.part.room.shortfall or ""

    @property
    def code(self) -> int:
        """The exit code."""
        kept = not isinstance(self.decision.choice, BoundsNotKept)
        return FITS if self.decision.part.fits and kept else DOES_NOT_FIT


def estimate_on(asked: Asked, subject: Subject, rows: Sequence[Sequence[Cut]], policy: Policy) -> Estimate:
    """The answer for one GPU that can be cut in these ways."""
    together = asked.replicas or MOST_REPLICAS
    ask = Ask(
        engine=subject.engine,
        constants=policy.performance.constants_for(subject.version),
        workload=asked.workload(subject.engine, replicas=together),
        bounds=asked.bounds,
        objective=asked.wanted_most,
        spread_over=together if asked.batch is not None and asked.replicas is None else None,
        replicas=asked.replicas,
    )
    return Estimate(asked=asked, subject=subject, ask=ask, decision=decide(ask, rows, policy=policy))
