"""The iteration-time model against public measurements, leaving each source out of the fit in turn."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.engine_rows import EngineRow, engine_rows, power_rows, site
from benchmarks.fitting import fit, median, solve, weighted_quantile
from slmpack.adapters.performance_table import load_performance_table
from slmpack.domain.calibration import Calibration, MeasuredPoint
from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.knee import GRID, Knee, KneePolicy, find_knee
from slmpack.domain.performance import Rate, Unpredictable, calibrate, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.steady_state import kv_limited_batch
from slmpack.domain.workload import Bounds

TABLE = load_performance_table()
GENERATIONS = tuple(constants.generation for _, constants in TABLE.generations)
SHARED = ("layer_s", "gddr_factor", "weight_efficiency", "cache_efficiency", "compute_efficiency")
PRIOR = (60e-6, 0.87, 0.90, 0.90, 0.55, 400e-6, 35e-6)
"""Before the fit: the shared constants, host time of an iteration, time of a sequence (docs of the sources)."""
SIGMA = (0.4, 0.08, 0.06, 0.10, 0.3, 0.8, 0.8)
"""How far, in logarithms, each may easily move."""
GENERATION_SIGMA = 0.4
"""How far a generation's host times may easily move from those of all."""
STALE = 0.01
"""How far a shipped constant may be from the fit of all rows."""
Parameters = Sequence[float]


def main() -> None:
    rows, taken = engine_rows()
    sources = sorted({row.source for row in rows})
    print(f"  rows that count: {len(rows)} of {len(sources)} sources; {sum(taken.values())} left out, by reason:")
    for reason, count in sorted(taken.items(), key=lambda item: -item[1]):
        print(f"    {count:4d}  {reason}")
    held_out = {source: fitted_constants([row for row in rows if row.source != source]) for source in sources}
    everything = fitted_constants(rows)
    _print_constants(everything, tuple(held_out.values()))
    residuals = {source: errors(_of(rows, source), held_out[source]) for source in sources}
    _print_zero_shot(rows, sources, residuals)
    _print_left_out(everything)
    _print_calibrated(rows, sources, held_out)
    _print_knee(rows, sources, held_out)
    _print_first_token(rows, held_out)


def constants_of(parameters: Parameters, row: EngineRow) -> EngineConstants:
    """A generation's constants with fitted parameters, as a row's engine ran."""
    index = GENERATIONS.index(row.generation)
    base = TABLE.generation(row.generation)
    layer, gddr, weight, cache, compute, *_ = map(math.exp, parameters)
    offline = row.source in {"LLM-Inference-Bench", "Qwen2.5 docs"}  # no API server
    return replace(
        base,
        layer_s=layer,
        gddr_factor=gddr,
        weight_efficiency=weight,
        cache_efficiency=cache,
        compute_efficiency=compute,
        step_s=math.exp(parameters[5] + parameters[7 + 2 * index]),
        sequence_s=math.exp(parameters[6] + parameters[8 + 2 * index]),
        chunked_prefill=base.chunked_prefill if row.chunked is None else row.chunked,
        request_s=0.0 if offline else base.request_s,
    )


def modelled(row: EngineRow, constants: EngineConstants, calibration: Calibration | None = None) -> float:
    """The model's counterpart of a row's seconds a token."""
    rate = rate_of(row, constants, calibration)
    return row.tenant.in_flight / rate.throughput_tok_s if row.per_request else rate.itl_s


def rate_of(row: EngineRow, constants: EngineConstants, calibration: Calibration | None = None) -> Rate:
    found = rates([row.tenant], site(row.gpu), constants, calibration=calibration)
    assert not isinstance(found, Unpredictable), found
    return found[0]


def errors(rows: Sequence[EngineRow], parameters: Parameters) -> list[float]:
    """log(modelled / measured) of each row."""
    known: dict[tuple[str, bool | None, str], EngineConstants] = {}
    found = []
    for row in rows:
        key = (row.generation, row.chunked, row.source)
        if key not in known:
            known[key] = constants_of(parameters, row)
        found.append(math.log(modelled(row, known[key]) / row.itl_s))
    return found


