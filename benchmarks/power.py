"""Board power against what the engines move and compute: a fit for each GPU with data, and one for all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engine_rows import EngineRow, power_rows
from benchmarks.fitting import solve, weighted_quantile
from slmpack.domain.power import bytes_a_second, flops_a_second
from slmpack.domain.steady_state import kv_limited_batch

ENOUGH = 20
"""Rows that a fit of its own takes; with fewer, or of one model only, a GPU stays [loaded idle, TDP]."""
RIDGE = 0.02
"""Pull of each coefficient to zero, in parts of the TDP squared: memory and compute rise together with the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured point of power; utilisations are parts of the catalogue's peaks."""

    gpu: str
    tdp_w: float
    memory: float
    compute: float
    watts: float


def main() -> None:
    points = [_point(row) for row in power_rows()]
    gpus = sorted({point.gpu for point in points})
    print("  power / TDP = active + memory * bandwidth utilisation + compute * FLOP utilisation, as measured")
    print("  gpu                 rows   active  memory  compute   watts: each           MAPE  80 % of measured / fit")
    for gpu in gpus:
        mine = [point for point in points if point.gpu == gpu]
        found = _fit(mine)
        watts = "  ".join(f"{value * mine[0].tdp_w:6.0f}" for value in found)
        print(f"  {gpu:18s} {_line(mine, found)}   {watts}  {_errors(mine, found)}")
    print("  for GPUs without data, the GPU left out of the fit (each GPU weighs one):")
    for gpu in gpus:
        mine = [point for point in points if point.gpu == gpu]
        found = _fit([point for point in points if point.gpu != gpu])
        print(f"  {gpu:18s} {_line(mine, found)}   {'':22s}  {_errors(mine, found)}")
    found = _fit(points)
    print(f"  {'all':18s} {_line(points, found)}   {'':22s}  {_errors(points, found)}")


def _point(row: EngineRow) -> Point:
    peak = row.gpu.dense_tflops.of(row.tenant.model.compute_dtype)
    assert peak is not None
    assert row.gpu.bandwidth_gb_s is not None
    assert row.power_w is not None
    batch = min(row.tenant.in_flight, kv_limited_batch(row.tenant))
    return Point(
        gpu=row.gpu.id,
        tdp_w=row.gpu.tdp_w,
        memory=min(
            1.0, bytes_a_second(row.tenant, batch, batch / row.throughput_tok_s) / (row.gpu.bandwidth_gb_s * 1e9)
        ),
        compute=flops_a_second(row.tenant, row.throughput_tok_s) / (peak * 1e12),
        watts=row.power_w,
    )


def _fit(points: Sequence[Point]) -> tuple[float, float, float]:
    """Least relative squares, no coefficient below zero: those that would be are left out."""
    count = {point.gpu: sum(other.gpu == point.gpu for other in points) for point in points}
    used = [0, 1, 2]
    while True:
        size = len(used)
        matrix = [[RIDGE * (i == j and used[i] > 0) for j in range(size)] for i in range(size)]
        right = [0.0] * size
        for point in points:
            terms = (1.0, point.memory, point.compute)
            part = point.watts / point.tdp_w
            weight = 1.0 / count[point.gpu] / part**2
            for i, a in enumerate(used):
                right[i] += weight * terms[a] * part
                for j, b in enumerate(used):
                    matrix[i][j] += weight * terms[a] * terms[b]
        found = dict(zip(used, solve(matrix, right), strict=True))
        worst = min(used, key=found.__getitem__)
        if found[worst] >= 0.0:
            return found.get(0, 0.0), found.get(1, 0.0), found.get(2, 0.0)
        used.remove(worst)


def _modelled(point: Point, found: Sequence[float]) -> float:
    part = found[0] + found[1] * point.memory + found[2] * point.compute
    return min(1.0, part) * point.tdp_w


def _line(points: Sequence[Point], found: Sequence[float]) -> str:
    return f"{len(points):4d}   {'  '.join(f'{value:6.3f}' for value in found)}"


def _errors(points: Sequence[Point], found: Sequence[float]) -> str:
    count = {point.gpu: sum(other.gpu == point.gpu for other in points) for point in points}
    ratios = [(point.watts / _modelled(point, found), 1.0 / count[point.gpu]) for point in points]
    mape = sum(weight * abs(1.0 / ratio - 1.0) for ratio, weight in ratios) / sum(weight for _, weight in ratios)
    few = "" if len(points) >= ENOUGH else "  (too few rows for a fit of its own)"
    return f"{mape:6.1%}  {weighted_quantile(ratios, 0.1):.2f} to {weighted_quantile(ratios, 0.9):.2f}{few}"
