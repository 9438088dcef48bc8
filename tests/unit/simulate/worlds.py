"""Small worlds with costs that can be added up by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slmpack.simulate.cluster import Board, Cluster, EngineSpec
from slmpack.simulate.trace import Trace

PLAIN = EngineSpec(
    max_num_seqs=8,
    max_num_batched_tokens=1000,
    kv_tokens=4096,
    chunked=True,
    shared=False,
    slices=1,
    host_s=0.010,
    sequence_s=0.001,
    busy_s=0.0,
    sequence_busy_s=0.0,
    weights_s=0.005,
    token_s=0.0001,
    cache_s=0.0,
    prompt_s=0.0,
)
"""A prompt of 100 tokens takes 20 ms, an iteration that decodes one sequence 16 ms, two sequences 17 ms."""

RICH = replace(
    PLAIN,
    busy_s=0.002,
    sequence_busy_s=0.0005,
    cache_s=2e-7,
    prompt_s=1e-8,
    weights_part=0.004,
    cache_part=1e-7,
    token_part=5e-5,
    pairs_part=1e-9,
    request_s=0.003,
)
"""All terms that there are."""

BOARD = Board(empty_w=50.0, loaded_w=100.0, active_w=150.0, memory_w=400.0, compute_w=300.0, least_w=100.0, tdp_w=700.0)


def requests(*rows: tuple[float, int, int], tenants: Sequence[int] | None = None) -> Trace:
    """(arrival, input, output) each; all of one tenant unless said."""
    who = np.zeros(len(rows), dtype=np.int64) if tenants is None else np.array(tenants, dtype=np.int64)
    return Trace(
        arrival_s=np.array([row[0] for row in rows], dtype=np.float64),
        input_tokens=np.array([row[1] for row in rows], dtype=np.int64),
        output_tokens=np.array([row[2] for row in rows], dtype=np.int64),
        tenant=who,
        tenants=tuple(f"t{number}" for number in range(int(who.max(initial=0)) + 1)),
    )


def cluster(trace: Trace, *, gpus: int = 1, longest: int = 2048, seed: int = 1) -> Cluster:
    return Cluster(trace, boards=[BOARD] * gpus, longest=[longest] * len(trace.tenants), seed=seed)


def noise(count: int, *, seed: int, span: float = 60.0, tenants: int = 1) -> Trace:
    """Random requests."""
    random = np.random.Generator(np.random.PCG64(seed))
    return Trace(
        arrival_s=np.sort(random.uniform(0.0, span, count)),
        input_tokens=random.integers(1, 400, count),
        output_tokens=random.integers(1, 120, count),
        tenant=random.integers(0, tenants, count),
        tenants=tuple(f"t{number}" for number in range(tenants)),
    )
