"""Says what the tests of the tree leave unchecked."""

from __future__ import annotations

import shutil

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line where the images' tests ran: lint is no build."""
    reports = [it for kind in ("passed", "failed") for it in terminalreporter.stats.get(kind, ())]
    if any("test_images.py" in it.nodeid for it in reports):
        there = "" if shutil.which("buildah") else ", where buildah is installed: here it is not"
        terminalreporter.write_line(f"images were linted, not built: make test-image builds and runs them{there}")
