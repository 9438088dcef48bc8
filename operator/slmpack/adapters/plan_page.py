"""The operator's last plan as a page: made when somebody asks, in a thread, at most once for each plan and second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from slmpack import __version__
from slmpack.adapters.health import PageBytes
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.snapshot import Policy, Snapshot
from slmpack.page.document import Body, Frame, render_body, render_document
from slmpack.page.gather import gather_sheet
from slmpack.page.markup import Markup
from slmpack.ports import Clock

__all__ = ["PlanPage"]

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """A page, and what it was made of."""

    body: Body
    frame: Frame
    page: PageBytes


class PlanPage:
    """Remembers the last plan; renders it on demand."""

    def __init__(
        self,
        policy: Policy,
        *,
        refresh_seconds: int,
        clock: Clock,
        trouble: Callable[[], str],
        stands_by: Callable[[], bool],
    ) -> None:
        """`refresh_seconds`: after how long a browser asks again, unless told not to.

        `trouble`: why this operator is not ready, or empty; `stands_by`: whether that is as another one leads.
        """
        self._policy = policy
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._trouble = trouble
        self._stands_by = stands_by
        self._seen: _Seen | None = None
        self._tried: _Seen | None = None
        self._shown: _Seen | None = None
        self._failed = False
        self._body: Body = render_body(None)
        self._rendered_at: float | None = None
        self._made: dict[bool, _Made] = {}
        self._lock = asyncio.Lock()

    def see(self, plan: ClusterPlan, snapshot: Snapshot) -> None:
        """This is the last plan from now on. Takes no time."""
        self._seen = _Seen(plan=plan, snapshot=snapshot, at=self._clock.now(), monotonic=self._clock.monotonic())

    async def page(self, *, refreshes: bool) -> PageBytes:
        """The page now, the same bytes for all until a word of it changes; with `refreshes` it loads itself again."""
        async with self._lock:
            if self._is_due():
                seen = self._seen
                assert seen is not None  # noqa: S101 - what is due was seen
                await self._draw(seen)
            body, frame = self._body, self._frame(refreshes=refreshes)
            made = self._made.get(refreshes)
            if made is None or made.body is not body or made.frame != frame:
                made = _Made(body=body, frame=frame, page=await asyncio.to_thread(_encode, body, frame))
                self._made[refreshes] = made
            return made.page

    def _is_due(self) -> bool:
        if self._seen is self._tried:
            return False
        return self._rendered_at is None or self._clock.monotonic() - self._rendered_at >= LEAST_SECONDS

    async def _draw(self, seen: _Seen) -> None:
        """Once for each plan, whether it succeeds or not; the last good body stays."""
        self._tried = seen
        try:
            body = await asyncio.to_thread(self._render, seen)
        except Exception:
            logger.exception("the page of the plan of %s cannot be drawn", seen.at.isoformat())
            self._failed = True
            if self._shown is None:
                self._body = replace(self._body, html=Markup())
        else:
            self._body, self._shown, self._failed = body, seen, False
        finally:
            self._rendered_at = self._clock.monotonic()

    def _render(self, seen: _Seen) -> Body:
        return render_body(gather_sheet(seen.plan, seen.snapshot, self._policy))

    def _frame(self, *, refreshes: bool) -> Frame:
        every, shown, when = self._refresh_seconds, self._shown, "no page of a plan" if self._failed else "no plan yet"
        if shown is not None:
            age = self._clock.monotonic() - shown.monotonic
            when = f"planned {age:.0f} s ago, at {shown.at:%Y-%m-%d %H:%M:%S %Z}"
        return Frame(
            title="slmpack: the operator's last plan",
            when=when,
            warning=" ".join(filter(None, self._warnings(any_plan=shown is not None))),
            foot=FOOT,
            refresh_seconds=every if refreshes else None,
            other=("?refresh=no", "stop refreshing") if refreshes else ("?", f"refresh every {every} s"),
        )

    def _warnings(self, *, any_plan: bool) -> tuple[str, str]:
        trouble = _warning(self._trouble(), stands_by=self._stands_by(), any_plan=any_plan)
        if not self._failed:
            return trouble, ""
        below = "; below is an earlier one" if any_plan else ""
        return trouble, f"The last plan cannot be drawn{below}. That is a fault of slmpack: the operator's log has it."


def _encode(body: Body, frame: Frame) -> PageBytes:
    document = render_document(body, frame)
    return PageBytes(body=document.html.encode(errors="replace"), policy=document.policy)


def _warning(trouble: str, *, stands_by: bool, any_plan: bool) -> str:
    """Why the plan may not be what holds."""
    if not trouble:
        return ""
    below = " Below is the last plan that it made." if any_plan else ""
    if stands_by:
        return f"This operator stands by and plans nothing; another one does. {trouble}.{below}"
    return f"This operator is not ready: {trouble}.{below}"
