"""Traces: any CSV with the three columns, and errors that say where."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from slmpack.simulate.trace import TraceError, clone, read_trace
from tests.unit.simulate.worlds import requests

_TEXT = "tenant,arrival_s,input_tokens,output_tokens,model\nb,2.5,20,3,x\na,0,10,1,x\nb,4,30,5,x\n"


def _file(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_columns_are_found_by_name_and_rows_sorted(tmp_path: Path, name: str) -> None:
    trace = read_trace(_file(tmp_path, _TEXT, name))
    assert list(trace.arrival_s) == [0.0, 2.5, 4.0]
    assert list(trace.input_tokens) == [10, 20, 30]
    assert list(trace.output_tokens) == [1, 3, 5]
    assert [trace.tenants[index] for index in trace.tenant] == ["a", "b", "b"]
    assert len(trace) == 3
    assert trace.span_s == 4.0


def test_without_a_tenant_column_there_is_one_without_a_name(tmp_path: Path) -> None:
    trace = read_trace(_file(tmp_path, "arrival_s, input_tokens, output_tokens\r\n1e1,5.0,6\r\n\r\n"))
    assert trace.tenants == ("",)
    assert list(trace.tenant) == [0]
    assert list(trace.arrival_s) == [10.0]


def test_a_cut_begins_at_zero_and_keeps_all_tenants(tmp_path: Path) -> None:
    trace = read_trace(_file(tmp_path, _TEXT), since=2.0, until=4.0)
    assert list(trace.arrival_s) == [0.5]
    assert trace.tenants == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: the column arrival_s is missing"),
        ("arrival_s,input_tokens\n1,2\n", "line 1: the column output_tokens is missing"),
        ("arrival_s,input_tokens,output_tokens\n1,2\n", "line 2: 2 fields, the first line names 3"),
        (
            "arrival_s,input_tokens,output_tokens\n1,2,3\nx,2,3\n",
            "line 3: arrival_s 'x' must be a number of seconds from 0 on",
        ),
        (
            "arrival_s,input_tokens,output_tokens\n-1,2,3\n",
            "line 2: arrival_s '-1' must be a number of seconds from 0 on",
        ),
        (
            "arrival_s,input_tokens,output_tokens\nnan,2,3\n",
            "line 2: arrival_s 'nan' must be a number of seconds from 0 on",
        ),
        ("arrival_s,input_tokens,output_tokens\n1,0,3\n", "line 2: input_tokens '0' must be a whole number from 1 on"),
        ("arrival_s,input_tokens,output_tokens\n1,5,\n", "line 2: output_tokens '' must be a whole number from 1 on"),
        ("arrival_s,input_tokens,output_tokens\n1,5,2.5\n", "line 2: output_tokens '2.5' must be a whole number"),
        ("arrival_s,input_tokens,output_tokens\n\n1,5,2\n1,5,z\n", "line 4: output_tokens 'z' must be a whole number"),
        ("arrival_s,input_tokens,output_tokens\n", "no request arrives from 0 s to inf s; the file has 0 rows"),
    ],
)
def test_a_file_that_is_no_trace_says_where(tmp_path: Path, text: str, says: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "t.csv.gz"
    broken.write_bytes(b"no gzip")
    latin = tmp_path / "t.csv"
    latin.write_bytes(b"\xff\xfe\xfa")
    for path in (broken, latin, tmp_path / "absent.csv"):
        with pytest.raises(TraceError, match="not readable as a CSV file"):
            read_trace(path)


def test_clones_are_shifted_and_wrapped_round() -> None:
    trace = requests(*((float(n), n + 1, 2 * n + 1) for n in range(601)))
    more = clone(trace, 3, seed=7)
    assert len(more) == 3 * len(trace)
    assert (np.diff(more.arrival_s) >= 0).all()
    assert more.span_s <= trace.span_s
    assert sorted(more.input_tokens) == sorted([*trace.input_tokens] * 3)
    pairs = zip(more.arrival_s, more.input_tokens, strict=True)
    shifts = sorted({round(float(at - (size - 1)) % 600.0, 6) for at, size in pairs})
    assert len(shifts) == 3
    assert shifts[0] == 0.0
    assert 0.0 < shifts[1] < shifts[2] < 60.0
    assert (clone(trace, 3, seed=7).arrival_s == more.arrival_s).all()
    assert (clone(trace, 3, seed=8).arrival_s != more.arrival_s).any()
    assert (clone(trace, 1, seed=7).arrival_s == trace.arrival_s).all()


def test_clone_needs_at_least_one() -> None:
    with pytest.raises(ValueError, match="times 0"):
        clone(requests((0.0, 1, 1)), 0, seed=1)
