"""What a child does before it becomes the program it was started for.

A small program of its own and no `preexec_fn`, which would run Python between fork and exec beside other threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["adopt_orphans", "become", "die_with"]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""


def adopt_orphans() -> None:
    """Make this process the parent of its descendants' orphans, as PID 1 is anyway. OSError if the kernel refuses."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Be killed when the parent ends; end at once if it is no longer `parent`. Kept across exec."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def become(command: Sequence[str], *, parent: int, cores: Sequence[int]) -> int:
    """Replace this process by `command`, pinned to `cores` if there are any; 127 or 126 if it cannot be started."""
    die_with(parent)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
