"""Each SLMDeployment: what a replica needs, what pays and why not one more, where replicas are, how many are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slmpack.page.curve import render_curve
from slmpack.page.markup import Markup, Styles, isolated, join, scrolling, tag
from slmpack.page.nodes import colour_class
from slmpack.page.values import Amount, Deployment, Fact, Pays, Replica, Scaling

__all__ = ["MOST_OPEN", "render_deployments"]

MOST_OPEN = 6
"""SLMDeployments up to which all are open."""
MOST_REPLICAS = 200
"""Rows of the list of replicas; more are counted."""
_OPENED = 12
"""Rows up to which the list of replicas is open."""


def render_deployments(deployments: Sequence[Deployment], *, styles: Styles) -> Markup:
    """All of them; open where they are few."""
    is_open = len(deployments) <= MOST_OPEN
    return join(_deployment(deployment, styles=styles, is_open=is_open) for deployment in deployments)


def _deployment(deployment: Deployment, *, styles: Styles, is_open: bool) -> Markup:
    answer = deployment.answer
    placed = "rejected" if answer.wanted is None else f"{answer.placed} of {answer.wanted} placed"
    head = tag(
        "summary",
        tag("span", class_=f"swatch {colour_class(deployment.colour)}", aria_hidden="true"),
        tag("h3", isolated(deployment.name)),
        tag("span", placed, class_=f"chip {'good' if answer.satisfied else 'bad'}"),
        tag("span", f"{deployment.ready} Ready", class_="chip"),
        tag("span", f"{deployment.reason}: ", isolated(deployment.message), class_="why"),
    )
    what_pays = [_pays(pays, deployment, number) for number, pays in enumerate(deployment.pays)]
    pays = tag("div", what_pays) if what_pays else None
    body = tag(
        "div",
        tag(
            "div",
            _needs(deployment, styles),
            _places(deployment),
            _scaling(deployment.scaling) if deployment.scaling is not None else None,
            _changes(deployment.changes),
        ),
        pays,
        class_="body",
    )
    return tag("details", head, body, class_="deployment panel", id=deployment.anchor, open=is_open)


def _section(title: str, *children: Markup | None, class_: str | None = None) -> Markup:
    return tag("section", tag("h4", title), [child for child in children if child is not None], class_=class_)


def _needs(deployment: Deployment, styles: Styles) -> Markup | None:
    if not deployment.memory:
        return None
    *rows, needed = deployment.memory
    table = tag(
        "table",
        tag("caption", "One replica of ", isolated(deployment.what), " (estimate)"),
        tag("tbody", [_fact(row) for row in rows], _fact(needed, class_="sum")),
        class_="facts",
    )
    warning = tag("p", isolated(f"warning: {deployment.warning}"), class_="warning") if deployment.warning else None
    return _section("What a replica needs", _line(deployment, styles), table, warning)


def _line(deployment: Deployment, styles: Styles) -> Markup:
    whole = max(1, sum(amount.size for amount in deployment.amounts))
    parts = [_amount(amount, whole, styles) for amount in deployment.amounts]
    return tag("div", parts, class_=f"block-line {colour_class(deployment.colour)}", aria_hidden="true")


def _amount(amount: Amount, whole: int, styles: Styles) -> Markup:
    return tag("i", class_=f"{amount.kind} {styles.width(amount.size / whole)}", title=amount.name)


def _fact(fact: Fact, *, class_: str | None = None) -> Markup:
    return tag(
        "tr",
        tag("th", fact.name, scope="row"),
        tag("td", fact.value, class_="n"),
        tag("td", fact.note, class_="note"),
        class_=class_,
    )


def _pays(pays: Pays, deployment: Deployment, number: int) -> Markup:
    figures = None
    if pays.figures:
        caption = tag("caption", pays.caption)
        figures = tag("table", caption, tag("tbody", map(_fact, pays.figures)), class_="facts")
    curve = None
    if pays.curve is not None:
        name = f"{deployment.anchor}c{number}"
        curve = render_curve(pays.curve, name=name, colour=colour_class(deployment.colour))
    return _section(
        f"What pays on {pays.title}",
        figures,
        tag("p", pays.warning, class_="warning") if pays.warning else None,
        curve,
        _reasons(pays),
        tag("details", tag("summary", "engine flags"), tag("code", pays.flags)),
    )


def _reasons(pays: Pays) -> Markup | None:
    """Why so many, and last why not one more."""
    rows = [tag("li", isolated(reason)) for reason in pays.reasons]
    if pays.no_more:
        rows.append(tag("li", tag("b", "Why not one more: "), isolated(pays.no_more), class_="no"))
    return tag("ul", rows, class_="reasons", role="list") if rows else None


def _scaling(scaling: Scaling) -> Markup:
    power = None
    if scaling.power:
        ceiling = "" if scaling.ceiling_w is None else f"; spec.scaling.maxWattsPerGPU is {scaling.ceiling_w:,.0f} W"
        power = tag("p", f"hottest GPU, an estimate: {scaling.power}{ceiling}")
    rows = tag("tbody", map(_fact, scaling.figures))
    table = tag("table", tag("caption", "Figures", class_="vh"), rows, class_="facts")
    summary = tag("summary", f"{len(scaling.figures)} numbers behind it")
    return _section(
        "How many are wanted",
        tag("p", isolated(scaling.line), class_="lead"),
        power,
        tag("details", summary, table) if scaling.figures else None,
    )


def _places(deployment: Deployment) -> Markup:
    offers = [tag("li", isolated(line)) for line in deployment.offers]
    unplaced = [
        tag(
            "li",
            tag("b", f"{count} unplaced, " if count else "", f"{problem.reason.value}: "),
            isolated(message),
            class_="no",
        )
        for problem, message, count in deployment.answer.reasons
    ]
    lines = tag("ul", offers, unplaced, class_="reasons", role="list") if offers or unplaced else None
    title = "Why it is rejected" if deployment.answer.wanted is None else "Where replicas are"
    return _section(title, lines, _replicas(deployment.replicas))


def _replicas(replicas: Sequence[Replica]) -> Markup | None:
    if not replicas:
        return None
    measured = any(replica.memory for replica in replicas)
    heads = ("replica", "node", "share", "state", *(("memory",) if measured else ()))
    head = tag("tr", [tag("th", words, scope="col") for words in heads])
    rows = [
        tag(
            "tr",
            tag("th", isolated(replica.name), scope="row"),
            [tag("td", isolated(words)) for words in (replica.node, replica.share, replica.words)],
            tag("td", replica.memory) if measured else None,
        )
        for replica in replicas[:MOST_REPLICAS]
    ]
    more = len(replicas) - MOST_REPLICAS
    rest = tag("p", f"{more} more are not listed.", class_="muted") if more > 0 else None
    table = tag("table", tag("caption", "Replicas", class_="vh"), tag("thead", head), tag("tbody", rows))
    scroll = scrolling(table, "Replicas")
    summary = tag("summary", f"{len(replicas)} replicas as a table")
    return tag("details", summary, scroll, rest, open=len(replicas) <= _OPENED)


def _changes(changes: Iterable[str]) -> Markup | None:
    rows = [tag("li", isolated(line)) for line in changes]
    return _section("What would change it", tag("ul", rows, class_="reasons", role="list")) if rows else None
