"""The simulator against what was measured: two request logs of a real engine, and several engines on one GPU.

Request logs: an engine whose decode is the sum of the layer times that the same project measured at 512 tokens of
context (data/request-logs/layer-times.csv) and half a millisecond of host time, which is assumed; its prompts and what
a longer context costs are the operator's own model, fitted without these runs, since no carried row measures them.
Beside it that model alone, as it ships and calibrated with the same decode times.
Replicas: the engine's constants are fitted without the source of these rows, what sharing costs on the other group.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.colocation import clean_pairs, fitted_sharing, sharing_of
from benchmarks.engine_rows import (
    DATA,
    H100_64,
    a_tenant,
    calibration_rows,
    engine_rows,
    model,
    pool_tokens,
    site,
)
from benchmarks.iteration_time import constants_of, fitted_constants
from slmpack.adapters.performance_table import load_performance_table
from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.calibration import MeasuredPoint
from slmpack.domain.performance import Unpredictable, calibrate
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Sharing, Tenant
from slmpack.simulate.cluster import Cluster, EngineSpec, Outcome
from slmpack.simulate.costs import engine_spec
from slmpack.simulate.power import board_of
from slmpack.simulate.trace import Trace
from slmpack.simulate.truth import AS_MODELLED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MODEL = "meta-llama/Llama-3.1-8B"
LOGS = (("rtx-pro-6000-blackwell-server", 128, 500_000, 0), ("rtx-4090", 256, 41_000, 186))
"""GPU, max_num_seqs, KV tokens and preemptions of the runs. The first run's log never shows more than 128 requests in
the engine, and its pool never fills; the second's pool of 41k tokens never lets in more than 50, so that vLLM's 256
places do not count."""
HOST_S = 0.0005
"""Of an iteration, beside the layer times: assumed (as the facts' prototype did)."""
REQUESTS = 2000
"""Of each of MemoryGap's runs, all there at the beginning."""
LONGEST = 1024
"""Tokens of a ShareGPT prompt or answer, at the most: assumed."""
SEEDS = (1, 2, 3)
CONTENTIONS = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
BARS = {"tpot": 0.07, "ttft": 0.15, "preemptions": 0.25, "replicas": 0.10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One run, by arrival; seconds."""

    trace: Trace
    ttft_s: Floats
    tpot_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Runs of so many engines on one GPU with so many places each, their mean."""

    model: str
    batch: int
    replicas: int
    lengths: tuple[int, int]
    tok_s: float
    itl_s: float
    watts: float


def main() -> None:
    _print_logs()
    _print_replicas()


def _print_logs() -> None:
    print("  request logs: real vLLM 0.19, Llama-3.1-8B, 300 ShareGPT requests at 10/s; simulated / real")
    print(
        "    GPU, parameters                                   TTFT mean        p50        p99   TPOT mean   preempted"
    )
    held_out = _fitted_without("LLMServingSim")
    for gpu, sequences, pool, preempted in LOGS:
        log = read_log(gpu)
        print(f"    {gpu:30s} {'measured':18s} {_figures(log.ttft_s, log.tpot_s)}   {preempted:9d}")
        for name, engine in _engines(gpu, log, held_out, sequences=sequences, pool=pool).items():
            sized = replace(engine, max_num_seqs=sequences, max_num_batched_tokens=2048, kv_tokens=pool)
            outcome = replay(log, replace(sized, request_s=0.0))  # the log begins at the engine
            count = int(outcome.preemptions.sum())
            print(f"    {'':30s} {name:18s} {_figures(outcome.ttft_s, outcome.tpot_s)}   {count:9d}")
            _judge("TTFT mean", outcome.ttft_s.mean() / log.ttft_s.mean() - 1.0, BARS["ttft"])
            _judge("TPOT mean", outcome.tpot_s.mean() / log.tpot_s.mean() - 1.0, BARS["tpot"])
            if preempted:
                _judge("preemptions", count / preempted - 1.0, BARS["preemptions"])


def read_log(gpu: str) -> Log:
    """The requests as the engine took them in."""
    with gzip.open(DATA / "request-logs" / f"{gpu}.csv.gz", "rt", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["queued_ts"]))
    queued, first, last = (_column(rows, name) for name in ("queued_ts", "first_token_ts", "last_token_ts"))
    made = _column(rows, "output_toks").astype(np.int64)
    trace = Trace(
        arrival_s=queued - queued[0],
        input_tokens=_column(rows, "input_toks").astype(np.int64),
        output_tokens=made,
        tenant=np.zeros(len(rows), dtype=np.int64),
        tenants=("",),
    )
    return Log(trace=trace, ttft_s=first - queued, tpot_s=(last - first) / (made - 1))


def replay(log: Log, engine: EngineSpec) -> Outcome:
    """The run, simulated until every request is done."""
    power = load_performance_table().generation("V1 async").power
    world = Cluster(log.trace, boards=[board_of(H100_64, power)], longest=[32_768], seed=1)
    world.add(tenant=0, gpu=0, engine=engine, ready_at=0.0)
    world.advance(3600.0)
    return world.outcome()


def _engines(gpu: str, log: Log, held_out: EngineConstants, *, sequences: int, pool: int) -> dict[str, EngineSpec]:
    """Of the log's requests; `held_out` are the constants fitted without it."""
    found = load_gpu_catalogue().by_id(gpu)
    assert found is not None, gpu
    with (DATA / "request-logs" / "layer-times.csv").open(encoding="utf-8") as file:
        rows = [_Decode.of(row) for row in csv.DictReader(file) if row["gpu"] == gpu]
    constants = load_performance_table().generation("V1 async")
    points = [MeasuredPoint(in_flight=float(row.sequences), itl_s=row.seconds + HOST_S) for row in rows]
    plain = a_tenant(model(MODEL), found, in_flight=1.0, lengths=(512, 2))
    decode = replace(plain, prefix_hit_rate=1.0, kv_cache_tokens=10**6)
    calibration = calibrate(points, decode, site(found), constants)
    assert not isinstance(calibration, Unpredictable)
    tenant = replace(
        plain, input_tokens=_mean_of(log.trace.input_tokens), output_tokens=_mean_of(log.trace.output_tokens)
    )
    engines = {}
    for name, source, correction in (
        ("layer times", held_out, None),
        ("model, calibrated", constants, calibration),
        ("model, as shipped", constants, None),
    ):
        spec = engine_spec(tenant, site(found), source, AS_MODELLED, calibration=correction)
        assert isinstance(spec, EngineSpec)
        engines[name] = spec
    reached = [row for row in rows if row.sequences <= sequences and row.sequences * row.context <= pool]
    return engines | {"layer times": _layered(reached, engines["layer times"])}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decode:
    """Seconds of all layers and the head in one iteration that carries no prompt."""

    sequences: int
    context: int
    seconds: float

    @classmethod
    def of(cls, row: dict[str, str]) -> _Decode:
        return cls(sequences=int(row["sequences"]), context=int(row["context"]), seconds=float(row["ms"]) / 1000)


def _layered(rows: Sequence[_Decode], modelled: EngineSpec) -> EngineSpec:
    """The modelled engine with decode by these times, a line by relative least squares.

    All rows have one context: what a sequence costs beyond reading it, at the model's cost, is the sequence's own.
    """
    terms = np.array([[1.0, row.sequences] for row in rows])
    read = np.array([row.sequences * row.context * modelled.cache_s for row in rows])
    seconds = np.array([row.seconds for row in rows])
    (weights, sequence), *_ = np.linalg.lstsq(terms / seconds[:, None], (seconds - read) / seconds, rcond=None)
    return replace(
        modelled,
        host_s=HOST_S,
        sequence_s=float(sequence),
        busy_s=0.0,
        sequence_busy_s=0.0,
        weights_s=float(weights),
    )


def _print_replicas() -> None:
    print(
        "\n  several engines on one H100-64 by MPS: MemoryGap, vLLM V0, 2000 ShareGPT requests at once; mean of 3 seeds"
    )
    print(
        "    constants fitted without MemoryGap; sharing fitted on Dynamo's pairs only; lengths exponential (assumed)"
    )
    print("    model     places x engines      tok/s  measured            ITL ms  measured                 W  measured")
    constants, rows = _held_out(), measured_replicas()
    for row in rows:
        _print_row(row, constants, contention=1.0)
    pairs = [row for row in rows if row.replicas == 2]
    contention = min(CONTENTIONS, key=lambda factor: _off(pairs, constants, factor))
    print(
        f"    the wait for neighbours times {contention}, the best of {CONTENTIONS} on two engines' rows; four engines:"
    )
    for row in rows:
        if row.replicas > 2:
            _print_row(row, constants, contention=contention)


def _print_row(row: Measured, constants: EngineConstants, *, contention: float) -> None:
    runs = [_simulated(row, constants, contention=contention, seed=seed) for seed in SEEDS]
    tok_s, itl_s, watts = (float(value) for value in np.array(runs).mean(axis=0))
    off = (tok_s / row.tok_s - 1.0, itl_s / row.itl_s - 1.0)
    missed = "" if max(map(abs, off)) <= BARS["replicas"] else f"  MISSES {BARS['replicas']:.0%}"
    print(
        f"    {row.model:9s} {row.batch:5d} x {row.replicas}         {tok_s:8,.0f}  {row.tok_s:8,.0f} {off[0]:+7.1%}"
        f" {itl_s * 1e3:9.1f} {row.itl_s * 1e3:9.1f} {off[1]:+7.1%}  {watts:8.0f}  {row.watts:8.0f}{missed}"
    )


def _off(rows: Sequence[Measured], constants: EngineConstants, contention: float) -> float:
    """Sum of squared logarithms of simulated over measured, of throughput and latency."""
    total = 0.0
    for row in rows:
        tok_s, itl_s, _ = _simulated(row, constants, contention=contention, seed=SEEDS[0])
        total += math.log(tok_s / row.tok_s) ** 2 + math.log(itl_s / row.itl_s) ** 2
    return total


def measured_replicas() -> list[Measured]:
    """The replication runs, the mean of their repetitions, with how many places each engine has."""
    runs: dict[tuple[str, int, int], list[dict[str, str]]] = {}
    for raw in calibration_rows():
        if re.search(r"replication/(overall|gpu)_metrics", raw["note"]) and "chunked" not in raw["note"]:
            runs.setdefault((raw["model"], int(raw["batch_or_concurrency"]), int(raw["replicas"])), []).append(raw)
    return [
        Measured(
            model=name,
            batch=batch,
            replicas=replicas,
            lengths=(int(rows[0]["input_len"]), int(rows[0]["output_len"])),
            tok_s=_mean(rows, "throughput_tok_s"),
            itl_s=_mean(rows, "latency_ms_per_token") / 1000,
            watts=_mean(rows, "power_w"),
        )
        for (name, batch, replicas), rows in sorted(runs.items())
    ]


def _held_out() -> EngineConstants:
    """V0, by the other sources' engines and the other group's pairs."""
    pairs = [pair for pair in clean_pairs() if pair.group == "Dynamo"]
    return replace(_fitted_without("MemoryGap"), sharing=sharing_of(fitted_sharing(pairs)))


def _fitted_without(source: str) -> EngineConstants:
    """Of the source's own generation, by the other sources' engines."""
    rows, _ = engine_rows()
    fitted = fitted_constants([row for row in rows if row.source != source])
    plain = next(row for row in rows if row.source == source and row.chunked is None)
    return constants_of(fitted, plain)


def _simulated(
    row: Measured, constants: EngineConstants, *, contention: float, seed: int
) -> tuple[float, float, float]:
    """Tokens a second and mean inter-token latency of the whole run, and its mean watts."""
    random = np.random.Generator(np.random.PCG64(seed))
    trace = Trace(
        arrival_s=np.zeros(REQUESTS),
        input_tokens=_lengths(random, row.lengths[0]),
        output_tokens=_lengths(random, row.lengths[1]),
        tenant=np.arange(REQUESTS) % row.replicas,
        tenants=tuple(str(number) for number in range(row.replicas)),
    )
    truth = replace(AS_MODELLED, contention=contention)
    spec = engine_spec(_tenant(row), site(H100_64, _sharing(row)), constants, truth)
    assert isinstance(spec, EngineSpec)
    longest = [2 * LONGEST] * row.replicas
    world = Cluster(trace, boards=[board_of(H100_64, constants.power)], longest=longest, seed=seed)
    for tenant in range(row.replicas):
        world.add(tenant=tenant, gpu=0, engine=spec, ready_at=0.0)
    while not world.outcome().finished.all():
        world.advance(world.now + 1.0)
    outcome, scrape = world.outcome(), world.scrape()
    end = float((outcome.ttft_s + outcome.tpot_s * (outcome.output_tokens - 1)).max())
    itl_s = scrape.itl.sums.sum() / scrape.itl.counts.sum()
    return float(outcome.output_tokens.sum()) / end, float(itl_s), float(outcome.joules[0]) / world.now


def _sharing(row: Measured) -> Sharing:
    return Sharing.MPS if row.replicas > 1 else Sharing.NONE


def _tenant(row: Measured) -> Tenant:
    plain = a_tenant(model(row.model), H100_64, in_flight=1.0, lengths=row.lengths)
    pool = pool_tokens(plain.model, H100_64, 0.9 / row.replicas)
    return replace(plain, max_num_batched_tokens=2048, max_num_seqs=row.batch, kv_cache_tokens=pool)


def _lengths(random: np.random.Generator, mean: float) -> Ints:
    """Exponential, 4 to LONGEST tokens, with this mean."""
    drawn = random.exponential(mean, REQUESTS)
    for _ in range(50):
        drawn *= mean / np.clip(drawn, 4, LONGEST).mean()
    return np.clip(np.round(drawn), 4, LONGEST).astype(np.int64)


def _column(rows: Sequence[dict[str, str]], name: str) -> Floats:
    return np.array([float(row[name]) for row in rows])


def _mean(rows: Sequence[dict[str, str]], name: str) -> float:
    """Of the runs that state it."""
    stated = [float(row[name]) for row in rows if row[name]]
    return sum(stated) / len(stated) if stated else math.nan


def _mean_of(tokens: Ints) -> int:
    return round(float(tokens.mean()))


def _figures(ttft_s: Floats, tpot_s: Floats) -> str:
    middle, tail = np.percentile(ttft_s, [50, 99])
    return f"{ttft_s.mean():8.2f} s {middle:8.2f} s {tail:8.2f} s {tpot_s.mean() * 1e3:8.2f} ms"


def _judge(name: str, off: float, bar: float) -> None:
    print(f"      {name:12s} {off:+6.1%}  {'within' if abs(off) <= bar else 'MISSES'} {bar:.0%}")
