"""Where the commands' text goes: nothing is guessed at in it, and no line ends in blanks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment
from typing_extensions import override

__all__ = ["printer"]


def printer(file: IO[str] | None = None) -> Console:
    """A console on standard output, or on another file."""
    console = Console(file=file or sys.stdout, highlight=False, emoji=False, markup=False)
    console.push_render_hook(_Trimming())
    return console


class _Trimming(RenderHook):
    @override
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Trimmed(renderable) for renderable in renderables]


@dataclass(frozen=True, slots=True)
class _Trimmed:
    """Paddings, tables and wrapped words fill their lines up: what is copied from them would carry the blanks."""

    inner: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.inner, options, pad=False):
            yield from _without_blanks(line)
            yield Segment.line()


def _without_blanks(line: Sequence[Segment]) -> list[Segment]:
    kept = list(line)
    while kept:
        text, style, control = kept.pop()
        if control or text.rstrip(" "):
            kept.append(Segment(text if control else text.rstrip(" "), style, control))
            break
    return kept
