"""One browser for all tests here, and a page that remembers whatever it complains about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.sight import Sight
from tests.support.browser import open_browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Sight]]:
    """Open an address at a width, light or dark; at the end nothing may have been complained about or asked for."""
    sights: list[Sight] = []

    def open_at(address: str, *, width: int = 1280, scheme: str = "light") -> Sight:
        sights.append(Sight.open(browser, address, width=width, scheme=scheme))
        return sights[-1]

    yield open_at
    for sight in sights:
        sight.close()
        assert sight.complaints == []
        assert [address for address in sight.asked if not address.startswith(sight.origin)] == []
