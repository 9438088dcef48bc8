"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["FakeClock"]

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """`ports.Clock`."""

    def __init__(self) -> None:
        self._seconds = 1000.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds
