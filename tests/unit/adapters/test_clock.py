"""Our clock may be wrong; the API server's timestamps are what budgets are measured against."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from slmpack.adapters.clock import SystemClock


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - what the clock is compared with


@pytest.mark.parametrize("minutes", [15, -15])
def test_it_follows_the_api_servers_date(minutes: int) -> None:
    clock = SystemClock()
    theirs = _now() + timedelta(minutes=minutes)
    clock.agree_with(format_datetime(theirs, usegmt=True))
    assert abs(clock.now() - theirs) < timedelta(seconds=5)


@pytest.mark.parametrize("date", ["", "yesterday", None])
def test_nothing_readable_or_nothing_different_changes_nothing(date: str | None) -> None:
    clock = SystemClock()
    clock.agree_with(format_datetime(_now(), usegmt=True) if date is None else date)
    assert abs(clock.now() - _now()) < timedelta(seconds=1)
