"""HTML that is safe by construction: every string is escaped unless `tag` made it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Markup", "Styles", "isolated", "join", "printable", "scrolling", "tag", "text"]

VOID = frozenset({"meta", "link", "br", "hr", "wbr"})
_NO_CHARACTER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters, halves of surrogate pairs and noncharacters: no document may hold them."""
SUBSTITUTE = "\ufffd"


class Markup(str):
    """Escaped already."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"
"""A Markup stays as it is, any other string is escaped, None is nothing."""


def printable(words: str) -> str:
    """With a substitute for what no document may hold."""
    return _NO_CHARACTER.sub(SUBSTITUTE, words)


def text(words: str) -> Markup:
    """Any string as the page shows it, in an element or in an attribute."""
    return Markup(html.escape(printable(words), quote=True))


def join(*children: Child) -> Markup:
    """Several things one after another."""
    return Markup("".join(_flat(children)))


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Attributes: `class_` is class, `aria_label` is aria-label, a value of None or False leaves it out, True writes the
    name alone.
    """
    given = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def isolated(words: str, *, class_: str | None = None) -> Markup:
    """Somebody's name or message: its direction of writing stays its own, whatever characters it holds."""
    return tag("bdi", words, class_=class_)


def scrolling(wide: Markup, name: str) -> Markup:
    """What may be wider than the window: it scrolls by itself, by keyboard, too."""
    return tag("div", wide, class_="scroll", role="group", tabindex=0, aria_label=name)


def _attribute(key: str) -> str:
    return "viewBox" if key == "view_box" else key.rstrip("_").replace("_", "-")


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield text(child)
        elif child is not None:
            yield from _flat(child)


class Styles:
    """Widths as classes: a strict Content-Security-Policy forbids style attributes."""

    def __init__(self) -> None:
        self._widths: set[int] = set()

    def width(self, part: float) -> str:
        """The class of an element that is so wide a part of its parent, 0 to 1, to a hundredth of a percent."""
        points = round(min(1.0, max(0.0, part)) * 10_000)
        self._widths.add(points)
        return f"w{points}"

    @property
    def css(self) -> str:
        """Rules of all classes that were given out."""
        return "".join(f".w{points}{{width:{points / 100:g}%}}" for points in sorted(self._widths))
