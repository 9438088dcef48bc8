"""The dashboards drawn with matplotlib from their JSON and the scene's Prometheus: to be looked at. No Grafana is involved.

`python -m tests.support.dashboard_picture FOLDER` writes a PNG of each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from tests.support.board_scene import BoardScene, open_board_scene
from tests.support.control_plane import ControlPlane
from tests.support.grafana import LEGEND, Asked, Dashboard, Target, load_dashboards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

Json = dict[str, Any]
COLUMN_INCHES, ROW_INCHES = 0.75, 0.42
STEP = 2
LONGER_SECONDS = 60.0
"""The load goes on for so long before the picture is taken."""
UNITS = {
    "watt": "W",
    "joule": "J",
    "s": "s",
    "reqps": "req/s",
    "ops": "ops/s",
    "kwatth": "kWh",
    "percentunit": "of 1",
    "short": "",
}
NOTE = (
    "Drawn by slmpack's own tests with matplotlib, from this dashboard's JSON and a real Prometheus; engines, GPUs and load are"
    " simulated.\nThis is no screenshot of Grafana, which looks different."
)


def draw(dashboard: Dashboard, asked: Asked, chosen: Mapping[str, str], *, began: float, now: float) -> Figure:
    """Every panel in its place, with its series from `began` to `now`."""
    panels = dashboard.content["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 2
    figure = plt.figure(figsize=(24 * COLUMN_INCHES, rows * ROW_INCHES))
    figure.text(0.01, 1 - 0.8 / rows, dashboard.content["title"], fontsize=16, weight="bold", va="center")
    figure.text(0.99, 1 - 0.8 / rows, NOTE, fontsize=7, ha="right", va="center", color="gray")
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - (at["y"] + 2) / rows
        if panel["type"] == "row":
            figure.text(0.01, top - 0.5 / rows, panel["title"], fontsize=12, color="tab:blue", va="center")
            continue
        box = (left + 0.028, top - (at["h"] - 0.9) / rows, at["w"] / 24 - 0.036, (at["h"] - 2.0) / rows)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=9, loc="left", weight="bold")
        own = (it for it in dashboard.targets() if it.panel == panel["title"])
        answers = [(it, asked.answer(it, chosen, at=now, seconds=now - began)) for it in own]
        _fill(axes, panel, answers, began)
    return figure


def _fill(axes: Axes, panel: Json, answers: list[tuple[Target, list[Json]]], began: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.tick_params(labelsize=6)
    if not any(series for _, series in answers):
        _say(axes, [defaults.get("noValue", "No data")])
    elif panel["type"] == "stat":
        _say(axes, [_stat(panel, target, it) for target, series in answers for it in series])
    elif panel["type"] == "table":
        _table(axes, panel, answers)
    elif panel["type"] == "state-timeline":
        _states(axes, answers, began)
    else:
        _lines(axes, panel, answers, began)


def _say(axes: Axes, words: list[str]) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, "\n".join(words), ha="center", va="center", fontsize=12, transform=axes.transAxes)


def _legend(target: Target, series: Json) -> str:
    return LEGEND.sub(lambda match: series["metric"].get(match[1], "?"), target.legend)


def _stat(panel: Json, target: Target, series: Json) -> str:
    if panel["options"]["textMode"] == "name":
        return _legend(target, series)
    value = float(series["values"][-1][1])
    for mapping in panel["fieldConfig"]["defaults"].get("mappings", []):
        if f"{value:g}" in mapping["options"]:
            return f"{_legend(target, series)}: {mapping['options'][f'{value:g}']['text']}"
    return f"{_legend(target, series)}: {value:.4g} {_unit(panel)}"


def _unit(panel: Json) -> str:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    return str(UNITS.get(unit, unit.removeprefix("suffix: ")))


def _table(axes: Axes, panel: Json, answers: list[tuple[Target, list[Json]]]) -> None:
    """Merged by labels and renamed, as the panel's transformations say."""
    organize = panel["transformations"][1]["options"]
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for target, series in answers:
        column = "Value" if len(answers) == 1 else f"Value #{target.ref}"
        for it in series:
            rows.setdefault(tuple(sorted(it["metric"].items())), {})[column] = f"{float(it['values'][-1][1]):.4g}"
    shown = [dict(labels) | values for labels, values in rows.items()]
    columns = [it for it in dict.fromkeys(key for row in shown for key in row) if not organize["excludeByName"].get(it)]
    axes.axis("off")
    table = axes.table(
        cellText=[[row.get(column, "") for column in columns] for row in shown],
        colLabels=[organize["renameByName"].get(column, column) for column in columns],
        loc="upper center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)


def _points(series: Json, began: float) -> tuple[list[float], list[float]]:
    values = [float(value) for _, value in series["values"]]
    return [at - began for at, _ in series["values"]], [value if isfinite(value) else nan for value in values]


def _states(axes: Axes, answers: list[tuple[Target, list[Json]]], began: float) -> None:
    found = [(_legend(target, it), it) for target, series in answers for it in series]
    for row, (_, series) in enumerate(found):
        times, values = _points(series, began)
        spans = [(at, STEP) for at in times]
        axes.broken_barh(spans, (row - 0.4, 0.8), color=["tab:green" if value else "tab:orange" for value in values])
    axes.set_yticks(range(len(found)), [name for name, _ in found])


def _lines(axes: Axes, panel: Json, answers: list[tuple[Target, list[Json]]], began: float) -> None:
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    dashed = {it["matcher"]["options"] for it in panel["fieldConfig"]["overrides"]}
    below: dict[float, float] = {}
    for target, series in answers:
        for it in series:
            times, values = _points(it, began)
            name = _legend(target, it)
            if stacked:
                floor = [below.get(at, 0.0) for at in times]
                values = [base + value for base, value in zip(floor, values, strict=True)]
                axes.fill_between(times, floor, values, step="post", alpha=0.4, label=name)
                below.update(zip(times, values, strict=True))
            else:
                axes.plot(times, values, linewidth=1, linestyle="--" if name in dashed else "-", label=name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(_unit(panel), fontsize=6)
    axes.legend(fontsize=6, loc="best", framealpha=0.5)


def main(folder: Path) -> None:
    """Play the scene, and write a picture of each dashboard."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        ControlPlane.start() as control_plane,
        open_board_scene(control_plane, folder=Path(scratch)) as scene,
    ):
        scene.unfold()
        time.sleep(LONGER_SECONDS)
        _write(scene, folder)


def _write(scene: BoardScene, folder: Path) -> None:
    asked, now = Asked(url=scene.loop.prometheus.url, step=STEP), scene.now
    for dashboard in load_dashboards():
        chosen = asked.chosen(dashboard, {"namespace": scene.namespace, "name": "chat"})
        figure = draw(dashboard, asked, chosen, began=scene.began, now=now)
        figure.savefig(folder / f"{dashboard.name.replace('slmpack-', 'dashboard-')}.png", dpi=80)
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
