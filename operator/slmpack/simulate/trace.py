"""Requests over time: any CSV with arrival_s, input_tokens, output_tokens and, if it likes, tenant."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

__all__ = ["CLONE_SHIFT_S", "Trace", "TraceError", "clone", "read_trace"]

CLONE_SHIFT_S = 60.0
"""Seconds by which a copy is shifted at the most (facts of the baselines' benchmark: U(0, 60 s), wrapped round)."""

MOST_TOKENS = 1e9
"""Of one request: more is a slip, and would not fit into the sums."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEEDED = ("arrival_s", "input_tokens", "output_tokens")


class TraceError(Exception):
    """The file is no trace; the message names file, line and field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests by rising arrival."""

    arrival_s: Floats
    """Seconds since the trace (or the cut of it) began."""
    input_tokens: Ints
    output_tokens: Ints
    tenant: Ints
    """Index into `tenants`."""
    tenants: tuple[str, ...]
    """Sorted names; ("",) where the file has no tenant column."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds from the beginning to the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0


def read_trace(path: Path, *, since: float = 0.0, until: float | None = None) -> Trace:
    """The requests that arrive in [since, until), counted from `since`; TraceError names what is wrong where.

    Rows need not be sorted. A name that ends in .gz is a gzip of the CSV.
    """
    header, rows, lines = _rows(path)
    columns = tuple(zip(*rows, strict=True)) if rows else ((),) * len(header)
    named = dict(zip(header, columns, strict=True))
    arrival, *tokens = (_numbers(path, name, named[name], lines) for name in _NEEDED)
    names: Sequence[str] = named.get("tenant", ("",) * len(rows))
    tenants = tuple(sorted(set(names))) or ("",)
    index = {name: place for place, name in enumerate(tenants)}
    tenant = np.array([index[name] for name in names], dtype=np.int64)
    end = np.inf if until is None else until
    order = np.argsort(arrival, kind="stable")
    order = order[(arrival[order] >= since) & (arrival[order] < end)]
    if not len(order):
        raise TraceError(f"{path}: no request arrives from {since:g} s to {end:g} s; the file has {len(rows)} rows")
    return Trace(
        arrival_s=arrival[order] - since,
        input_tokens=tokens[0][order].astype(np.int64),
        output_tokens=tokens[1][order].astype(np.int64),
        tenant=tenant[order],
        tenants=tenants,
    )


def clone(trace: Trace, times: int, *, seed: int) -> Trace:
    """So many times the load: the trace and copies of it, each shifted by U(0, 60 s) and wrapped round at its end."""
    if times < 1:
        raise ValueError(f"times {times}: a trace can be taken once or more often")
    shifts = Generator(PCG64(seed)).uniform(0.0, CLONE_SHIFT_S, times)
    shifts[0] = 0.0
    span = max(trace.span_s, np.finfo(np.float64).tiny)
    arrival = np.concatenate([trace.arrival_s, *((trace.arrival_s + shift) % span for shift in shifts[1:])])
    order = np.argsort(arrival, kind="stable")
    return Trace(
        arrival_s=arrival[order],
        input_tokens=np.tile(trace.input_tokens, times)[order],
        output_tokens=np.tile(trace.output_tokens, times)[order],
        tenant=np.tile(trace.tenant, times)[order],
        tenants=trace.tenants,
    )


def _rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows below it, all of the header's length, and the lines that they are on."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.name.endswith(".gz") else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TraceError(f"{path}: not readable as a CSV file: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip() for name in next(_fields(path, reader), [])]
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise TraceError(
            f"{path}, line 1: the column {missing[0]} is missing; a trace has arrival_s,input_tokens,output_tokens "
            f"and may have tenant, the first line names {','.join(header) or 'nothing'}"
        )
    rows, lines = [], []
    for row in _fields(path, reader):
        if len(row) == len(header):
            rows.append(row)
            lines.append(reader.line_num)
        elif row:
            raise TraceError(f"{path}, line {reader.line_num}: {len(row)} fields, the first line names {len(header)}")
    return header, rows, lines


def _fields(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise TraceError(f"{path}: not readable as a CSV file: {error}") from error


def _numbers(path: Path, name: str, texts: Sequence[str], lines: Sequence[int]) -> Floats:
    """A column: times from 0 on, or whole tokens from 1 to MOST_TOKENS."""
    try:
        values = np.array(texts, dtype=np.float64)
    except ValueError:
        values = np.array([_number(text) for text in texts], dtype=np.float64)
    time = name == "arrival_s"
    fine = np.isfinite(values) & (
        values >= 0.0 if time else (values >= 1.0) & (values <= MOST_TOKENS) & (values == np.floor(values))
    )
    wrong = np.flatnonzero(~fine)
    if len(wrong):
        place = int(wrong[0])
        rule = "a number of seconds from 0 on" if time else f"a whole number from 1 on, at most {MOST_TOKENS:.0f}"
        raise TraceError(f"{path}, line {lines[place]}: {name} {texts[place]!r} must be {rule}")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
