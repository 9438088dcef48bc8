"""What a dashboard is, as values: the JSON and the page of the documentation are both made from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from monitoring.dashboards.catalogue import checked

__all__ = ["Board", "Kind", "Line", "Mark", "Panel", "Query", "Row", "Variable"]


class Kind(Enum):
    """How a panel shows its series, by the name of Grafana's plugin."""

    STAT = "stat"
    LINES = "timeseries"
    STATES = "state-timeline"
    TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL query. Raises UnknownMetricError where it names a series that does not exist."""

    text: str
    legend: str = ""
    """Of a series; in a table, the heading of its column."""

    def __post_init__(self) -> None:
        checked(self.text)


class Line(Enum):
    """How a series is drawn that is not like the others."""

    DASHED = "predicted, not measured: dashed"
    LIMIT = "a bound: dashed and red"
    RIGHT = "of another unit: with an axis on the right"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `says` is what it shows, `do` what to do when it looks wrong."""

    kind: Kind
    title: str
    says: str
    do: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """Grafana's id of a unit."""
    width: int = 12
    """Of 24 columns."""
    height: int = 8
    """In Grafana's rows of 30 pixels."""
    steps: tuple[tuple[float, str], ...] = ()
    """From which value on which colour; green below."""
    stacked: bool = False
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    none: str = ""
    """What is said where there is no series: that is good news, or has a reason."""
    lines: Mapping[str, Line] = field(default_factory=dict)
    """By the legend of a series."""
    values: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Text and colour instead of a value."""
    names: bool = False
    """Of a stat: show the names of the series, not their values."""
    hide: tuple[str, ...] = ()
    """Columns of a table that are not shown."""
    link: str = ""
    """Of a table: the column whose cells lead to the dashboard of one SLMDeployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """What the user chooses from: values of a label."""

    name: str
    label: str
    says: str
    series: str
    """A selector: the values of `of` that its series have."""
    of: str
    several: bool = False

    def __post_init__(self) -> None:
        checked(self.series)

    @property
    def query(self) -> str:
        """In the words of Grafana's Prometheus data source."""
        return f"label_values({self.series}, {self.of})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Times that are marked in every panel."""

    name: str
    text: str
    title: str
    colour: str

    def __post_init__(self) -> None:
        checked(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    says: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...] = ()
