"""A page as a browser shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["Sight"]

HEIGHT = 900
VIOLATIONS = """
window.__violations = [];
document.addEventListener('securitypolicyviolation', e => window.__violations.push(e.violatedDirective + ' ' + e.blockedURI));
"""
BOXES = """
selector => [...document.querySelectorAll(selector)].map(e => {
  const r = e.getBoundingClientRect();
  return {left: r.left, right: r.right, top: r.top, bottom: r.bottom, width: r.width, text: e.textContent};
})
"""


BARS = """
[...document.querySelectorAll('ul.bar')].map(bar => {
  const box = e => { const r = e.getBoundingClientRect();
    return {left: r.left, right: r.right, top: r.top, bottom: r.bottom, width: r.width, kind: e.className}; };
  return {...box(bar), room: bar.closest('ul.bars').getBoundingClientRect().width, parts: [...bar.children].map(box)};
})
"""


@dataclass(frozen=True, kw_only=True)
class Box:
    """An element of the page, in CSS pixels."""

    left: float
    right: float
    top: float
    bottom: float
    width: float
    kind: str
    """Its classes."""


@dataclass(frozen=True, kw_only=True)
class Bar(Box):
    """One GPU or slice."""

    room: float
    """The width of the list that it is in."""
    parts: tuple[Box, ...]


@dataclass
class Sight:
    """An open page, what it complained about, and what it asked for."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, address: str, *, width: int, scheme: str) -> Self:
        parts = urlsplit(address)
        page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)  # type: ignore[arg-type]
        sight = cls(page=page, origin=f"{parts.scheme}://{parts.netloc}")
        page.on("console", lambda said: sight.complaints.append(f"console {said.type}: {said.text}"))
        page.on("pageerror", lambda error: sight.complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: sight.complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: sight.asked.append(request.url))
        page.add_init_script(VIOLATIONS)
        answer = page.goto(address)
        if answer is not None and answer.status >= 400:
            sight.complaints.append(f"status {answer.status}")
        return sight

    def close(self) -> None:
        self.complaints.extend(self.page.evaluate("window.__violations"))
        self.page.close()

    def boxes(self, selector: str) -> list[dict[str, Any]]:
        """Where the elements are, in CSS pixels, with their text."""
        found: list[dict[str, Any]] = self.page.evaluate(BOXES, selector)
        return found

    def bars(self) -> list[Bar]:
        """All bars with what is in them."""
        found = self.page.evaluate(BARS)
        return [Bar(**{**bar, "parts": tuple(Box(**part) for part in bar["parts"])}) for bar in found]

    def open_all(self) -> None:
        """Unfold everything that is folded."""
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")

    @property
    def overflow(self) -> float:
        """Pixels that the document is wider than the window."""
        return float(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def colour(self, selector: str, what: str) -> tuple[int, ...]:
        """Red, green and blue of an element's style."""
        text: str = self.page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")
        return tuple(int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(","))

    def violations(self) -> list[str]:
        """What axe finds wrong, one line for each element."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{rule['id']}: {node['target']} {node['any'][:1] and node['any'][0]['message']}"
            for rule in found
            for node in rule["nodes"]
        ]
