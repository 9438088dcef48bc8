"""null for a value is what its default is, or is refused by a message that names it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.chart import IMAGE, notes, render, rendering_error
from tests.support.chart_files import CHART, OPEN, may_be_null

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
FULL: dict[str, Any] = {
    "image": {"repository": IMAGE},
    "supervisor": {"image": "registry.example.com/sup:1"},
    "hub": {"tokenSecret": {"name": "hub"}},
    "prometheus": {
        "url": "http://prometheus.monitoring:9090",
        "tokenSecret": {"name": "token"},
        "caConfigMap": {"name": "ca"},
        "metricNames": {"labels": {"deployment": "slmdeployment"}},
    },
    "metrics": {one: {"enabled": True} for one in ("podMonitor", "engines", "prometheusRule", "dashboards")},
    "networkPolicy": {"enabled": True},
    "page": {"enabled": True},
}
"""What makes every template say something."""
BROKEN = re.compile(r"nil pointer|runtime error|YAML parse error|<nil>|<no value>|%!|error calling")
Path = tuple[str, ...]


def _paths(values: dict[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each key of values.yaml that is the chart's, with its default."""
    for name, value in values.items():
        path = (*above, name)
        yield path, value
        if isinstance(value, dict) and ".".join(path) not in OPEN and above != ("probes",):
            yield from _paths(value, path)


def _with_null(values: dict[str, Any], *paths: Path) -> dict[str, Any]:
    changed = dict(values)
    for name, *below in paths:
        changed[name] = _with_null(changed.get(name) or {}, tuple(below)) if below else None
    return changed


REFUSED = [path for path, value in _paths(VALUES) if not may_be_null(".".join(path), value)]
TAKEN = [path for path, value in _paths(VALUES) if not value]
EMPTIED = [path for path, value in _paths(VALUES) if value and ".".join(path) in OPEN]


@pytest.mark.parametrize("depth", sorted({len(path) for path in REFUSED}))
def test_what_has_no_meaning_as_null_is_refused_by_its_name(depth: int) -> None:
    """All of one depth at once, as the schema names each; one by one would take minutes."""
    paths = [path for path in REFUSED if len(path) == depth]
    error = rendering_error(_with_null(FULL, *paths))
    assert not BROKEN.search(error)
    said = {
        (*(one for one in where.split("/") if one), name)
        for where, names in re.findall(r"- at '([^']*)': missing propert(?:y|ies) (.+)", error)
        for name in re.findall(r"'([^']+)'", names)
    }
    assert said == set(paths)


@pytest.mark.parametrize(
    "path",
    [
        ("http",),
        ("http", "port"),
        ("prometheus", "timeout"),
        ("hub", "cacheSizeLimit"),
        ("probes", "startup"),
        ("prometheus", "tokenSecret", "key"),
        ("networkPolicy", "egress", "apiServerPorts"),
    ],
    ids=".".join,
)
def test_one_null_is_named_alone(path: Path) -> None:
    error = rendering_error(_with_null(FULL, path))
    assert f"- at '{''.join(f'/{one}' for one in path[:-1])}': missing property '{path[-1]}'" in error
    assert error.count("missing propert") == 1


def test_where_the_default_is_empty_null_is_the_default() -> None:
    assert {("extraArgs",), ("commonLabels",), ("podLabels",), ("prometheus", "gatewayWaitingQuery")} <= set(TAKEN)
    for base in (FULL, {"image": {"repository": IMAGE}}):
        given = {path for path, _ in _paths(base)}
        nulls = _with_null(base, *(path for path in TAKEN if path not in given))
        assert render(nulls).objects == render(base).objects
        assert notes(nulls) == notes(base)


@pytest.mark.parametrize("path", EMPTIED, ids=".".join)
def test_null_takes_away_what_is_kubernetes_own(path: Path) -> None:
    rendered = render(_with_null(FULL, path))
    assert not BROKEN.search(str(rendered.objects))
    if len(path) == 1:
        pod = rendered.pod["spec"]
        where = {"podSecurityContext": (pod, "securityContext")}.get(path[0], (rendered.container, path[0]))
        assert where[1] not in where[0]


def test_the_image_cannot_be_null() -> None:
    error = rendering_error(_with_null(FULL, ("image", "repository")))
    assert "image.repository is empty" in error
