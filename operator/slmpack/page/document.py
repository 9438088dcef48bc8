"""The whole document: head, summary, nodes, SLMDeployments. It works from a file and behind a strict policy alike."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from slmpack.page.deployments import render_deployments
from slmpack.page.markup import Markup, Styles, isolated, join, tag
from slmpack.page.nodes import render_colours, render_legend, render_nodes
from slmpack.page.style import STYLE
from slmpack.page.values import Sheet, Total, Trouble

__all__ = ["Body", "Document", "Frame", "render_body", "render_document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What depends on the plan alone: made once for each plan."""

    html: Markup
    css: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is said around it, and may change while the plan stays."""

    title: str
    when: str
    """When the plan was made, and how old it is."""
    warning: str = ""
    """Why the plan may be out of date, such as that this operator stands by."""
    foot: tuple[str, ...] = ()
    refresh_seconds: int | None = None
    """The page loads itself again after so long; None: it does not."""
    other: tuple[str, str] | None = None
    """Where the same page is that refreshes, or does not: its address and what it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A page and the Content-Security-Policy that it is made for."""

    html: str
    policy: str


def render_body(sheet: Sheet | None) -> Body:
    """The plan's part; None: there is no plan yet."""
    styles = Styles()
    if sheet is None:
        return Body(html=tag("p", "Nothing has been planned yet.", class_="banner"), css=STYLE)
    html = join(
        tag("dl", map(_total, sheet.totals), class_="totals"),
        _jump(sheet),
        _troubles(sheet),
        _gpus(sheet, styles),
        _deployments(sheet, styles),
        _ends(sheet),
        [tag("p", words, class_="banner") for words in sheet.left_out],
    )
    return Body(html=html, css=STYLE + styles.css)


def render_document(body: Body, frame: Frame) -> Document:
    """The page as it is sent or written."""
    digest = base64.b64encode(hashlib.sha256(body.css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", http_equiv="refresh", content=str(frame.refresh_seconds)) if frame.refresh_seconds else None,
        tag("title", frame.title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(body.css)),
    )
    page = tag(
        "div",
        tag("a", "Skip to the picture", href="#gpus", class_="skip"),
        tag(
            "header",
            tag("div", tag("h1", frame.title), tag("p", frame.when, _other(frame)), class_="top"),
            _warning(frame),
        ),
        tag("main", body.html),
        tag("footer", [tag("p", words) for words in frame.foot]) if frame.foot else None,
        class_="page",
    )
    html = tag("html", head, tag("body", page), lang="en")
    return Document(html=f"<!doctype html>\n{html}\n", policy=policy)


def _other(frame: Frame) -> Markup:
    if frame.other is None:
        return join()
    address, words = frame.other
    return join(" · ", tag("a", words, href=address))


def _warning(frame: Frame) -> Markup | None:
    return tag("p", isolated(frame.warning), class_="banner bad", role="status") if frame.warning else None


def _total(total: Total) -> Markup:
    note = tag("small", total.note, class_="bad" if total.is_wrong else None) if total.note else None
    return tag("div", tag("dt", total.name), tag("dd", total.value, note))


def _jump(sheet: Sheet) -> Markup:
    links = [tag("a", "GPUs", href="#gpus"), tag("a", "SLMDeployments", href="#deployments")]
    if sheet.troubles:
        links.insert(0, tag("a", f"What is wrong ({len(sheet.troubles)})", href="#wrong"))
    return tag("nav", links, class_="jump", aria_label="On this page")


def _troubles(sheet: Sheet) -> Markup | None:
    if not sheet.troubles:
        return None
    rows = tag("ul", map(_trouble, sheet.troubles), class_="troubles panel", role="list")
    return tag("section", tag("h2", "What has no place or fails", id="wrong"), rows, aria_labelledby="wrong")


def _trouble(trouble: Trouble) -> Markup:
    who = isolated(trouble.who)
    name = tag("a", who, href=f"#{trouble.anchor}") if trouble.anchor else who
    count = f"{trouble.count} unplaced, " if trouble.count else ""
    return tag("li", name, ": ", tag("b", f"{count}{trouble.reason}"), ": ", isolated(trouble.message))


def _gpus(sheet: Sheet, styles: Styles) -> Markup:
    return tag(
        "section",
        tag("h2", "GPUs", id="gpus"),
        render_legend(sheet.nodes),
        render_colours(sheet.deployments, sheet.nodes),
        render_nodes(sheet.nodes, longest_bytes=sheet.longest_bytes, styles=styles),
        [tag("p", isolated(note), class_="muted notes") for note in sheet.notes],
        aria_labelledby="gpus",
    )


def _deployments(sheet: Sheet, styles: Styles) -> Markup:
    what = render_deployments(sheet.deployments, styles=styles)
    nothing = tag("p", "There is no SLMDeployment.", class_="muted")
    title = tag("h2", "SLMDeployments", id="deployments")
    return tag("section", title, what if sheet.deployments else nothing, aria_labelledby="deployments")


def _ends(sheet: Sheet) -> Markup | None:
    if not sheet.ends:
        return None
    rows = tag("ul", [tag("li", isolated(line)) for line in sheet.ends], class_="reasons", role="list")
    title = tag("h2", "Rollouts and ends", id="ends")
    return tag("section", title, rows, aria_labelledby="ends")
