"""A bug met while one SLMDeployment was served: it becomes that one's problem, and the others are served."""

from __future__ import annotations

from slmpack.domain.reasons import Problem, Reason

__all__ = ["internal_problem"]

SHOWN_MAX = 300
"""Characters of the error that the message repeats; the log has all of it."""


def internal_problem(error: Exception, *, during: str) -> Problem:
    """The problem for status; `during` says what was being done, such as "rendering the pod"."""
    shown = f"{type(error).__name__}: {error}"[:SHOWN_MAX]
    message = f"a bug of slmpack, while {during}: {shown}; please report it with the operator's log"
    return Problem(reason=Reason.INTERNAL, message=message)
