"""The published knees of OPT-1.3B, found again, and the packing of measured replicas, beside simpler rules."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.interval import Basis
from slmpack.domain.knee import Knee, KneePolicy, find_knee
from slmpack.domain.paying import Load, Packing, PayPolicy, PayRule, pack_what_pays
from slmpack.domain.workload import Bounds, Objective

DATA = Path(__file__).parents[1] / "tests" / "data"
PUBLISHED = ((0.1, 2, 96), (0.1, 4, 256), (0.2, 5, 96))
CASES = (
    ("memory-gap", "opt-1.3b", 256, (512, 1024)),
    ("memory-gap", "opt-2.7b", 128, (256, 512)),
    ("dynamo", "Qwen3-4B", 32, (16, 32, 64)),
)
"""Source, model, the batch of each replica, requests in flight on the GPU."""


def main() -> None:
    points = [_point(row) for row in _rows("opt13b-curve.csv")]
    best = max(points, key=lambda point: point.throughput_tok_s)
    print("  OPT-1.3B on the published grid: batch, what stops the next one, part of the best throughput")
    for epsilon, factor, published in PUBLISHED:
        for doubling in (None, 1.10):
            policy = KneePolicy(epsilon=epsilon, itl_factor=factor, doubling_gain=doubling)
            knee = find_knee(points, policy, Bounds())
            assert isinstance(knee, Knee)
            found = f"{knee.batch:4} ({knee.binding.value}, {knee.throughput_tok_s / best.throughput_tok_s:.2f})"
            clause = "off" if doubling is None else "on"
            print(f"    epsilon {epsilon}, ITL x {factor}, doubling clause {clause:3}: {found}   published {published}")
    print(f"    baseline, most throughput: {best.batch:g} at {best.itl_s * 1000:.1f} ms a token")
    rule = PayRule(
        policy=PayPolicy(), objective=Objective.THROUGHPUT, spread=PayPolicy().run_to_run, basis=Basis.MEASURED
    )
    print("  replicas by measured throughput; baseline: the most throughput of replicas at this batch")
    for source, model, batch, loads in CASES:
        packings = _packings(source, model, batch)
        for in_flight in loads:
            answer = pack_what_pays(packings, Load(in_flight=in_flight), Bounds(), rule=rule)
            assert answer is not None
            steps = " ".join(step.text for step in answer.steps)
            naive = max(packings, key=lambda packing: packing.curve.at(batch).throughput_tok_s).replicas
            print(f"    {model}, {in_flight} in flight: {answer.operating.replicas} (baseline {naive}). {steps}")


def _packings(source: str, model: str, batch: int) -> list[Packing]:
    rows = [row for row in _rows("packing-curves.csv") if (row["source"], row["model"]) == (source, model)]
    return [
        Packing(
            replicas=count,
            curve=Curve.of_points(_point(row) for row in rows if int(row["replicas"]) == count),
            runs=batch,
            most=math.inf,
        )
        for count in sorted({int(row["replicas"]) for row in rows})
    ]


def _point(row: dict[str, str]) -> CurvePoint:
    return CurvePoint(
        batch=int(row["batch"]),
        throughput_tok_s=float(row["throughput_tok_s"]),
        itl_s=float(row["itl_ms"]) / 1000,
    )


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
