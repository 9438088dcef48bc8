"""One real control plane for all tests of this folder."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slmpack.devcluster.nodes import H100, whole_node
from tests.support.binaries import BinariesError, ensure_binaries
from tests.support.chart_pods import ChartWorld, playing_chart
from tests.support.control_plane import ControlPlane, StartError
from tests.support.helm import ensure_helm
from tests.support.prometheus import ensure_prometheus
from tests.support.releases import Releases

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


@contextmanager
def _started() -> Iterator[ControlPlane]:
    try:
        with ControlPlane.start() as running:
            yield running
    except (BinariesError, StartError) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The running control plane. Make a namespace a test with `new_namespace`."""
    with _started() as running:
        yield running


@pytest.fixture(scope="module")
def chart_world() -> Iterator[ChartWorld]:
    """A control plane of its own: releases of the chart own the CRD, which the other tests use."""
    nodes = [whole_node("chart-l4", gpus=3), whole_node("chart-h100", product=H100)]
    with _started() as running, playing_chart(running, nodes) as world:
        yield world


@pytest.fixture
def releases(chart_world: ChartWorld, tmp_path: Path) -> Iterator[Releases]:
    """Releases of one test; they and the CRD are gone afterwards."""
    made = Releases(control_plane=chart_world.control_plane, pods=chart_world.pods, folder=tmp_path)
    yield made
    made.close()
