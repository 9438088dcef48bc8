"""Replicas that lie in /metrics: one of them neither breaks the round for others nor holds up the operator."""

from __future__ import annotations

import pytest

from slmpack.adapters.metric_names import EngineNames
from slmpack.adapters.scrape_windows import Ring, figures_of, read_figures
from slmpack.domain.snapshot import Key

USUAL = "vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:request_success_total 5\n"
TTFT = "vllm:time_to_first_token_seconds_bucket"
DONE = "vllm:request_success_total"


@pytest.mark.parametrize(
    "lie",
    [
        f'{TTFT}{{le="soon"}} 5\n',
        f'{TTFT}{{le="NaN"}} 5\n',
        f'{TTFT}{{le="-1"}} 5\n',
        f"{TTFT} 5\n",
        f'{DONE}{{a="1"}} 1.7e308\n{DONE}{{a="2"}} 1.7e308\n',
        f"{DONE} NaN\n",
        f"{DONE} many\n",
        "".join(f'{DONE}{{a="{number}"}} 1\n' for number in range(5000)),
        f'{DONE}{{a="{"x" * 5000}"}} 1\n',
    ],
    ids=["le-word", "le-nan", "le-negative", "le-missing", "overflow", "nan", "word", "many-lines", "long-line"],
)
def test_a_lie_makes_that_replica_unheard(lie: str) -> None:
    with pytest.raises(ValueError):
        read_figures(USUAL + lie, EngineNames())


def test_a_quarter_of_an_hour_of_work_for_the_parser_is_refused_before() -> None:
    """Its time grows with the square of the escaped quotes in a line."""
    with pytest.raises(ValueError, match="4096 characters"):
        read_figures(USUAL + DONE + '{a="' + '\\"' * 1_900_000 + '"} 1\n', EngineNames())


def test_the_usual_is_read() -> None:
    ring = Ring(deployment=Key("team", "chat"))
    for at in (0.0, 15.0):
        ring.add(
            at, read_figures(USUAL + f'{TTFT}{{le="0.1"}} {at + 1}\n{TTFT}{{le="+Inf"}} {at + 1}\n', EngineNames())
        )
    assert figures_of([ring], 15.0)["ttft_s"] == pytest.approx(0.095)