def fitted_constants(rows: Sequence[EngineRow]) -> list[float]:
    """Every source weighs one, against a prior of about the weight of a tenth of a source a parameter."""
    count = Counter(row.source for row in rows)
    weights = [65.0 / count[row.source] for row in rows]
    start = [*map(math.log, PRIOR), *[0.0] * (2 * len(GENERATIONS))]
    sigma = [*SIGMA, *[GENERATION_SIGMA] * (2 * len(GENERATIONS))]
    return fit(lambda parameters: errors(rows, parameters), weights, start, prior_sigma=sigma, rounds=6)


def _of(rows: Sequence[EngineRow], source: str) -> list[EngineRow]:
    return [row for row in rows if row.source == source]


def _print_constants(everything: Parameters, held_out: Sequence[Parameters]) -> None:
    print("\n  constant                     all rows   leaving one source out     data/performance.yaml")

    def line(name: str, value: Callable[[Parameters], float], shipped: float) -> None:
        others = [value(parameters) for parameters in held_out]
        mine = value(everything)
        stale = "  differs: ship the new fit" if abs(shipped / mine - 1.0) > STALE else ""
        print(f"    {name:26s} {mine:9.4g}   {min(others):9.4g} to {max(others):9.4g}   {shipped:9.4g}{stale}")

    first = TABLE.generation(GENERATIONS[0])
    for index, name in enumerate(SHARED):
        scale = 1e6 if name.endswith("_s") else 1.0
        shown = name.replace("_s", "_us") if name.endswith("_s") else name
        line(shown, lambda p, i=index, k=scale: math.exp(p[i]) * k, getattr(first, name) * scale)  # type: ignore[misc]
    for index, name in enumerate(GENERATIONS):
        own = TABLE.generation(name)
        line(f"step_us, {name}", lambda p, i=index: math.exp(p[5] + p[7 + 2 * i]) * 1e6, own.step_s * 1e6)  # type: ignore[misc]
        line(f"sequence_us, {name}", lambda p, i=index: math.exp(p[6] + p[8 + 2 * i]) * 1e6, own.sequence_s * 1e6)  # type: ignore[misc]


def _print_zero_shot(rows: Sequence[EngineRow], sources: Sequence[str], residuals: dict[str, list[float]]) -> None:
    print("\n  zero-shot, the source left out: median |error| of the seconds a token, and the 80 % interval's coverage")
    print("    source                rows   model  roofline    linear   covered")
    table = []
    for source in sources:
        mine = _of(rows, source)
        others = [row for row in rows if row.source != source]
        low, high = interval(residuals, without=source)
        inside = [low <= -error <= high for error in residuals[source]]
        table.append(
            (
                _typical(residuals[source]),
                _typical([math.log(roofline(row) / row.itl_s) for row in mine]),
                _typical(_linear_errors(others, mine)),
                sum(inside) / len(inside),
            )
        )
        print(f"    {source:20s} {len(mine):5d} {_percents(table[-1][:3])}   {table[-1][3]:6.0%}")
    means = [sum(column) / len(sources) for column in zip(*table, strict=True)]
    print(f"    {'mean of sources':20s} {len(rows):5d} {_percents(means[:3])}   {means[3]:6.0%}")
    low, high = interval(residuals, without=None)
    print(f"    80 % interval of measured over modelled, all sources: {math.exp(low):.3f} to {math.exp(high):.3f}")


def _print_left_out(everything: Parameters) -> None:
    """What the model would say of vLLM 0.5.4's server, whose front end it does not know; in no bar."""
    old = [row for row in power_rows() if row.source == "ML.ENERGY v2"]
    found = errors(old, everything)
    print(
        f"    left out, to compare: ML.ENERGY v2 (vLLM 0.5.4), {len(old)} rows: median |error| {_typical(found):.1%}, "
        f"measured over modelled {math.exp(-median(found)):.2f}"
    )


def interval(residuals: dict[str, list[float]], *, without: str | None) -> tuple[float, float]:
    """10th and 90th percentile of log(measured / modelled), every source weighing one."""
    values = [(-error, 1.0 / len(found)) for source, found in residuals.items() if source != without for error in found]
    return weighted_quantile(values, 0.1), weighted_quantile(values, 0.9)


