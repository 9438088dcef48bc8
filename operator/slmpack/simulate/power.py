"""Watts of one board at a time, as numbers: domain/power.py's formula on what engines move and compute in a moment."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.gpu import GpuModel
from slmpack.domain.performance_table import PowerConstants

__all__ = ["Board", "board_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Watts of a board: empty, with engines that do nothing, and what work adds."""

    empty_w: float
    """With no engine; where no source has it, the loaded idle."""
    loaded_w: float
    active_w: float
    memory_w: float
    """At the whole catalogue bandwidth."""
    compute_w: float
    """At the whole catalogue FLOP/s."""
    least_w: float
    """With work."""
    tdp_w: float


def board_of(gpu: GpuModel, constants: PowerConstants) -> Board:
    """The expected values of domain/power.py; an empty board draws the mean of the catalogue's idle_w."""
    tdp = float(gpu.tdp_w)
    fit, part = constants.fit_for(gpu.id), constants.generic
    active, memory, compute = (
        (tdp * part.active_w, tdp * part.memory_w, tdp * part.compute_w)
        if fit is None
        else (fit.active_w, fit.memory_w, fit.compute_w)
    )
    low_idle = tdp * constants.loaded_idle_share
    least, most = gpu.loaded_idle_w or (low_idle, max(low_idle, active))
    loaded = (least + most) / 2
    empty = loaded if gpu.idle_w is None else min(loaded, sum(gpu.idle_w) / 2)
    return Board(
        empty_w=empty,
        loaded_w=loaded,
        active_w=active,
        memory_w=memory,
        compute_w=compute,
        least_w=least,
        tdp_w=tdp,
    )
