"""Energy of a board: what its engines use of the catalogue"s peaks, as domain/power.py turns it into watts."""

from __future__ import annotations

import numpy as np

from slmpack.simulate.jit import inner

__all__ = ["close_window", "count_power"]

_WINDOW_S = 1.0
"""Over which power is averaged before the board"s limit bounds it."""


@inner
def count_power(board: np.void, now: float) -> None:
    """Counts what the GPU did until now, at the rates that held."""
    passed = now - board["at"]
    board["at"] = now
    if passed <= 0.0:
        return
    if board["engines"] > 0:
        board["used"] += passed
    if board["working"] > 0:
        board["worked"] += passed
        board["busy"] += passed
        board["memory"] += board["memory_rate"] * passed
        board["compute"] += board["compute_rate"] * passed
    if now - board["since"] >= _WINDOW_S:
        close_window(board, now)


@inner
def close_window(board: np.void, now: float) -> None:
    """Ends a window: its watts by domain/power.py."""
    length, busy = now - board["since"], board["busy"]
    if length <= 0.0:
        return
    resting = board["loaded_w"] if board["engines"] > 0 else board["empty_w"]
    watts = resting
    if busy > 0.0:
        memory = min(1.0, board["memory"] / busy)
        working = board["active_w"] + board["memory_w"] * memory + board["compute_w"] * board["compute"] / busy
        working = max(board["least_w"], min(working, board["tdp_w"]))
        watts = resting + busy / length * (working - resting)
    board["watts"] = watts
    board["joules"] += watts * length
    board["since"] = now
    board["memory"] = board["compute"] = board["busy"] = 0.0
