"""The dashboards are those of their source, are what Grafana's types allow, and lead where their words say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard as Typed
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from monitoring.dashboards.boards import BOARDS, FOLDER
from monitoring.dashboards.build import as_json
from monitoring.dashboards.catalogue import RULES, UnknownMetricError, checked, known_metrics
from monitoring.dashboards.page import placed
from monitoring.dashboards.spec import Panel
from tests.support.grafana import DASHBOARDS, Dashboard, load_dashboards
from tests.support.live_metrics import DCGM, SAMPLE

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests" / "data" / "grafana-schema-13.2.3.json").read_text())
PAGE = ROOT / "docs" / "dashboards.md"
OF_THE_SOURCE = {"expr"}
"""What a mark has that is the Prometheus data source's own: Grafana's type of all sources does not list it."""
WIDE = 24
"""Columns of Grafana's grid."""
FILES = load_dashboards()


def _by_name(dashboard: Dashboard) -> str:
    return dashboard.name


def _panels() -> Iterator[Panel]:
    return (panel for board in BOARDS for row in board.rows for panel in row.panels)


def test_the_files_are_those_of_the_source() -> None:
    assert {path.name for path in DASHBOARDS.iterdir()} == {f"{board.uid}.json" for board in BOARDS}
    for board in BOARDS:
        written = (ROOT / FOLDER / f"{board.uid}.json").read_text()
        assert written == as_json(board), f"{board.uid}: write it anew: python -m monitoring.dashboards"


def test_the_page_is_that_of_the_source() -> None:
    assert PAGE.read_text() == placed(PAGE.read_text(), BOARDS), "write it anew: python -m monitoring.dashboards"
    with pytest.raises(ValueError, match="between which its tables belong"):
        placed("# Dashboards\n", BOARDS)


@pytest.mark.parametrize("dashboard", FILES, ids=_by_name)
def test_grafana_s_own_schema_allows_it(dashboard: Dashboard) -> None:
    content = json.loads(json.dumps(dashboard.content))
    for mark in content["annotations"]["list"]:
        for name in OF_THE_SOURCE:
            mark.pop(name)
    assert [_told(error) for error in Draft7Validator(SCHEMA["dashboard"]).iter_errors(content)] == []
    for panel in dashboard.panels():
        schemas = SCHEMA["panels"][panel["type"]]
        custom = panel["fieldConfig"]["defaults"].get("custom")
        parts = {"options": panel["options"]} | ({} if custom is None else {"custom": custom})
        for name, part in parts.items():
            errors = Draft7Validator(schemas.get(name, {"maxProperties": 0})).iter_errors(part)
            assert [_told(error) for error in errors] == [], f"{panel['title']}: {name}"


def _told(error: Any) -> str:
    return f"{'/'.join(map(str, error.absolute_path))}: {error.message}"


def test_the_schema_is_strict() -> None:
    broken = json.loads(json.dumps(FILES[0].content))
    broken["panels"][1]["titel"] = "x"
    assert list(Draft7Validator(SCHEMA["dashboard"]).iter_errors(broken))
    assert list(Draft7Validator(SCHEMA["panels"]["stat"]["options"]).iter_errors({"colorMode": "loud"}))


@pytest.mark.parametrize("dashboard", FILES, ids=_by_name)
def test_grafana_s_own_types_read_all_of_it(dashboard: Dashboard) -> None:
    register_default_plugins()
    read = json.loads(json.dumps(Typed.from_json(dashboard.content), cls=JSONEncoder))
    assert _lacking(dashboard.content, read) == []


