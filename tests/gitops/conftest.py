"""The judge is built before any test runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.gitops import ensure_judge
from tests.support.go_programs import BinariesError

HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """It takes minutes, which no test's timeout allows for. The tests report failures."""
    if session.config.option.collectonly or not any(HERE in item.path.parents for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            ensure_judge(say=lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
        except BinariesError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