def _typical(found: Sequence[float]) -> float:
    return median([abs(math.expm1(error)) for error in found])


def _percents(values: Sequence[float]) -> str:
    return "  ".join(f"{value:7.1%}" for value in values)


def roofline(row: EngineRow) -> float:
    """max(bytes / bandwidth, FLOPs / peak) at the catalogue's peaks, nothing else; prompts as in the model."""
    ideal = replace(
        TABLE.generation(row.generation),
        layer_s=0.0,
        step_s=0.0,
        sequence_s=0.0,
        request_s=0.0,
        gddr_factor=1.0,
        weight_efficiency=1.0,
        cache_efficiency=1.0,
        compute_efficiency=1.0,
    )
    return modelled(row, ideal)


def _linear_errors(train: Sequence[EngineRow], test: Sequence[EngineRow]) -> list[float]:
    """ITL = a + b * B with one a and b for all, by relative least squares; every source weighs one."""
    count = Counter(row.source for row in train)
    matrix, right = [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]
    for row in train:
        weight = 1.0 / count[row.source] / row.itl_s**2
        terms = (1.0, row.tenant.in_flight)
        for i in range(2):
            right[i] += weight * terms[i] * row.itl_s
            for j in range(2):
                matrix[i][j] += weight * terms[i] * terms[j]
    a, b = solve(matrix, right)
    return [math.log(max(1e-6, a + b * row.tenant.in_flight) / row.itl_s) for row in test]


def _curves(rows: Sequence[EngineRow]) -> list[list[EngineRow]]:
    """Curves of at least three batches with one request or few and a batch eight times as large, by rising batch."""
    by_name: defaultdict[str, list[EngineRow]] = defaultdict(list)
    for row in rows:
        by_name[row.curve].append(row)
    curves = [sorted(curve, key=lambda row: row.tenant.in_flight) for curve in by_name.values()]
    return [curve for curve in curves if len(curve) > 2 and curve[-1].tenant.in_flight >= 8 * curve[0].tenant.in_flight]


def ends(curve: Sequence[EngineRow]) -> tuple[EngineRow, EngineRow]:
    """The smallest batch, and the largest that the KV pool holds: beyond, engines preempt, and no profile is clean."""
    held = [row for row in curve if row.tenant.in_flight <= kv_limited_batch(row.tenant)]
    return curve[0], held[-1]


def calibrated(curve: Sequence[EngineRow], parameters: Parameters) -> Calibration:
    """From the curve's two ends."""
    constants = constants_of(parameters, curve[0])
    points = [MeasuredPoint(in_flight=row.tenant.in_flight, itl_s=row.itl_s) for row in ends(curve)]
    found = calibrate(points, curve[0].tenant, site(curve[0].gpu), constants)
    assert not isinstance(found, Unpredictable)
    return found


def _print_calibrated(rows: Sequence[EngineRow], sources: Sequence[str], held_out: dict[str, list[float]]) -> None:
    print(
        "\n  calibrated with a curve's smallest batch and the largest that the KV pool holds: mean |error| on the rest"
    )
    print("    source              curves  points   model  zero-shot    linear through the two")
    totals, ratios = [], []
    for source in sources:
        mine, before, linear = [], [], []
        curves = _curves(_of(rows, source))
        for curve in curves:
            constants = constants_of(held_out[source], curve[0])
            correction = calibrated(curve, held_out[source])
            first, last = ends(curve)
            for row in curve:
                if row is first or row is last:
                    continue
                mine.append(modelled(row, constants, correction) / row.itl_s - 1.0)
                before.append(modelled(row, constants) / row.itl_s - 1.0)
                linear.append(_between(first, last, row.tenant.in_flight) / row.itl_s - 1.0)
        if not mine:
            print(f"    {source:20s}     0  no curve of three batches")
            continue
        ratios.append([(-math.log1p(error), 1.0 / len(mine)) for error in mine])
        totals.append([sum(map(abs, found)) / len(mine) for found in (mine, before, linear)])
        print(f"    {source:20s} {len(curves):5d} {len(mine):7d} {_percents(totals[-1])}")
    print(
        f"    {'mean of sources':20s} {'':13s} {_percents([sum(c) / len(totals) for c in zip(*totals, strict=True)])}"
    )
    every = [pair for found in ratios for pair in found]
    low, high = weighted_quantile(every, 0.1), weighted_quantile(every, 0.9)
    print(f"    80 % interval of measured over calibrated: {math.exp(low):.3f} to {math.exp(high):.3f}")


