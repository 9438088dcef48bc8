"""An event loop whose clock jumps to the next timer instead of waiting: seconds of sleep take no time and have no noise.

Only for programs whose sockets all end in the same loop: what one side has sent on loopback is there for the other at
once, so nothing is on its way while the clock jumps.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from typing_extensions import override

__all__ = ["run_in_virtual_time"]

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait: says how long it should have waited."""

    slept = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(5)  # nothing is planned: only a signal or a bug ends this
        ready = super().select(0)
        if not ready and timeout > 0:
            self.slept += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        return self._jumping.slept


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)
