"""What every test shares: how hypothesis runs, and the option that rewrites golden files."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.support.golden import Golden

# In CI the same examples each time: coverage is enforced there, and luck is no reason for red.
settings.register_profile("slmpack", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("slmpack")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/data/golden from what the code makes now"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares manifests with the files in tests/data/golden."""
    return Golden(update=request.config.getoption("--update-golden"))
