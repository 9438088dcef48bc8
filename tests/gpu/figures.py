"""From times and counters to tokens/s, latency and watts; and beside them what `slmpack predict` says. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["GENERATED", "LoadError", "compare", "latencies", "percentile", "read_counter", "throughput"]

Json = dict[str, Any]
GENERATED = "vllm:generation_tokens_total"
MS = 1000.0
COMPARED = (
    ("throughput_tok_s", "throughput_tok_s"),
    ("itl_ms", "itl_ms"),
    ("ttft_ms", "ttft_ms"),
    ("power_w", "power_w"),
)
"""A figure of `slmpack predict -o json`, and ours."""


class LoadError(ValueError):
    """What was measured is no steady load; the message says why."""


def read_counter(text: str, name: str = GENERATED) -> float:
    """The sum of a counter's series in a Prometheus text. Raises LoadError if there is none."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)", text, flags=re.MULTILINE)
    if not found:
        raise LoadError(f"/metrics has no {name}")
    return sum(map(float, found))


def throughput(before: Sequence[float], after: Sequence[float], *, seconds: float) -> float:
    """Output tokens a second, by the engines' counters at both ends of the window."""
    if len(before) != len(after) or any(b > a for b, a in zip(before, after, strict=True)):
        raise LoadError("an engine's counter went back: it was restarted")
    return (sum(after) - sum(before)) / seconds


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise LoadError("no values")
    rank = -(-int(part * 1_000_000) * len(ordered) // 1_000_000)  # rounded up, without float dust
    return ordered[max(rank, 1) - 1]


def latencies(done: Sequence[Sequence[float]], *, began: float, ended: float, output: int) -> Json:
    """Of the completions of full length that lie in the window by their end: ITL and TTFT in ms.

    A completion's ITL is its time from first to last token over the gaps; the mean is over completions.
    """
    full = [one for one in done if began <= one[2] <= ended and int(one[3]) == output and output > 1]
    if not full:
        raise LoadError("no completion of full length ended in the window: make it longer, or the answers shorter")
    itl = [(last - first) / (output - 1) * MS for _, first, last, _ in full]
    ttft = [(first - sent) * MS for sent, first, _, _ in full]
    return {
        "completions": len(full),
        "itl_ms": _rounded(sum(itl) / len(itl)),
        "itl_of_a_request_p50_ms": _rounded(percentile(itl, 0.5)),
        "itl_of_a_request_p99_ms": _rounded(percentile(itl, 0.99)),
        "ttft_ms": _rounded(sum(ttft) / len(ttft)),
        "ttft_p99_ms": _rounded(percentile(ttft, 0.99)),
    }


def compare(measured: Mapping[str, Any], predicted: Mapping[str, Any]) -> list[Json]:
    """One row a figure that both have: measured, expected, low, high, whether inside, measured over expected."""
    rows = []
    for theirs, ours in COMPARED:
        found, value = predicted.get(theirs), measured.get(ours)
        if found is None or value is None:
            continue
        rows.append(
            {
                "figure": theirs,
                "measured": value,
                **{key: found[key] for key in ("value", "low", "high", "basis")},
                "inside": found["low"] <= value <= found["high"],
                "ratio": _rounded(value / found["value"]) if found["value"] else None,
            }
        )
    return rows


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
