"""The operator's last plan as a page: made when somebody asks, in a thread, at most once for each plan and second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from slmpack import __version__
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.snapshot import Policy, Snapshot
from slmpack.page.document import Body, Document, Frame, render_body, render_document
from slmpack.page.gather import gather_sheet
from slmpack.ports import Clock

__all__ = ["REFRESH_SECONDS", "PlanPage"]

REFRESH_SECONDS = 15
"""As long as the loop's tick."""
LEAST_SECONDS = 1.0
"""From one rendering to the next: who asks all the time must not take the planner's processor time."""
FOOT = (
    "Read-only, and without authentication: whoever reaches this port sees these names.",
    "It shows the last plan and starts none; the watts and the memory of engines are estimates where it says so.",
    f"slmpack {__version__}: slmpack run --page",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """A plan, what it was made of, and when."""

    plan: ClusterPlan
    snapshot: Snapshot
    at: datetime
    monotonic: float


class PlanPage:
    """Remembers the last plan; renders it on demand."""

    def __init__(
        self, policy: Policy, *, clock: Clock, trouble: Callable[[], str], stands_by: Callable[[], bool]
    ) -> None:
        """`trouble`: why this operator is not ready, or empty; `stands_by`: whether that is as another one leads."""
        self._policy = policy
        self._clock = clock
        self._trouble = trouble
        self._stands_by = stands_by
        self._seen: _Seen | None = None
        self._shown: _Seen | None = None
        self._body: Body = render_body(None)
        self._rendered_at: float | None = None
        self._lock = asyncio.Lock()

    def see(self, plan: ClusterPlan, snapshot: Snapshot) -> None:
        """This is the last plan from now on. Takes no time."""
        self._seen = _Seen(plan=plan, snapshot=snapshot, at=self._clock.now(), monotonic=self._clock.monotonic())

    async def document(self, *, refreshes: bool) -> Document:
        """The page now; with `refreshes` it loads itself again."""
        async with self._lock:
            if self._is_due():
                seen = self._seen
                assert seen is not None  # noqa: S101 - what is due was seen
                self._body = await asyncio.to_thread(self._render, seen)
                self._shown, self._rendered_at = seen, self._clock.monotonic()
        return render_document(self._body, self._frame(refreshes=refreshes))

    def _is_due(self) -> bool:
        if self._seen is self._shown:
            return False
        return self._rendered_at is None or self._clock.monotonic() - self._rendered_at >= LEAST_SECONDS

    def _render(self, seen: _Seen) -> Body:
        return render_body(gather_sheet(seen.plan, seen.snapshot, self._policy))

    def _frame(self, *, refreshes: bool) -> Frame:
        shown, when = self._shown, "no plan yet"
        if shown is not None:
            age = self._clock.monotonic() - shown.monotonic
            when = f"planned {age:.0f} s ago, at {shown.at:%Y-%m-%d %H:%M:%S %Z}"
        return Frame(
            title="slmpack: the operator's last plan",
            when=when,
            warning=_warning(self._trouble(), stands_by=self._stands_by(), any_plan=shown is not None),
            foot=FOOT,
            refresh_seconds=REFRESH_SECONDS if refreshes else None,
            other=("?refresh=no", "stop refreshing") if refreshes else ("?", f"refresh every {REFRESH_SECONDS} s"),
        )


def _warning(trouble: str, *, stands_by: bool, any_plan: bool) -> str:
    """Why the plan may not be what holds."""
    if not trouble:
        return ""
    below = " Below is the last plan that it made." if any_plan else ""
    if stands_by:
        return f"This operator stands by and plans nothing; another one does. {trouble}.{below}"
    return f"This operator is not ready: {trouble}.{below}"
