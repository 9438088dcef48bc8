"""A pod's container as real processes, where there is a program for it: the stand-in kubelet runs and ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

__all__ = ["Program", "Programs"]


class Program(Protocol):
    """The processes of one pod's main container, over all its restarts."""

    async def run(self, publish: Callable[[bool], Awaitable[None]]) -> tuple[int, str]:
        """Start it, and tell `publish` whether it is ready; exit code and log once it has ended by itself.

        If this is cancelled, the processes go on until `stop` or `kill`.
        """
        ...

    async def stop(self, grace: float) -> int:
        """SIGTERM, and SIGKILL after `grace` seconds; the exit code."""
        ...

    def kill(self) -> None:
        """End all of its processes now."""
        ...


Programs = Callable[[dict[str, Any], str], Program | None]
"""From a pod and its address; None: there is no such program, the pod is played without one."""
