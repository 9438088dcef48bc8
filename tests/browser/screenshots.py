"""`python -m tests.browser.screenshots`: the pictures of docs/page.md, of what the examples plan to."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.browser import open_browser

__all__ = ["EXAMPLE", "main"]

ROOT = Path(__file__).parents[2]
EXAMPLE = (
    *("-f", "examples/nodes/a100-h100-l4.yaml"),
    *("-f", "examples/scaling/chat.yaml", "--loads", "examples/scaling/loads/chat.yaml"),
    *("-f", "examples/mig.yaml", "-f", "examples/mps.yaml", "-f", "examples/exclusive.yaml"),
    *("-f", "examples/page/drafts.yaml"),
)
"""As docs/page.md has it."""
SHOTS = (
    ("page-light", 1440, 1560, "light"),
    ("page-dark", 1440, 1560, "dark"),
    ("page-narrow", 400, 1500, "light"),
)
"""Name, width and height in CSS pixels, colour scheme."""


def main() -> None:
    """Write docs/images/page-*.png."""
    folder = ROOT / "docs/images"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, open_browser() as browser:
        path = Path(temporary) / "plan.html"
        command = [sys.executable, "-m", "slmpack", "plan", *EXAMPLE, "--html", str(path)]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)  # 2: two replicas have no place
        for name, width, height, scheme in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(path.as_uri())
            page.screenshot(path=folder / f"{name}.png")
            page.close()


if __name__ == "__main__":
    main()
