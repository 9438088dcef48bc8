"""A dashboard's values as Grafana's JSON, by Grafana's own types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring.dashboards.spec import Board, Kind, Line, Mark, Panel, Query, Variable

__all__ = ["SOURCE", "TAG", "as_json"]

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "slmpack"
Visual = stat.Panel | timeseries.Panel | statetimeline.Panel | table.Panel
TO_DEPLOYMENT = "/d/slmpack-deployment?var-namespace=${__data.fields.namespace}&var-name=${__data.fields.name}"


def as_json(board: Board) -> str:
    """The dashboard as Grafana imports or provisions it; the same text for the same values."""
    found = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.says)
        .tags([TAG])
        .timezone("browser")
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .link(
            builders.DashboardLink("slmpack")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .icon("external link")
        )
        .with_variable(_source())
        .annotations([_mark(mark) for mark in board.marks])
    )
    for variable in board.variables:
        found = found.with_variable(_variable(variable))
    number = 0
    for row in board.rows:
        number += 1
        found = found.with_row(builders.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            found = found.with_panel(_panel(panel).id(number))
    content = json.loads(json.dumps(found.build(), cls=JSONEncoder))
    _tidied(content)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _tidied(content: dict[str, Any]) -> None:
    """Without what the types of Grafana 11.6 say by default and those of 13.2 do not know."""
    for variable in content["templating"]["list"]:
        for name in ("auto", "auto_count", "auto_min"):
            variable.pop(name)  # of interval variables
    for panel in content["panels"]:
        panel.get("options", {}).pop("footer", None)


def _source() -> builders.DatasourceVariable:
    return (
        builders.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes slmpack's engines, GPUs and operator, and evaluates its rules.")
        .type("prometheus")
    )


def _variable(variable: Variable) -> builders.QueryVariable:
    found = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.says)
        .datasource(SOURCE)
        .query({"qryType": 1, "query": variable.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NATURAL_ASC)
    )
    if not variable.several:
        return found
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return found.multi(True).include_all(True).all_value(".*").current(everything)


def _mark(mark: Mark) -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name(f"{mark.name}: {mark.title}")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(mark.colour)
        .expr(mark.text)
    )


def _panel(panel: Panel) -> Visual:
    found = (
        _drawn(panel)
        .title(panel.title)
        .description(f"{panel.says}\n\n**What to do.** {panel.do}")
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .thresholds(_steps(panel.steps))
    )
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        found = found.with_target(_query(panel, letter, query))
    if panel.least is not None:
        found = found.min(panel.least)
    if panel.most is not None:
        found = found.max(panel.most)
    if panel.decimals is not None:
        found = found.decimals(panel.decimals)
    if panel.none:
        found = found.no_value(panel.none)
    if panel.values:
        found = found.mappings([_mapping(panel)])
    for name, line in panel.lines.items():
        found = _marked(found, name, line)
    return found


def _drawn(panel: Panel) -> Visual:
    match panel.kind:
        case Kind.STAT:
            return _stat(panel)
        case Kind.LINES:
            return _lines(panel)
        case Kind.STATES:
            return statetimeline.Panel().show_value(common.VisibilityMode.NEVER).row_height(0.8)
        case Kind.TABLE:
            return _table(panel)


def _query(panel: Panel, letter: str, query: Query) -> prometheus.Dataquery:
    found = prometheus.Dataquery().expr(query.text).ref_id(letter).datasource(SOURCE)
    if panel.kind is Kind.TABLE:
        return found.instant().format(PromQueryFormat.TABLE)
    found = found.legend_format(query.legend)
    return found.instant() if panel.kind is Kind.STAT else found.range()


def _steps(steps: Sequence[tuple[float, str]]) -> builders.ThresholdsConfig:
    all_steps = [
        models.Threshold(value=None, color="green"),
        *(models.Threshold(value=at, color=it) for at, it in steps),
    ]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(all_steps)


def _mapping(panel: Panel) -> models.ValueMap:
    return models.ValueMap(
        options={
            value: models.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(panel.values.items())
        }
    )


def _stat(panel: Panel) -> stat.Panel:
    found = (
        stat.Panel()
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE if panel.steps or panel.values else common.BigValueColorMode.NONE)
    )
    shown = common.BigValueTextMode.NAME if panel.names else common.BigValueTextMode.VALUE_AND_NAME
    return found.text_mode(shown)


def _lines(panel: Panel) -> timeseries.Panel:
    found = (
        timeseries.Panel()
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .show_points(common.VisibilityMode.NEVER)
        .fill_opacity(30 if panel.stacked else 0)
        .line_width(1)
    )
    if panel.steps:
        found = found.thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    if panel.stacked:
        found = found.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    return found


def _table(panel: Panel) -> table.Panel:
    columns = {f"Value #{letter}": it.legend for letter, it in zip(ascii_uppercase, panel.queries, strict=False)}
    if len(panel.queries) == 1:
        columns = {"Value": panel.queries[0].legend, **columns}
    hidden = {"Time": True} | {name: True for name, legend in columns.items() if legend in panel.hide}
    hidden |= {name: True for name in panel.hide if name not in columns.values()}
    found = (
        table.Panel()
        .show_header(True)
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize", options={"excludeByName": hidden, "indexByName": {}, "renameByName": columns}
            )
        )
    )
    if panel.link:
        link = {"title": "Open its dashboard", "url": TO_DEPLOYMENT}
        found = found.override_by_name(panel.link, [models.DynamicConfigValue(id_val="links", value=[link])])
    return found


def _marked(found: Visual, name: str, line: Line) -> Visual:
    properties = {
        Line.DASHED: [_dashes()],
        Line.LIMIT: [
            _dashes(),
            models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "red"}),
        ],
        Line.RIGHT: [
            models.DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
            models.DynamicConfigValue(id_val="unit", value="short"),
        ],
    }[line]
    if name.startswith("/"):
        return found.override_by_regexp(name, properties)
    return found.override_by_name(name, properties)


def _dashes() -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]})
