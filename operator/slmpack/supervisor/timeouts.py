"""Time limits for coroutines.

Not `asyncio.wait_for`: before Python 3.12 it may swallow a cancellation that comes as its work ends, and a loop that
was cancelled then goes on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["TooLateError", "pause", "within"]

T = TypeVar("T")


class TooLateError(Exception):
    """The work was not done in time and was cancelled."""


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. TooLateError after `seconds`."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TooLateError(f"not done in {seconds:g} s")
        return task.result()
    finally:
        task.cancel()


async def pause(seconds: float, *, until: asyncio.Event) -> None:
    """Wait for the event, at most `seconds`; it is set afterwards."""
    handle = asyncio.get_running_loop().call_later(seconds, until.set)
    try:
        await until.wait()
    finally:
        handle.cancel()
