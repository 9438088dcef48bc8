"""Figures of outcomes that are written down here."""

from __future__ import annotations

import numpy as np
import pytest

from slmpack.simulate.fleet import Change
from slmpack.simulate.readings import Outcome
from slmpack.simulate.results import Figures, Measured, attained, figures_of
from slmpack.simulate.trace import Trace

BOUNDS = np.array([0.010, 0.020, 0.040])
"""Of the fine histogram."""


def a_trace() -> Trace:
    """Six requests, one a second from 1 s; the last two are the second tenant's."""
    return Trace(
        arrival_s=np.arange(1.0, 7.0),
        input_tokens=np.full(6, 100),
        output_tokens=np.full(6, 10),
        tenant=np.array([0, 0, 0, 0, 1, 1]),
        tenants=("a", "b"),
    )


def outcome(
    at: float,
    *,
    ttft: list[float],
    tpot: list[float],
    rejected: tuple[int, ...] = (),
    tokens: int = 0,
    itl: tuple[int, ...] = (0, 0, 0, 0),
    gpu_s: float = 0.0,
    joules: float = 0.0,
    replica_s: tuple[float, ...] = (),
) -> Outcome:
    made = np.zeros(6, dtype=np.int64)
    made[0] = tokens
    out = np.isin(np.arange(6), rejected)
    return Outcome(
        at=at,
        ttft_s=np.array(ttft),
        tpot_s=np.array(tpot),
        output_tokens=made,
        finished=np.isfinite(np.array(tpot)),
        rejected=out,
        replica=np.zeros(6, dtype=np.int64),
        preemptions=np.zeros(6, dtype=np.int64),
        itl_bounds=BOUNDS,
        itl_counts=np.array([itl, (0, 0, 0, 0)]),
        gpu_s=np.array([gpu_s, gpu_s]),
        joules=np.array([joules, 0.0]),
        replica_s=np.array(replica_s),
        replica_tenant=np.zeros(len(replica_s), dtype=np.int64),
        replica_gpu=np.zeros(len(replica_s), dtype=np.int64),
    )


NAN = float("nan")
NONE = [NAN] * 6


def measured(*, rejected: tuple[int, ...] = (), changes: tuple[Change, ...] = ()) -> Measured:
    """A warm-up of 2.5 s, which leaves the first two requests out. The third is late, the fifth slow, the sixth never
    answered."""
    ttft, tpot = [0.1, 0.1, 1.5, 0.3, 0.2, NAN], [0.01, 0.01, 0.01, 0.02, 0.06, NAN]
    return Measured(
        trace=a_trace(),
        warm=outcome(
            2.5, ttft=NONE, tpot=NONE, tokens=100, itl=(50, 0, 0, 0), gpu_s=2.5, joules=500.0, replica_s=(2.5,)
        ),
        end=outcome(
            6.0, ttft=ttft, tpot=tpot, tokens=400, gpu_s=3602.5, joules=3.6e6 + 500.0, replica_s=(3602.5, 1800.0)
        ),
        last=outcome(9.0, ttft=ttft, tpot=tpot, rejected=rejected, tokens=400, itl=(50, 60, 39, 1)),
        changes=changes,
        ttft_bounds=np.full(6, 1.0),
        tpot_bounds=np.array([0.05, 0.05]),
    )


def test_what_came_during_the_warm_up_is_left_out() -> None:
    figures = figures_of(measured())
    assert figures.slo_attainment == pytest.approx(1 / 4)
    assert figures.worst_tenant_slo == 0.0
    assert figures.ttft_p50_ms == pytest.approx((300.0 + 1500.0) / 2)  # 0.2, 0.3, 1.5 and the 3 s of the unanswered one
    assert figures.gpu_hours == pytest.approx(2 * 1.0)
    assert figures.slot_hours == pytest.approx(1.5)
    assert figures.energy_kwh == pytest.approx(1.0)
    assert figures.j_per_token == pytest.approx(3.6e6 / 300)


def test_percentiles_of_single_tokens_are_bounds_of_bins() -> None:
    figures = figures_of(measured())
    assert figures.itl_p50_ms == pytest.approx(20.0)
    assert figures.itl_p99_ms == pytest.approx(40.0)


def test_each_bound_counts_and_so_does_an_answer_that_never_came() -> None:
    assert attained(measured()).tolist() == [True, True, False, True, False, False]


def test_rejected_requests_are_counted_apart() -> None:
    figures = figures_of(measured(rejected=(1, 5)))
    assert figures.rejected == 1
    assert figures.slo_attainment == pytest.approx(1 / 3)


def change(at: float, *, up: bool, tenant: int = 0) -> Change:
    return Change(at=at, tenant=tenant, up=up)


def test_replicas_of_one_moment_are_one_event() -> None:
    changes = (change(3.0, up=True), change(3.0, up=True), change(3.0, up=True, tenant=1), change(4.0, up=True))
    figures = figures_of(measured(changes=changes))
    assert (figures.scale_events, figures.cold_starts, figures.reversals) == (3, 4, 0)


def test_the_other_way_within_ten_minutes_is_a_reversal() -> None:
    whole = measured(
        changes=(
            change(1.0, up=True),  # in the warm-up
            change(3.0, up=False),
            change(3.5, up=True, tenant=1),  # another tenant's
            change(4.0, up=True),
            change(5.0, up=True),
        )
    )
    figures = figures_of(whole)
    assert (figures.scale_events, figures.reversals) == (4, 1)


def test_figures_survive_json() -> None:
    figures = figures_of(measured())
    again = Figures.read(figures.to_json())
    assert again.to_json() == figures.to_json()
    assert set(figures.to_json()) == {
        "slo_attainment", "worst_tenant_slo", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "gpu_hours",
        "slot_hours", "energy_kwh", "j_per_token", "scale_events", "reversals", "cold_starts", "rejected",
    }  # fmt: skip
