"""Links of the pages lead to files that are there, and to headings that they have."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
INDEX = "docs/README.md"


@cache
def anchors(path: Path) -> frozenset[str]:
    """The headings of a page as GitHub names them."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    names = (re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text))
    return frozenset(names)


def links(page: str) -> list[str]:
    return LINK.findall(FENCED.sub("", (ROOT / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def test_the_index_has_every_page() -> None:
    linked = {link.partition("#")[0] for link in links(INDEX)}
    assert [page for page in pages() if page.startswith("docs/") and page != INDEX and page[5:] not in linked] == []


def test_headings_are_named_as_github_does() -> None:
    assert {"from-an-accepted-slmdeployment-to-its-first-pod", "co-location"} <= anchors(ROOT / "docs/benchmarks.md")
