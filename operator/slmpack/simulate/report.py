"""Simulated figures for people and for machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from slmpack.simulate.results import Figures
from slmpack.simulate.run import Result

__all__ = ["results_table", "to_json"]

_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("requests in time, %", lambda it: f"{it.slo_attainment * 100:.2f}"),
    ("  of the worst tenant, %", lambda it: f"{it.worst_tenant_slo * 100:.2f}"),
    ("TTFT p50, ms", lambda it: f"{it.ttft_p50_ms:,.0f}"),
    ("TTFT p99, ms", lambda it: f"{it.ttft_p99_ms:,.0f}"),
    ("ITL p50, ms", lambda it: f"{it.itl_p50_ms:,.1f}"),
    ("ITL p99, ms", lambda it: f"{it.itl_p99_ms:,.1f}"),
    ("GPU hours", lambda it: f"{it.gpu_hours:,.2f}"),
    ("replica hours", lambda it: f"{it.slot_hours:,.2f}"),
    ("energy, kWh", lambda it: f"{it.energy_kwh:,.2f}"),
    ("J per output token", lambda it: f"{it.j_per_token:.3f}"),
    ("scale events", lambda it: f"{it.scale_events:,}"),
    ("reversals in 10 min", lambda it: f"{it.reversals:,}"),
    ("cold starts", lambda it: f"{it.cold_starts:,}"),
    ("rejected (too long)", lambda it: f"{it.rejected:,}"),
)


def results_table(results: Sequence[Result]) -> Table:
    """A column for each policy."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(result.job.name, justify="right", overflow="fold")
    for name, read in _ROWS:
        table.add_row(name, *(read(result.figures) for result in results))
    return table


def to_json(results: Sequence[Result]) -> Mapping[str, object]:
    """By policy."""
    return {"policies": {result.job.name: result.figures.to_json() for result in results}}
