"""Names and messages of others, as a terminal may have them."""

from __future__ import annotations

from slmpack.page.markup import printable

__all__ = ["one_line"]

_BREAKS = str.maketrans(dict.fromkeys("\n\t\u2028\u2029", " "))


def one_line(words: str) -> str:
    """Without what would steer a terminal or begin a line: breaks are blanks, the rest is as on the page."""
    return printable(words).translate(_BREAKS)
