"""The real clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["SystemClock"]


class SystemClock:
    """`ports.Clock`."""

    def now(self) -> datetime:
        """The present, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - this is the clock that is passed in

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()
