"""`slmpack profile` for people: what it will do, how far it is, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from slmpack.api.profile import PointDocument, ProfileDocument

__all__ = ["ProgressTeller", "plan_lines", "print_profile", "untold_lines"]

HEADS = (
    "in\nflight",
    "\ntokens/s",
    "\n+/-",
    "ITL ms\nmean",
    "\np50",
    "\np99",
    "TTFT ms\nmean",
    "\np99",
    "run-\nning",
    "pre-\nempt.",
)

UNTOLD = {
    "/version": "the engine's version stays unknown",
    "/metrics": "the size of the KV cache stays unknown, and a point that is measured like this is spoilt (Unseen)",
}
"""What follows where a path does not tell what it should."""


class ProgressTeller:
    """A bar in a terminal; elsewhere a line for each point."""

    def __init__(self, console: Console, *, grid: Sequence[int], repeats: int) -> None:
        self._console, self._repeats = console, repeats
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._total = len(grid) * (repeats + 1)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task("warm-up", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, concurrency: int, repeat: int) -> None:
        """A point's warm-up or a repeat of it has ended."""
        if self._task is not None:
            text = f"{concurrency} in flight, {repeat} of {self._repeats} repeats"
            self._progress.update(self._task, advance=1, description=text)

    def measured(self, point: PointDocument) -> None:
        """A point is complete."""
        faults = ", ".join(found.fault.value for found in point.faults)
        line = f"{point.concurrency} in flight: {point.throughput_tok_s:,.0f} tokens/s, ITL {_ms(point.itl_s)} ms"
        self._console.print(Text(f"{line}; spoilt: {faults}" if faults else line), soft_wrap=True)


def plan_lines(
    document: ProfileDocument, *, url: str, grid: Sequence[int], kept: Sequence[int], max_seconds: float
) -> list[str]:
    """What is about to happen."""
    told = [f"{document.served_name} ({document.model})", f"vLLM {document.engine_version or 'of unknown version'}"]
    if document.kv_cache_tokens is not None:
        told.append(f"a KV cache of {document.kv_cache_tokens:,} tokens")
    if document.max_model_len is not None:
        told.append(f"requests of at most {document.max_model_len:,} tokens")
    lines = [f"{url} serves {', '.join(told)}."]
    if kept:
        lines.append(f"Measured already: {_list(kept)} in flight.")
    if grid:
        lines.append(
            f"To measure: {_list(grid)} requests in flight, each with {document.input_tokens:,} random input and "
            f"{document.output_tokens:,} output tokens; a warm-up and {document.repeats} repeats of at least "
            f"{document.min_seconds:g} s for each; {max_seconds:,.0f} s at most."
        )
    else:
        lines.append("Nothing is left to measure.")
    return lines


def untold_lines(untold: Mapping[str, str]) -> list[str]:
    """What the server did not tell, by path, and what follows from that."""
    return [f"{why}: {UNTOLD[path]}." for path, why in untold.items()]


def print_profile(console: Console, document: ProfileDocument) -> None:
    """The table and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("\nspoilt by", overflow="fold")
    for point in document.points:
        table.add_row(*_row(point), ", ".join(found.fault.value for found in point.faults))
    console.print(table)
    if document.knee is not None:
        console.print(Text(f"\n{document.knee.explanation}", style="bold"))
        console.print(Text(f"Binding: {document.knee.binding}"))
    elif document.refusal is not None:
        console.print(Text("\nNo knee is named: ", style="bold").append(document.refusal.message, style="not bold"))


def _row(point: PointDocument) -> tuple[str, ...]:
    low, high = point.throughput_low_tok_s, point.throughput_high_tok_s
    spread = "" if low is None or high is None else f"{(high - low) / 2 / point.throughput_tok_s:.1%}"
    return (
        str(point.concurrency),
        f"{point.throughput_tok_s:,.0f}",
        spread,
        _ms(point.itl_s),
        _ms(point.itl_p50_s),
        _ms(point.itl_p99_s),
        _ms(point.ttft_s),
        _ms(point.ttft_p99_s),
        "" if point.running is None else f"{point.running:.1f}",
        "" if point.preemptions is None else f"{point.preemptions:.0f}",
    )


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
