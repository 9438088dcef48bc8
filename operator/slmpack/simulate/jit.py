"""Compiles the inner loop where numba is installed; without it the same functions run as plain Python."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

__all__ = ["COMPILED", "compiled", "inner", "whole"]

P = ParamSpec("P")
T = TypeVar("T")

COMPILED = find_spec("numba") is not None
"""NUMBA_DISABLE_JIT=1 runs plain Python all the same."""

_HERE = Path(__file__).parent
_SOURCES = ("batching", "jit", "kernel", "metering", "pacing", "state", "tokens", "waiting")

whole = cast("Callable[[int], int]", np.int64)
"""A number that numba does not take for a constant: it compiles a function once for each constant it is given."""

_numba: Any = import_module("numba") if COMPILED else None


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """The function, compiled at its first call and kept on disk; numbers are the same either way."""
    if _numba is None:
        return function
    result: Callable[P, T] = _numba.njit(cache=True, error_model="numpy")(function)
    return result


def inner(function: Callable[P, T]) -> Callable[P, T]:
    """The same for a function that only compiled ones call: it becomes part of theirs."""
    if _numba is None:
        return function
    made = _numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    result: Callable[P, T] = made
    return result


def _forget_stale() -> None:
    """Drops compiled functions that are older than a source: numba looks at the file of the outermost one only."""
    with suppress(OSError):  # another process does the same, or the folder is not ours to change: nor are the sources
        newest = max((_HERE / f"{name}.py").stat().st_mtime for name in _SOURCES)
        for index in (_HERE / "__pycache__").glob("kernel.*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)


if COMPILED:
    _forget_stale()
