"""The real clock, which follows the API server's: what it is compared with are the API server's timestamps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

__all__ = ["SystemClock"]

TOLERANCE = timedelta(seconds=5)
"""A Date header has whole seconds and took its time; less than this is no difference."""


class SystemClock:
    """`ports.Clock`."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """The present, in UTC, as the API server sees it."""
        return datetime.now(UTC) - self._ahead  # noqa: TID251 - this is the clock that is passed in

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def agree_with(self, date: str) -> None:
        """Follow the Date header of an answer; what cannot be read changes nothing."""
        try:
            theirs = parsedate_to_datetime(date)
        except ValueError:
            return
        if theirs.tzinfo is not None and abs(self.now() - theirs) > TOLERANCE:
            self._ahead += self.now() - theirs
