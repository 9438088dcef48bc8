"""What the pages' commands run with: helm and the control plane, built before any test's time runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.hub import a_hub
from tests.support.binaries import BinariesError, ensure_binaries
from tests.support.helm import ensure_helm, helm_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Building takes minutes, which no test's timeout allows for. The fixtures report failures."""
    if session.config.option.collectonly or not any(HERE in item.path.parents for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for ensure in (ensure_binaries, ensure_helm):
            try:
                ensure(say=_say)
            except BinariesError as error:
                _say(f"error: {error}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@pytest.fixture(scope="session")
def helm() -> Path:
    """The program."""
    try:
        return helm_binary()
    except BinariesError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def hub() -> Iterator[str]:
    """The address of a Hub."""
    with a_hub() as address:
        yield address
