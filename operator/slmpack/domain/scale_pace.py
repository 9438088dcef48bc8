"""How fast the number of replicas may change: windows and steps of spec.scaling, and what status has to remember.

Ends that are regretted soon after teach patience: the next ones wait longer, at most for hours. With fast starts a
mistake costs little, and little is learned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slmpack.domain.scale_decision import ScaleState, ScalingSpec
from slmpack.domain.scale_policy import ScalePolicy

__all__ = ["Paced", "pace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """The number that is wanted from now on."""

    desired: int
    state: ScaleState
    waits: timedelta | None
    """For how long at least a change is held back; None: none is."""


def pace(  # noqa: PLR0913 - what a change depends on
    target: int,
    state: ScaleState,
    scaling: ScalingSpec,
    *,
    certain: int,
    current: int,
    needed: bool,
    now: datetime,
    late: float,
    policy: ScalePolicy,
) -> Paced:
    """Let `target`, another number than `current`, become the number as fast as the spec allows.

    `needed`: a rise is one that the load asks for, and not only what fills an open GPU; a mistake is taken back by
    such a one alone. `certain`: down to which no mistake of before holds an end back; no less than a lower target.
    `late`: how late a start is for a burst, 0 to 1.
    """
    if target > current:
        since = state.higher_since or now
        left = scaling.up.stabilisation - (now - since)
        if left > timedelta(0):
            return Paced(desired=current, state=replace(state, higher_since=since, lower_since=None), waits=left)
        desired = _stepped(target, current, scaling.up.most_step)
        learned = replace(state, hold_s=_learned(state, now, policy)) if needed else state
        return Paced(desired=desired, state=_changed(learned, desired, now, went_up=True), waits=None)
    since = state.lower_since or now
    window = max(scaling.down.stabilisation, timedelta(seconds=(state.hold_s or 0.0) * late**2))
    least = max(
        scaling.down.stabilisation - (now - since),
        _settling(state, scaling, late, policy) - (now - (state.changed or since)),
    )
    left = max(window - (now - since), least)
    if left > least and certain < current:
        target, left = certain, least
    if left > timedelta(0):
        return Paced(desired=current, state=replace(state, lower_since=since, higher_since=None), waits=left)
    desired = _stepped(target, current, scaling.down.most_step)
    return Paced(desired=desired, state=_changed(state, desired, now, went_up=False), waits=None)


def _settling(state: ScaleState, scaling: ScalingSpec, late: float, policy: ScalePolicy) -> timedelta:
    """How long a rise is left alone; not where the user wants no wait at all."""
    if not state.went_up or scaling.down.stabilisation <= timedelta(0):
        return timedelta(0)
    return timedelta(seconds=policy.settle_s * late)


def _learned(state: ScaleState, now: datetime, policy: ScalePolicy) -> float | None:
    """The wait before the next end, at a rise: long if it takes an end back, shorter after an end that lasted."""
    if state.changed is None or state.went_up:
        return state.hold_s
    if now - state.changed <= timedelta(seconds=policy.regret_s):
        return policy.hold_s
    after = round((state.hold_s or 0.0) / policy.patience)
    return float(after) if after >= policy.least_hold_s else None


def _stepped(target: int, current: int, most: int | None) -> int:
    if most is None:
        return target
    return min(target, current + most) if target > current else max(target, current - most)


def _changed(state: ScaleState, desired: int, now: datetime, *, went_up: bool) -> ScaleState:
    return replace(state, desired=desired, changed=now, went_up=went_up, lower_since=None, higher_since=None)
