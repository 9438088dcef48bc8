"""What of a scale decision is news: status is written anew for that alone, while what is measured always moves.

The number, its reason, whether it is known, what limits it and the state that the next decision needs are news at once.
Other words, figures, and the number that the load alone asks for are told at most once a minute, figures only where
one moved by a tenth. So an unchanged world costs no request, and figures alone no more than one a minute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import isfinite

from slmpack.domain.interval import describe_interval
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, ScaleDecision, ScaleNote, ScaleState, ScalingSpec
from slmpack.domain.snapshot import DeploymentView

__all__ = ["Told", "frozen", "headlines", "scaling_facts", "tell"]

SELDOM = timedelta(minutes=1)
"""Between two statuses that differ in figures alone."""
MOVED = 0.1
"""A figure that moved by this part of itself is worth telling."""
IDLE_PARTS = 10
"""When a request was last seen is remembered to within this part of the time after which the last replica ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What status says of scaling."""

    state: ScaleState
    note: ScaleNote


def tell(view: DeploymentView, decision: ScaleDecision, scaling: ScalingSpec, *, now: datetime) -> Told:
    """What status is to say now: what it says already (`view.scale`, `view.scale_note`), but for news."""
    before, said = view.scale, view.scale_note
    state, note = _seconds(decision.state), _note(decision, now)
    if before is None or said is None or _is_new(before, state) or _differs(said, note):
        return Told(state=state, note=note)
    moved = said.wished != note.wished or _moved(said.figures, note.figures) or before.start_s != state.start_s
    if now - said.at >= SELDOM and (moved or _words(said) != _words(note)):
        return Told(state=state, note=note)
    busy = state.busy if _busier(before.busy, state.busy, scaling) else before.busy
    return Told(state=replace(before, busy=busy), note=said)


def frozen(view: DeploymentView) -> Told | None:
    """What status keeps while the spec is rejected: the number is not forgotten. None where nothing was decided."""
    if view.scale is None:
        return None
    note = ScaleNote(
        at=view.scale_note.at if view.scale_note is not None else view.created,
        wished=view.scale.desired,
        known=False,
        reason=Reason.FROZEN,
        message=f"{view.scale.desired} replicas are held until the spec is accepted",
    )
    return Told(state=view.scale, note=note)


def scaling_facts(note: ScaleNote) -> tuple[tuple[str, str, Reason, str], ...]:
    """ScalingActive and ScalingLimited, as a HorizontalPodAutoscaler has them: type, status, reason and message."""
    if note.reason is Reason.FROZEN:
        return tuple((kind, "Unknown", note.reason, note.message) for kind in ("ScalingActive", "ScalingLimited"))
    unlimited = "neither a bound nor power keeps the number from what the load asks for"
    limit = note.refused or (note.reason if note.reason is Reason.AT_MIN else None)
    return (
        ("ScalingActive", "True" if note.known else "False", note.reason, note.message),
        ("ScalingLimited", "True" if limit else "False", limit or note.reason, note.message if limit else unlimited),
    )


def headlines(view: DeploymentView, told: Told, decision: ScaleDecision) -> tuple[tuple[Reason, str], ...]:
    """What is worth an event beside what status said before: another number, less known, another limit."""
    was = decision.current if view.scale is None else view.scale.desired
    before, note, found = view.scale_note, told.note, {}
    if note.refused is not None and (before is None or before.refused is not note.refused):
        found[note.refused] = f"limited to {decision.desired} replicas: {decision.message}"
    if not note.known and (before is None or before.known or _words(before) != _words(note)):
        found[Reason.METRICS_UNKNOWN] = note.message
    if was != decision.desired:
        found[decision.reason] = f"from {was} to {decision.desired} replicas: {decision.message}"
    return tuple(found.items())


def _note(decision: ScaleDecision, now: datetime) -> ScaleNote:
    return ScaleNote(
        at=now.replace(microsecond=0),
        wished=decision.wished,
        known=decision.known,
        reason=decision.reason,
        message=decision.message,
        refused=decision.refused,
        power="" if decision.power_w is None else describe_interval(decision.power_w, unit="W"),
        figures=tuple(replace(it, value=float(f"{it.value:.3g}")) for it in decision.figures if isfinite(it.value)),
    )


def _seconds(state: ScaleState) -> ScaleState:
    """Moments to the second, as status has them."""
    return replace(
        state,
        changed=_second(state.changed),
        lower_since=_second(state.lower_since),
        higher_since=_second(state.higher_since),
        busy=_second(state.busy),
        corrected=_second(state.corrected),
    )


def _second(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(microsecond=0)


def _is_new(before: ScaleState, state: ScaleState) -> bool:
    """Whether the next decision would miss something."""
    return state != replace(before, busy=state.busy, start_s=state.start_s)


def _differs(said: ScaleNote, note: ScaleNote) -> bool:
    return (said.known, said.reason, said.refused) != (note.known, note.reason, note.refused)


def _words(note: ScaleNote) -> str:
    """The message without its numbers."""
    return _NUMBER.sub("", note.message)


_NUMBER = re.compile(r"\d[\d.,:e+-]*")


def _moved(before: Sequence[Figure], after: Sequence[Figure]) -> bool:
    if [figure.name for figure in before] != [figure.name for figure in after]:
        return True
    return any(
        abs(old.value - new.value) > MOVED * max(abs(old.value), abs(new.value))
        for old, new in zip(before, after, strict=True)
    )


def _busier(before: datetime | None, after: datetime | None, scaling: ScalingSpec) -> bool:
    """Whether it matters when a request was seen, and status is too far behind."""
    if scaling.least > 0 or after is None:
        return False
    return before is None or after - before >= min(SELDOM, scaling.idle / IDLE_PARTS)
