"""What is learned of the replicas: how much slower than modelled they are, by their latency and by late requests.

The mean latency of a batch corrects the model at once, and is forgotten no faster than step by step: between two bursts
nothing is measured, and the next one is no faster. Bursts, mixed lengths and random routing make requests late of which
a mean knows nothing; so late requests correct it, too, a step for each window of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slmpack.domain.capacity import rounded
from slmpack.domain.load import LATE, LoadSample
from slmpack.domain.scale_decision import Figure, ScaleState
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.workload import Bounds

__all__ = ["Missed", "learned", "missed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """The part of the requests that miss a bound, of the bound that most miss."""

    part: float
    """0 to 1, over LATE; an estimate within a bucket of the histogram."""
    requests: float
    """All that were counted."""
    words: str
    """Which bound."""

    @property
    def figure(self) -> Figure:
        """For people."""
        return Figure(name="late", value=self.part, unit="")

    def alarming(self, policy: ScalePolicy) -> bool:
        """More than may be late, and no matter of one or two requests."""
        return self.part >= policy.late_part and self.part * self.requests >= policy.least_late

    def slight(self, policy: ScalePolicy) -> bool:
        """So few that replicas may be as fast as their mean latency says."""
        return self.part < policy.late_part * policy.slight_part

    def surely_slight(self, policy: ScalePolicy) -> bool:
        """The same, of enough requests to say so."""
        return self.slight(policy) and self.requests * policy.late_part >= policy.least_late


def missed(sample: LoadSample, bounds: Bounds, policy: ScalePolicy) -> Missed | None:
    """What is known of it; None: nothing, or no bound is stated."""
    found = []
    for of, bound_s, words in (
        (sample.ttft_of, bounds.ttft_s, "a first token after {:g} s"),
        (sample.tpot_of, bounds.itl_s, "{:g} s a token"),
    ):
        part = None if of is None or bound_s is None else of.over(bound_s)
        if of is not None and bound_s is not None and part is not None:
            found.append(Missed(part=part, requests=of.requests, words=words.format(bound_s)))
    return max(found, key=lambda each: (each.alarming(policy), each.part), default=None)


def learned(  # noqa: PLR0913 - what it is learned from
    state: ScaleState,
    measured: float | None,
    late: Missed | None,
    *,
    overloaded: bool,
    now: datetime,
    policy: ScalePolicy,
) -> ScaleState:
    """What status remembers from now on.

    `measured`: latency over the modelled one, of a batch; None: not to be compared now. `late`: of replicas that have
    answered for as long as that window is; None: not known. `overloaded`: they are believed to carry less than they
    should, so that requests are late of replicas that are as fast as believed.
    """
    known = state.correction
    age = timedelta.max if state.corrected is None else now - state.corrected
    teaches = late is not None and late.alarming(policy) and not overloaded
    if teaches and age >= LATE:  # later than the last step, so not of before it
        return _with(state, max(known or 1.0, measured or 1.0, 1.0) * policy.late_step, now, policy)
    if known is None:
        return state if measured is None else _with(state, measured, now, policy)
    if measured is not None and measured > known and age >= timedelta(seconds=policy.scrape_s - 1.0):
        return _with(state, min(measured, known * policy.mix_step), now, policy)
    if measured is None and late is not None and late.surely_slight(policy):
        measured = min(known, 1.0)  # hardly a batch, and all in time: as fast as modelled
    eased = age >= timedelta(seconds=policy.ease_s) and (late is None or late.slight(policy))
    if measured is not None and measured < known and eased:
        return _with(state, max(measured, known / policy.mix_step), now, policy)
    return state


def _with(state: ScaleState, correction: float, now: datetime, policy: ScalePolicy) -> ScaleState:
    """On the steps of the grid, so that status changes no more often than it says something new."""
    value = policy.bounded(round(rounded(correction, policy.mix_step), 4))
    return state if value == state.correction else replace(state, correction=value, corrected=now)
