"""A dashboard's JSON as Grafana reads it: its panels, and its queries as they reach Prometheus.

Substitution follows Grafana's Prometheus data source: a variable of one value is put in as it is, one of several as an
alternative of a regular expression, `All` as its allValue; `$__rate_interval` is the larger of four scrapes and of the
step and one scrape (its documentation, "Use $__rate_interval").
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DASHBOARDS", "Asked", "Dashboard", "Target", "load_dashboards", "missing_labels"]

DASHBOARDS = Path(__file__).parents[2] / "charts" / "slmpack" / "files" / "dashboards"
SCRAPE = 15
"""Seconds: Grafana's default for a Prometheus data source, and the interval of monitoring/prometheus.yaml."""
LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), ?(?P<label>\w+)\)")
LEGEND = re.compile(r"\{\{ ?(\w+) ?\}\}")
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One query of a panel."""

    panel: str
    kind: str
    ref: str
    text: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.panel} {self.ref}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One file."""

    name: str
    content: Json

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(name=path.stem, content=json.loads(path.read_text()))

    def panels(self) -> Iterator[Json]:
        """Those that ask something: rows do not."""
        for panel in self.content["panels"]:
            if panel["type"] == "row":
                yield from panel.get("panels", [])
            else:
                yield panel

    def targets(self) -> Iterator[Target]:
        for panel in self.panels():
            for target in panel["targets"]:
                yield Target(
                    panel=panel["title"],
                    kind=panel["type"],
                    ref=target["refId"],
                    text=target["expr"],
                    legend=target.get("legendFormat", ""),
                    instant=bool(target.get("instant")),
                )

    def marks(self) -> Iterator[Target]:
        for mark in self.content["annotations"].get("list", []):
            yield Target(panel=mark["name"], kind="mark", ref="", text=mark["expr"], legend="", instant=False)

    def variables(self) -> list[Json]:
        """Those with a query, in order: a later one may name an earlier one."""
        found: list[Json] = self.content["templating"]["list"]
        return [variable for variable in found if variable["type"] == "query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A Prometheus, asked as Grafana would."""

    url: str
    step: int = SCRAPE

    def choices(self, variable: Json, chosen: Mapping[str, str]) -> list[str]:
        """What a user may choose from, given what was chosen before."""
        match = LABEL_VALUES.fullmatch(self.substituted(variable["query"]["query"], chosen))
        assert match is not None, variable["query"]
        query = urllib.parse.urlencode({"match[]": match["series"]})
        found: list[str] = self._get(f"/api/v1/label/{match['label']}/values?{query}")
        return found

    def chosen(self, dashboard: Dashboard, wishes: Mapping[str, str]) -> dict[str, str]:
        """A value for each variable: what is wished, which must be among the choices; All where several may be chosen."""
        found: dict[str, str] = {}
        for variable in dashboard.variables():
            choices = self.choices(variable, found)
            assert choices, f"{dashboard.name}: nothing to choose from for {variable['name']}"
            if variable.get("includeAll") and variable["name"] not in wishes:
                found[variable["name"]] = variable["allValue"]
                continue
            assert wishes[variable["name"]] in choices, (dashboard.name, variable["name"], choices)
            found[variable["name"]] = wishes[variable["name"]]
        return found

    def substituted(self, text: str, chosen: Mapping[str, str]) -> str:
        """As it reaches Prometheus. KeyError if it names a variable that there is not."""
        known = dict(chosen) | {
            "__interval": f"{self.step}s",
            "__rate_interval": f"{max(self.step + SCRAPE, 4 * SCRAPE)}s",
        }
        return VARIABLE.sub(lambda match: known[match[1] or match[2]], text.replace("$1", "\0")).replace("\0", "$1")

    def answer(self, target: Target, chosen: Mapping[str, str], *, at: float, seconds: float) -> list[Json]:
        """The series that have a number; with `metric` and `values`."""
        query = {"query": self.substituted(target.text, chosen)}
        if target.instant:
            found = self._get(f"/api/v1/query?{urllib.parse.urlencode(query | {'time': str(at)})}")["result"]
            series = [{"metric": it["metric"], "values": [it["value"]]} for it in found]
        else:
            window = {"start": str(at - seconds), "end": str(at), "step": str(self.step)}
            series = self._get(f"/api/v1/query_range?{urllib.parse.urlencode(query | window)}")["result"]
        return [it for it in series if any(isfinite(float(value)) for _, value in it["values"])]

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return json.loads(response.read())["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{urllib.parse.unquote_plus(path)}: {error.read().decode()}") from None


def missing_labels(target: Target, series: list[Json]) -> set[str]:
    """Labels that the legend names and some series lacks."""
    wanted = set(LEGEND.findall(target.legend))
    return {label for label in wanted for it in series if label not in it["metric"]}


def load_dashboards() -> list[Dashboard]:
    """All that the chart brings."""
    return [Dashboard.load(path) for path in sorted(DASHBOARDS.glob("*.json"))]
