"""One real control plane for all tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.binaries import BinariesError, ensure_binaries
from tests.support.control_plane import ControlPlane, StartError
from tests.support.helm import ensure_helm
from tests.support.prometheus import ensure_prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before any test runs: it takes minutes, which no test's timeout allows for. The fixture reports failures."""
    if session.config.option.collectonly or not any(HERE in item.path.parents for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for ensure in (ensure_binaries, ensure_prometheus, ensure_helm):
            try:
                ensure(say=_say)
            except BinariesError as error:
                _say(f"error: {error}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The running control plane. Make a namespace a test with `new_namespace`."""
    try:
        with ControlPlane.start() as running:
            yield running
    except (BinariesError, StartError) as error:
        pytest.fail(str(error), pytrace=False)
