"""What the chart holds that is made from elsewhere is what its source says; values, schema and page agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import slmpack
from slmpack.adapters.metric_names import MetricNames
from slmpack.cli import main
from tests.support.chart_files import CHART, OPEN, chart_files, documented_values

FILES = chart_files()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def _schema(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
        return found
    if "allOf" in node:
        return _schema(node["allOf"][0])
    return node


def _leaves(values: dict[str, Any], *above: str) -> list[str]:
    found = []
    for name, value in values.items():
        path = ".".join((*above, name))
        nested = isinstance(value, dict) and value and path not in OPEN and not path.startswith("probes.")
        found += _leaves(value, *above, name) if nested else [path]
    return found


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.name)
def test_a_generated_file_is_what_its_source_says(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run `make chart`"


def test_no_rule_file_is_left_over() -> None:
    assert set((CHART / "files" / "rules").iterdir()) <= set(FILES)


def test_every_value_is_explained() -> None:
    assert [value.name for value in documented_values()] == _leaves(VALUES)


def test_the_schema_knows_exactly_the_values() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], where: str) -> None:
        known = set(schema["properties"]) - {"global"}
        if where.startswith("probes.") or where == "resources":
            assert set(values) <= known, where
        else:
            assert set(values) == known, where
        for name, value in values.items():
            below = _schema(schema["properties"][name])
            if "properties" in below and value:
                assert below["additionalProperties"] is False, name
                compare(below, value, f"{where}.{name}".lstrip("."))

    assert SCHEMA["additionalProperties"] is False
    compare(SCHEMA, VALUES, "")


@pytest.mark.parametrize(
    ("name", "flag"), [("period", "metrics_period"), ("timeout", "metrics_timeout"), ("maxAge", "metrics_max_age")]
)
def test_bounds_and_defaults_are_those_of_the_flag(name: str, flag: str) -> None:
    (option,) = [one for one in main.commands["run"].params if one.name == flag]
    node = SCHEMA["properties"]["prometheus"]["properties"][name]
    assert (node["minimum"], node["maximum"]) == (option.type.min, option.type.max)  # type: ignore[attr-defined]
    assert VALUES["prometheus"][name] == option.to_info_dict()["default"]


def test_the_port_is_that_of_the_flag() -> None:
    (option,) = [one for one in main.commands["run"].params if "--http" in one.opts]
    assert str(option.default).rpartition(":")[2] == str(VALUES["http"]["port"])


def test_the_groups_of_metric_names_are_those_of_their_file() -> None:
    assert set(SCHEMA["properties"]["prometheus"]["properties"]["metricNames"]["properties"]) == set(
        MetricNames.model_fields
    )


def test_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (slmpack.__version__, slmpack.__version__)
