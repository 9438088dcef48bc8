"""Write the dashboards' JSON into the chart, and their tables into the documentation."""

from __future__ import annotations

from pathlib import Path

from monitoring.dashboards.boards import BOARDS, FOLDER
from monitoring.dashboards.build import as_json
from monitoring.dashboards.page import placed

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Nothing but what the tests compare byte by byte."""
    folder = ROOT / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (folder / f"{board.uid}.json").write_text(as_json(board))
    page = ROOT / "docs" / "dashboards.md"
    page.write_text(placed(page.read_text(), BOARDS))


if __name__ == "__main__":
    main()
