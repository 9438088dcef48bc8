"""The installed program, and a bench for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slmpack.supervisor.install import install
from tests.support.pack_fakes.bench import PackBench


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the init container leaves for the main container."""
    return install(tmp_path_factory.mktemp("slmpack"))


@pytest.fixture
def make_bench(program: Path) -> Iterator[Callable[..., PackBench]]:
    with ExitStack() as stack:

        def make(**more: Any) -> PackBench:
            bench = PackBench(program=program, **more)
            stack.callback(bench.close)
            return bench

        yield make


@pytest.fixture
def bench(make_bench: Callable[..., PackBench]) -> PackBench:
    """Two engines, both wanted."""
    return make_bench()