def _lacking(given: Any, read: Any, where: str = "") -> list[str]:
    """What of `given` was not read."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [it for key, value in given.items() for it in _lacking(value, read.get(key), f"{where}/{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [
            it
            for at, (one, other) in enumerate(zip(given, read, strict=True))
            for it in _lacking(one, other, f"{where}/{at}")
        ]
    return [] if given == read else [f"{where}: {given!r} was read as {read!r}"]


@pytest.mark.parametrize("dashboard", FILES, ids=_by_name)
def test_panels_have_numbers_of_their_own_and_do_not_overlap(dashboard: Dashboard) -> None:
    panels = dashboard.content["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    titles = [panel["title"] for panel in dashboard.panels()]
    assert len(set(titles)) == len(titles)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDE, panel["title"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]


def test_lines_of_panels_are_full_and_equally_high() -> None:
    for dashboard in FILES:
        lines: dict[int, list[dict[str, int]]] = {}
        for panel in dashboard.panels():
            lines.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
        for found in lines.values():
            assert {at["h"] for at in found} == {found[0]["h"]}
            assert sum(at["w"] for at in found) == WIDE
        assert all(one < other for one, other in pairwise(lines))


def test_a_query_of_a_metric_that_is_not_there_is_no_query() -> None:
    assert checked("sum(slmpack_gpus)") == "sum(slmpack_gpus)"
    with pytest.raises(UnknownMetricError, match="nobody exposes or records slmpack_gpu; known: slmpack_gpus"):
        checked("sum(slmpack_gpu)")
    with pytest.raises(UnknownMetricError, match="records slmdeployment:arrivals:rate1m"):
        checked("slmdeployment:arrivals:rate1m")
    with pytest.raises(UnknownMetricError, match="names no series"):
        checked("sum(up)")


def test_engines_and_exporters_expose_what_is_asked_of_them() -> None:
    """By vLLM's own words (0.32) and dcgm-exporter's default list; older and newer names are of other versions."""
    exposed = set(re.findall(r"# TYPE (\S+) ", SAMPLE.read_text())) | {counter.name for counter in DCGM}
    other = {"vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds", "DCGM_FI_DEV_XID_ERROR"}
    asked = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for dashboard in FILES
        for target in dashboard.targets()
        for name in re.findall(r"(?:vllm:|DCGM_)\w+", target.text)
    }
    assert asked
    assert asked - other <= exposed
    assert asked - exposed <= other
    assert "vllm:time_to_first_token_seconds_bucket" in known_metrics()


def test_words_and_units() -> None:
    known = {value for name, value in vars(units).items() if name.isupper() or isinstance(value, str)}
    for panel in _panels():
        assert panel.says.endswith((".", ".)")), panel.title
        assert panel.do.endswith("."), panel.title
        assert panel.unit in known or panel.unit.startswith("suffix: "), panel.title
        assert all(query.legend for query in panel.queries), panel.title
        assert not panel.lines or not {name for name in panel.lines if not name.startswith("/")} - {
            query.legend for query in panel.queries
        }, panel.title


def test_every_estimate_and_prediction_says_so() -> None:
    for panel in _panels():
        text = " ".join(query.text for query in panel.queries)
        if "_estimate:" in text:
            assert "estimate" in panel.title.lower() or "estimate" in " ".join(it.legend for it in panel.queries)
        if "slmpack_predicted" in text or "slmpack_replicas_per_gpu" in text or "slmpack_capacity_" in text:
            assert "predict" in f"{panel.title} {' '.join(it.legend for it in panel.queries)}", panel.title


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_and_sections_that_are_named_are_there() -> None:
    for panel in _panels():
        words = f"{panel.says} {panel.do}"
        pages = re.findall(r"(?:docs|monitoring)/[\w-]+\.md", words)
        assert all((ROOT / page).is_file() for page in pages), words
        for page, section in re.findall(r"((?:docs|monitoring)/[\w-]+\.md), (?:section )?([A-Z][\w ]+)", words):
            headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
            assert any(section.startswith(it) or it.startswith(section) for it in headings) or _has(page, section), (
                words
            )


def _has(page: str, words: str) -> bool:
    return f"*{words}" in (ROOT / page).read_text()


def _alerts() -> list[dict[str, Any]]:
    groups = [group for path in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("alert", _alerts(), ids=lambda it: str(it["alert"]))
def test_an_alert_leads_to_a_page_and_a_dashboard(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in _anchors(ROOT / page)
    match = re.fullmatch(r"/d/([\w-]+)(?:\?(.+))?", alert["annotations"]["dashboard"])
    assert match is not None
    (board,) = (it for it in BOARDS if it.uid == match[1])
    wanted = {it.name for it in board.variables if not it.several}
    given = set(re.findall(r"var-(\w+)=", match[2] or ""))
    assert wanted <= given <= {it.name for it in board.variables}