def _between(first: EngineRow, last: EngineRow, batch: float) -> float:
    slope = (last.itl_s - first.itl_s) / (last.tenant.in_flight - first.tenant.in_flight)
    return first.itl_s + slope * (batch - first.tenant.in_flight)


def _print_knee(rows: Sequence[EngineRow], sources: Sequence[str], held_out: dict[str, list[float]]) -> None:
    print("\n  running at the modelled knee: throughput lost against the best measured one within 2 x ITL(32),")
    print("  as measured; off the measured batches interpolated in the logarithm of the batch")
    print("    source              curves   zero-shot: mean  worst  late (by)    calibrated: mean  worst  late (by)")
    totals = []
    for source in sources:
        curves = [curve for curve in _curves(_of(rows, source)) if _has_reference(curve)]
        if not curves:
            print(f"    {source:20s}     0  no curve with batches 1 and 32")
            continue
        both = []
        for corrected in (False, True):
            found = [_knee_loss(curve, held_out[source], corrected=corrected) for curve in curves]
            losses = [loss for loss, _ in found]
            late = [over for _, over in found if over > 0.0]
            both.append((sum(losses) / len(losses), max(losses), len(late), max(late, default=0.0)))
        totals.append((both[0][0], both[1][0]))
        shown = "      ".join(f"{mean:6.1%}  {worst:5.1%}  {n:3d} ({over:4.0%})" for mean, worst, n, over in both)
        print(f"    {source:20s} {len(curves):5d}           {shown}")
    means = [sum(column) / len(totals) for column in zip(*totals, strict=True)]
    print(f"    mean of sources: zero-shot {means[0]:.1%}, calibrated {means[1]:.1%}; late: knees whose measured ITL")
    print("    is over the bound, and by how much at worst (their throughput counts as no loss)")


def _has_reference(curve: Sequence[EngineRow]) -> bool:
    batches = {row.tenant.in_flight for row in curve}
    return {1.0, 32.0} <= batches and all(batch.is_integer() for batch in batches)


def _knee_loss(curve: Sequence[EngineRow], parameters: Parameters, *, corrected: bool) -> tuple[float, float]:
    """Part lost of the best measured throughput within the bound, and by which part the knee's ITL is over it."""
    constants = constants_of(parameters, curve[0])
    correction = calibrated(curve, parameters) if corrected else None

    def modelled_point(batch: float) -> CurvePoint:
        rate = rate_of(replace(curve[0], tenant=replace(curve[0].tenant, in_flight=batch)), constants, correction)
        return CurvePoint(batch=batch, throughput_tok_s=rate.throughput_tok_s, itl_s=rate.itl_s)

    policy = KneePolicy(grid=tuple(batch for batch in GRID if batch <= curve[-1].tenant.in_flight))
    knee = find_knee(modelled_point, policy, Bounds(), most=kv_limited_batch(curve[0].tenant))
    assert isinstance(knee, Knee)
    measured = Curve.of_points(
        CurvePoint(batch=row.tenant.in_flight, throughput_tok_s=row.throughput_tok_s, itl_s=row.itl_s) for row in curve
    )
    bound = 2.0 * measured.between(32.0).itl_s
    best = max(row.throughput_tok_s for row in curve if row.itl_s <= bound)
    chosen = measured.between(float(knee.batch))
    return max(0.0, 1.0 - chosen.throughput_tok_s / best), chosen.itl_s / bound - 1.0


def _print_first_token(rows: Sequence[EngineRow], held_out: dict[str, list[float]]) -> None:
    print("\n  time to first token, zero-shot, the source left out: measured over modelled, in no bar")
    timed: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.ttft_s is not None:
            timed[row.source].append(row.ttft_s / rate_of(row, constants_of(held_out[row.source], row)).ttft_s)
    for source, ratios in timed.items():
        print(f"    {source:20s} {len(ratios):5d} rows: {min(ratios):.2f} to {max(ratios):.2f}")
