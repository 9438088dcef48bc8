"""The tables of docs/dashboards.md: panels, and the operator's own series."""

from __future__ import annotations

import re
from collections.abc import Sequence

from monitoring.dashboards.spec import Board
from slmpack.adapters.telemetry import PrometheusTelemetry

__all__ = ["BEGIN", "END", "placed"]

BEGIN = "<!-- written by `python -m monitoring.dashboards` -->"
END = "<!-- until here -->"
PART = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)


def placed(page: str, boards: Sequence[Board]) -> str:
    """The page with its tables written anew. ValueError where it has no place for them."""
    if not PART.search(page):
        raise ValueError(f"docs/dashboards.md: has no lines {BEGIN!r} and {END!r}, between which its tables belong")
    written = "\n".join((*(line for board in boards for line in _board(board)), *_series()))
    return PART.sub(lambda _: f"{BEGIN}\n{written}\n{END}", page)


def _board(board: Board) -> list[str]:
    lines = ["", f"## {board.title}", "", board.says, ""]
    chosen = ", ".join(f"`{it.name}` ({it.says.removesuffix('.')})" for it in board.variables)
    lines += [f"uid `{board.uid}`. To choose from: {chosen}.", ""]
    for mark in board.marks:
        lines += [f"Marked in every panel: {mark.name}, {mark.title}.", ""]
    for row in board.rows:
        lines += [f"### {row.title}", "", "| panel | shows | what to do |", "|---|---|---|"]
        lines += [f"| {panel.title} | {_cell(panel.says)} | {_cell(panel.do)} |" for panel in row.panels]
        lines.append("")
    return lines


def _series() -> list[str]:
    """What the operator exposes, in its own words."""
    said = re.findall(
        r"^# HELP (slmpack_\S+) (.+)\n# TYPE \S+ (\S+)$", PrometheusTelemetry().text().decode(), re.MULTILINE
    )
    lines = [
        "## Series of the operator",
        "",
        "On `/metrics` of its port `http`.",
        "",
        "| series | kind | says |",
        "|---|---|---|",
    ]
    told = (it for it in sorted(said) if not it[0].endswith("_created"))
    return [*lines, *(f"| `{name}` | {kind} | {_cell(words)} |" for name, words, kind in told), ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
