"""Which cores an engine gets."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

__all__ = ["split_cores"]


def split_cores(*, allowed: AbstractSet[int], machine: int, engines: int) -> tuple[tuple[int, ...], ...] | None:
    """Disjoint cores for each engine, as even as can be; None where the container shares the machine's cores.

    A mask smaller than the machine means that the kubelet's static CPU manager gave these cores to us alone. Without
    it, pinning would only forbid engines the cores that are idle.
    """
    if len(allowed) >= machine or len(allowed) < engines:
        return None
    cores = sorted(allowed)
    bounds = [index * len(cores) // engines for index in range(engines + 1)]
    return tuple(tuple(cores[bounds[index] : bounds[index + 1]]) for index in range(engines))
