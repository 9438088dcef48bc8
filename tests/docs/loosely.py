"""Compare what a page shows with what was printed: exactly but for spaces, or loosely where a cluster prints."""

from __future__ import annotations

import re
from difflib import unified_diff

__all__ = ["difference"]

ANY_LINES = re.compile(r"^\s*(\.\.\.|…)\s*$")
SPACES = re.compile(r"\s+")
AGE = re.compile(r"\b(\d+[dhms])+\b")
NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")
NAME_SUFFIX = re.compile(r"-[0-9a-f]{8,10}-[a-z0-9]{5}\b")


def difference(expected: str, printed: str, *, loose: bool) -> str:
    """Empty where they agree; else the difference, for people.

    A line `...` stands for any lines, `...` within a line for any text. With `loose`, ages and numbers agree with any,
    and a Deployment's pod with any of its pods.
    """
    pattern = [_line(line, loose=loose) for line in expected.strip("\n").splitlines()]
    lines = [_line(line, loose=loose) for line in printed.strip("\n").splitlines()]
    if _agree(pattern, lines):
        return ""
    return "\n".join(unified_diff(pattern, lines, "the page", "printed", lineterm="", n=2))


def _line(text: str, *, loose: bool) -> str:
    text = SPACES.sub(" ", text).strip()
    if loose and not ANY_LINES.match(text):
        text = NAME_SUFFIX.sub("-POD", text)
        text = NUMBER.sub("#", AGE.sub("#", text))
    return text


def _agree(pattern: list[str], lines: list[str]) -> bool:
    if not pattern:
        return not lines
    if ANY_LINES.match(pattern[0]):
        return any(_agree(pattern[1:], lines[skipped:]) for skipped in range(len(lines) + 1))
    return bool(lines) and _same(pattern[0], lines[0]) and _agree(pattern[1:], lines[1:])


def _same(pattern: str, line: str) -> bool:
    if "..." not in pattern and "…" not in pattern:
        return pattern == line
    parts = re.split(r"\.\.\.|…", pattern)
    return re.fullmatch(".*".join(map(re.escape, parts)), line) is not None
