"""Traces that somebody made to do harm."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from slmpack.simulate.trace import TraceError, read_trace

HEADER = "arrival_s,input_tokens,output_tokens\n"


@pytest.mark.parametrize("tokens", ["1000000001", "99999999999999999999", "1e300"])
def test_tokens_beyond_any_request_are_refused(tmp_path: Path, tokens: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}1,5,5\n2,{tokens},5\n")
    with pytest.raises(TraceError, match=r"line 3: input_tokens .* at most 1000000000"):
        read_trace(path)


@pytest.mark.parametrize("text", [f"{HEADER}1,1,{'1' * 200_000}\n", f"{'a' * 200_000}\n"], ids=["row", "header"])
def test_a_field_without_end_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match="not readable as a CSV file: field larger"):
        read_trace(path)


def test_a_gzip_that_is_broken_within_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    whole = bytearray(gzip.compress(HEADER.encode() * 1000))
    whole[12:20] = b"\xff" * 8
    path.write_bytes(whole)
    with pytest.raises(TraceError, match="not readable as a CSV file"):
        read_trace(path)
