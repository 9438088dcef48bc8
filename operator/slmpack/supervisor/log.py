"""Lines on the container's standard output."""

from __future__ import annotations

import sys

__all__ = ["put", "say"]


def say(text: str) -> None:
    """One line of the supervisor's own."""
    put(b"[slmpack] " + text.encode(errors="replace"))


def put(line: bytes) -> None:
    """One line, without its end; a reader that went away is no reason to fail."""
    try:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        pass
