"""What nvidia-cuda-mps-control says, parsed."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

__all__ = ["FAULT", "MpsView", "ServerView", "parse_pids"]

FAULT = "FAULT"
"""A client's fatal fault; the server takes no new client until all have left (NVIDIA's MPS documentation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One MPS server: get_server_status and get_client_list."""

    pid: int
    status: str
    clients: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsView:
    """All servers of the daemon; `asked_at` is when the question was begun, in the supervisor's seconds."""

    asked_at: float
    servers: tuple[ServerView, ...]

    def server_of(self, pids: AbstractSet[int]) -> int | None:
        """The first server that has one of these processes among its clients."""
        return next((server.pid for server in self.servers if server.clients & pids), None)

    def fault(self) -> str:
        """Which server has failed; empty if none."""
        for server in self.servers:
            if server.status == FAULT:
                return f"MPS server {server.pid} is in state FAULT: a fatal fault of one client reached all of them"
        return ""


def parse_pids(text: str) -> tuple[int, ...]:
    """The process ids, one a line; other lines are remarks."""
    return tuple(int(line) for line in text.split() if line.isdecimal())
