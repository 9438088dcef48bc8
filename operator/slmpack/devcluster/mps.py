"""The MPS control daemon of a node's device plugin, as its clients meet it.

From the device plugin's source (v0.20) and the MPS documentation: one daemon for all shared GPUs of a node. It serves
the processes of one user at a time (others wait until those are gone) and admits 48 clients to a GPU, 16 before compute
capability 7.5. When it restarts, its clients die.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CLIENTS_ON_OLD_GPUS", "CLIENTS_ON_ONE_GPU", "DAEMON_LOST", "MpsDaemon", "clients_on"]

CLIENTS_ON_ONE_GPU, CLIENTS_ON_OLD_GPUS = 48, 16
DAEMON_LOST = (
    "RuntimeError: CUDA error: the remote procedural call between the MPS server and the MPS client failed "
    "(stand-in: the node's MPS control daemon went away)\n"
)


def clients_on(labels: Mapping[str, str]) -> int:
    """How many clients the daemon admits to each GPU of a node with these labels."""
    capability = int(labels["nvidia.com/gpu.compute.major"]), int(labels["nvidia.com/gpu.compute.minor"])
    return CLIENTS_ON_ONE_GPU if capability >= (7, 5) else CLIENTS_ON_OLD_GPUS


@dataclass(slots=True, kw_only=True)
class MpsDaemon:
    """Whom it serves."""

    clients_per_gpu: int
    _users: dict[str, int] = field(default_factory=dict)
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self, pod: str, *, user: int) -> None:
        """Make a pod's process a client; it hangs while there are clients of another user."""
        while any(other != user for other in self._users.values()):
            self._left.clear()
            await self._left.wait()
        self._users[pod] = user

    def leave(self, pod: str) -> None:
        """A pod's process is gone."""
        self._users.pop(pod, None)
        self._left.set()
