from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.knee import GRID, Binding, Knee, KneePolicy, NoKnee, find_knee
from slmpack.domain.workload import Bounds

POLICY = KneePolicy()
NO_BOUNDS = Bounds()
PUBLISHED = Path(__file__).parents[2] / "data" / "opt13b-curve.csv"


def published_points() -> list[CurvePoint]:
    with PUBLISHED.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        CurvePoint(
            batch=int(row["batch"]),
            throughput_tok_s=float(row["throughput_tok_s"]),
            itl_s=float(row["itl_ms"]) / 1000,
        )
        for row in rows
    ]


def linear(
    host_s: float = 0.005, per_sequence_s: float = 0.0001, *, ttft_s: float | None = None
) -> Callable[[float], CurvePoint]:
    """The plain ITL model a + b * B."""

    def point(batch: float) -> CurvePoint:
        itl = host_s + per_sequence_s * batch
        return CurvePoint(
            batch=batch, throughput_tok_s=batch / itl, itl_s=itl, ttft_s=None if ttft_s is None else ttft_s * batch
        )

    return point


def knee_of(
    curve: Curve | Sequence[CurvePoint] | Callable[[float], CurvePoint],
    policy: KneePolicy = POLICY,
    bounds: Bounds = NO_BOUNDS,
    *,
    most: float | None = None,
    limit: int | None = None,
) -> Knee:
    found = find_knee(curve, policy, bounds, most=most, limit=limit)
    assert isinstance(found, Knee)
    return found


@pytest.mark.parametrize("doubling", [None, 1.10])
@pytest.mark.parametrize(
    ("epsilon", "factor", "batch", "binding"),
    [(0.1, 2, 96, Binding.ITL_FACTOR), (0.1, 4, 256, Binding.ITL_FACTOR), (0.2, 5, 96, Binding.EPSILON)],
)
def test_published_knees_of_opt_1_3b(
    epsilon: float, factor: float, batch: int, binding: Binding, doubling: float | None
) -> None:
    policy = KneePolicy(epsilon=epsilon, itl_factor=factor, doubling_gain=doubling)
    knee = knee_of(published_points(), policy)
    assert (knee.batch, knee.binding) == (batch, binding)


def test_the_published_curve_with_no_limit_on_latency_stops_where_doubling_gives_less_than_a_tenth() -> None:
    knee = knee_of(published_points(), KneePolicy(epsilon=0, itl_factor=math.inf))
    assert (knee.batch, knee.binding) == (256, Binding.DOUBLING)
    assert knee.explanation == "The knee is 256: 384 gives 8.0 % more than 192, less than 10.0 %."


def test_an_explanation_gives_the_numbers() -> None:
    strict = knee_of(published_points())
    assert strict.explanation == "The knee is 96: at 128 the ITL is 17.4 ms, over 2 x the 7.5 ms at 32."
    assert strict.itl_s == pytest.approx(0.01389)
    assert strict.throughput_tok_s == 6552.6
    fair = knee_of(published_points(), KneePolicy(epsilon=0.2, itl_factor=5))
    assert "at 128 a request gets 0.195 of the speed that it has alone, not over 0.2" in fair.explanation


@pytest.mark.parametrize(
    ("bounds", "most", "limit", "batch", "binding", "text"),
    [
        (Bounds(), 70.4, None, 64, Binding.KV_CACHE, "the KV cache holds 70.4 requests of this length"),
        (Bounds(), None, 50, 48, Binding.MAX_NUM_SEQS, "max-num-seqs is 50, less than 56"),
        (Bounds(itl_s=0.007), None, None, 16, Binding.ITL_BOUND, "at 24 the ITL is 7.4 ms, over the bound of 7.0 ms"),
        (Bounds(ttft_s=0.5), None, None, 4, Binding.TTFT_BOUND, "at 8 the TTFT is 800.0 ms, over the bound of 500.0"),
    ],
)
def test_each_limit_binds(
    bounds: Bounds, most: float | None, limit: int | None, batch: int, binding: Binding, text: str
) -> None:
    knee = knee_of(linear(ttft_s=0.1), bounds=bounds, most=most, limit=limit)
    assert (knee.batch, knee.binding) == (batch, binding)
    assert text in knee.explanation


def test_replicas_that_share_a_gpu_keep_to_the_latency_of_one_alone() -> None:
    alone, shared = linear(), linear(host_s=0.007)
    assert knee_of(shared).batch == 128
    knee = knee_of(shared, replace(POLICY, reference_itl_s=alone(32).itl_s))
    assert (knee.batch, knee.binding) == (80, Binding.ITL_FACTOR)
    slow = find_knee(shared, replace(POLICY, reference_itl_s=0.003), NO_BOUNDS)
    assert slow == NoKnee(
        reason="Not even one sequence at a time: at 1 the ITL is 7.1 ms, over 2 x the 3.0 ms of one replica alone at 32.",
        broken=Binding.ITL_FACTOR,
    )


