"""A headless Chromium: the distribution's own, driven by Playwright, which brings none of its own here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

__all__ = ["BrowserError", "chromium", "install_chromium", "open_browser"]

PACKAGE = "chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # the tests run as root in a container, and open pages of ours only
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--font-render-hinting=none",
)
INSTALL_SECONDS = 900


class BrowserError(Exception):
    """There is no Chromium; the message says what would help."""


def chromium() -> Path:
    """The program. Raises BrowserError."""
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    raise BrowserError(
        f"no Chromium is on PATH (looked for {', '.join(NAMES)}); install the package {PACKAGE} of your distribution, on"
        f" Debian: apt-get install {PACKAGE}"
    )


def install_chromium(*, say: Callable[[str], None]) -> Path:
    """The program, installed first where it is missing and that can be done. Raises BrowserError."""
    try:
        return chromium()
    except BrowserError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
    say(f"installing the package {PACKAGE}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGE, "fonts-dejavu-core"]):
        done = subprocess.run(
            ["apt-get", "-qq", *command],
            env=environment,
            timeout=INSTALL_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrowserError(f"apt-get {' '.join(command)} failed: {done.stderr.strip()[-400:]}")
    return chromium()


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with it. Raises BrowserError."""
    from playwright.sync_api import sync_playwright

    program = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    """`python -m tests.support.browser install`."""
    if sys.argv[1:] != ["install"]:
        sys.stderr.write("usage: python -m tests.support.browser install\n")
        return 2
    try:
        install_chromium(say=_say)
    except BrowserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