def test_a_bound_on_a_latency_that_was_not_measured_is_not_kept() -> None:
    found = find_knee(published_points(), KneePolicy(), Bounds(ttft_s=1.0))
    assert found == NoKnee(
        reason="Not even one sequence at a time: at 1 the TTFT is not known.", broken=Binding.TTFT_BOUND
    )


def test_a_batch_of_any_size_pays_where_nothing_binds() -> None:
    knee = knee_of(linear(per_sequence_s=0))
    assert (knee.batch, knee.binding) == (512, Binding.GRID_END)
    assert knee.explanation == "The knee is 512: no larger batch was tried."


def test_the_knee_is_the_largest_point_that_pays_even_if_a_smaller_one_does_not() -> None:
    dip = [
        CurvePoint(batch=1, throughput_tok_s=100, itl_s=0.01),
        CurvePoint(batch=2, throughput_tok_s=105, itl_s=0.019),
        CurvePoint(batch=4, throughput_tok_s=390, itl_s=0.0103),
    ]
    assert knee_of(dip).batch == 4


def test_a_curve_without_batch_one_has_no_knee() -> None:
    assert find_knee(published_points()[1:], KneePolicy(), NO_BOUNDS) == NoKnee(
        reason="The curve has no point at batch 1, which the rule compares with: measure one."
    )
    assert isinstance(find_knee([], KneePolicy(), NO_BOUNDS), NoKnee)


def test_a_cache_that_holds_no_request_is_told_without_asking_the_model() -> None:
    def never(batch: float) -> CurvePoint:
        raise AssertionError(batch)

    found = find_knee(never, KneePolicy(), NO_BOUNDS, most=0.7)
    assert isinstance(found, NoKnee)
    assert found.reason == (
        "Not even one sequence at a time: the KV cache holds 0.7 requests of this length, fewer than 1."
    )


def test_a_measured_curve_is_read_between_its_points_and_covers_nothing_beyond() -> None:
    curve = Curve.of_points(
        [
            CurvePoint(batch=64, throughput_tok_s=300, itl_s=0.03, ttft_s=0.3),
            CurvePoint(batch=16, throughput_tok_s=100, itl_s=0.01, ttft_s=0.1, energy_j_per_token=1),
        ]
    )
    middle = curve.at(32)
    assert (middle.batch, middle.energy_j_per_token) == (32, None)
    assert [middle.throughput_tok_s, middle.itl_s, middle.ttft_s] == pytest.approx([200, 0.02, 0.2])
    assert curve.at(16) == curve.at(8)
    assert curve.at(64) == curve.at(100)
    assert [batch for batch in (8, 16, 40, 64, 65) if curve.covers(batch)] == [16, 40, 64]
    assert not Curve.of_points([]).covers(1)


def test_a_computed_curve_is_asked_once_for_each_batch_and_for_any() -> None:
    asked: list[float] = []
    plain = linear()

    def point(batch: float) -> CurvePoint:
        asked.append(batch)
        return plain(batch)

    curve = Curve.of_function(GRID, point)
    assert curve.covers(700)
    assert curve.at(700) == curve.at(700)
    assert asked == [700]
    assert knee_of(curve).batch == knee_of(curve).batch
    assert len(asked) == len(set(asked))


seconds = st.floats(min_value=1e-4, max_value=0.05)
itl_bounds = st.none() | st.floats(min_value=1e-4, max_value=0.5)


@given(host=seconds, each=st.floats(min_value=1e-6, max_value=0.002), first=itl_bounds, second=itl_bounds)
def test_a_tighter_bound_never_raises_the_knee(
    host: float, each: float, first: float | None, second: float | None
) -> None:
    tight, loose = sorted((first, second), key=lambda bound: math.inf if bound is None else bound)

    def batch(bound: float | None) -> int:
        found = find_knee(linear(host, each), KneePolicy(), Bounds(itl_s=bound))
        return found.batch if isinstance(found, Knee) else 0

    assert batch(tight) <= batch(loose)


@given(host=seconds, each=st.floats(min_value=1e-6, max_value=0.002), most=st.floats(min_value=1, max_value=600))
def test_the_knee_keeps_every_clause_and_the_next_batch_does_not(host: float, each: float, most: float) -> None:
    point = linear(host, each)
    policy = KneePolicy(doubling_gain=None)
    knee = knee_of(point, policy, most=most)

    def keeps(batch: int) -> bool:
        fast = point(batch).itl_s <= 2 * point(32).itl_s
        return batch <= most and fast and point(batch).throughput_tok_s > 0.1 * batch * point(1).throughput_tok_s

    assert knee.batch == max(batch for batch in GRID if keeps(batch))
