"""The simulated cluster's state as arrays of records, which compiled functions change in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slmpack.simulate.costs import EngineSpec
from slmpack.simulate.power import Board
from slmpack.simulate.readings import ITL_BUCKETS, QUEUE_BUCKETS, TTFT_BUCKETS
from slmpack.simulate.trace import Trace

__all__ = [
    "FINISHED",
    "GATEWAY",
    "QUEUED",
    "REJECTED",
    "RUNNING",
    "World",
    "fine_bounds",
    "new_world",
    "queue_table",
    "with_kind",
    "with_room",
]

Records = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UNSEEN, GATEWAY, QUEUED, RUNNING, FINISHED, REJECTED = range(6)
"""What a request's `state` is."""

NEIGHBOURS = 64
"""Engines on one GPU for which the wait is tabulated; MPS has 48 clients."""
LOADS = 256
"""Steps of the table over the part of the time, 0 to 1, that neighbours would keep the device busy alone."""

_FINEST, _COARSEST, _STEP = 1e-4, 1e4, 1.02
"""Seconds; the fine histogram of inter-token latency has bins 2 % apart."""

_REQUEST = np.dtype(
    [(name, np.float64) for name in ("arrival", "enter", "started", "first", "last", "pick")]
    + [
        (name, np.int64)
        for name in ("input", "output", "have", "made", "take", "next", "tenant", "replica", "preempted", "state")
    ]
)
"""enter: at its replica; have: tokens in the KV cache; take: tokens of the iteration under way."""

_ENGINE_FLOATS = (
    *("added", "ready_at", "ended", "start", "first", "grow", "end", "context", "pairs"),
    *("rho", "memory", "compute", "ttft", "tpot", "itl", "queue"),
)
_ENGINE_INTS = (
    *("kind", "gpu", "tenant", "ready", "ending", "head", "tail", "waiting", "running", "blocks"),
    *("active", "steps", "plan", "decoding", "chunk", "completions", "preempted", "prompt", "generation"),
)
_ENGINE = np.dtype([(name, np.float64) for name in _ENGINE_FLOATS] + [(name, np.int64) for name in _ENGINE_INTS])
"""start, first, grow, steps: the iterations under way begin at `start`, the first takes `first`, each next one `grow`
more; `end` is when they are done. plan: iterations until a request is done or the blocks are. decoding, context, chunk,
pairs: sequences that decode and their tokens, prompt tokens and the positions they look at. rho: part of the time that
it would keep the device busy alone, as neighbours know it. memory, compute: what it uses of the catalogue's peaks.
ttft, tpot, itl, queue: sums of its histograms."""

_KIND_FLOATS = (
    *("host_s", "sequence_s", "busy_s", "sequence_busy_s", "weights_s", "experts_s", "expert_missed", "token_s"),
    *("cache_s", "state_s", "prompt_s", "prefill", "contention", "cap_memory", "cap_compute", "request_s"),
    *("weights_part", "experts_part", "cache_part", "token_part", "pairs_part"),
)
_KIND_INTS = ("max_num_seqs", "max_num_batched_tokens", "block_tokens", "blocks", "chunked", "shared")
_KIND = np.dtype([(name, np.float64) for name in _KIND_FLOATS] + [(name, np.int64) for name in _KIND_INTS])

_BOARD_WATTS = ("empty_w", "loaded_w", "active_w", "memory_w", "compute_w", "least_w", "tdp_w")
_BOARD_FLOATS = (
    *("memory_rate", "compute_rate", "at", "since", "memory", "compute", "busy"),
    *("watts", "joules", "used", "worked"),
)
_BOARD = np.dtype(
    [(name, np.float64) for name in _BOARD_WATTS + _BOARD_FLOATS]
    + [(name, np.int64) for name in ("engines", "working")]
)
"""memory_rate, compute_rate: of the peaks, now; at: counted so far; since: the beginning of the window whose memory,
compute and busy seconds follow; used: seconds with engines; worked: seconds with work; engines, working: how many are
there, and how many have work."""


class World(NamedTuple):
    """Everything that the compiled functions change; arrays only."""

    requests: Records
    engines: Records
    kinds: Records
    boards: Records
    running: Ints
    """[engine, place]: requests in the batch, oldest first."""
    members: Ints
    """[GPU, place]: engines on it."""
    services: Ints
    """[tenant, place]: replicas in its Service."""
    in_service: Ints
    """By tenant."""
    gateway: Ints
    """[tenant]: head, tail and number of the requests that wait at the gateway."""
    itl: Ints
    ttft: Ints
    tpot: Ints
    queue: Ints
    """[engine, bucket]."""
    fine: Ints
    """[tenant, bin]: tokens by inter-token latency."""
    fine_bounds: Floats
    itl_bounds: Floats
    ttft_bounds: Floats
    queue_bounds: Floats
    queues: Floats
    """[neighbours, load]: engines that one finds at the device."""


def fine_bounds() -> Floats:
    """Seconds: upper bounds of the fine histogram."""
    count = math.ceil(math.log(_COARSEST / _FINEST) / math.log(_STEP))
    bounds = np.empty(count + 1, dtype=np.float64)
    bounds[0] = _FINEST
    for place in range(1, count + 1):
        bounds[place] = bounds[place - 1] * _STEP
    return bounds


def queue_table() -> Floats:
    """Engines that one finds at the device, by the number of its active neighbours and their load.

    The closed network of domain/contention.py (exact mean value analysis) with `load` seconds at the device and
    1 - load away from it; neighbours that differ count with their mean load, which is exact for one of them.
    """
    table = np.zeros((NEIGHBOURS + 1, LOADS + 1), dtype=np.float64)
    loads = np.arange(LOADS + 1) / LOADS
    for count in range(1, NEIGHBOURS + 1):
        response = loads * (1.0 + table[count - 1])
        table[count] = count * response / (response + 1.0 - loads)
    return table


def new_world(trace: Trace, boards: Sequence[Board], *, longest: Sequence[int], pick: Floats) -> World:
    """Nothing has happened yet; room for one engine, which `with_room` makes larger.

    Args:
        trace: requests.
        boards: of the GPUs.
        longest: by tenant, max_model_len; prompts that reach it are rejected, outputs are cut there.
        pick: by request, 0 to 1, which replica of its Service it takes.
    """
    tenants, gpus = len(trace.tenants), len(boards)
    limit = np.array(longest, dtype=np.int64)[trace.tenant]
    requests = np.zeros(len(trace), dtype=_REQUEST)
    requests["arrival"], requests["pick"] = trace.arrival_s, pick
    requests["input"], requests["tenant"] = trace.input_tokens, trace.tenant
    requests["output"] = np.maximum(1, np.minimum(trace.output_tokens, limit - trace.input_tokens))
    requests["state"] = np.where(trace.input_tokens >= limit, REJECTED, UNSEEN)
    requests["next"] = requests["replica"] = -1
    for name in ("started", "first", "last"):
        requests[name] = np.nan
    power = np.zeros(gpus, dtype=_BOARD)
    for name in _BOARD_WATTS:
        power[name] = [getattr(board, name) for board in boards]
    power["watts"] = power["empty_w"]
    gateway = np.zeros((tenants, 3), dtype=np.int64)
    gateway[:, :2] = -1
    fine = fine_bounds()
    return World(
        requests=requests,
        engines=np.zeros(1, dtype=_ENGINE),
        kinds=np.zeros(1, dtype=_KIND),
        boards=power,
        running=np.zeros((1, 1), dtype=np.int64),
        members=np.zeros((gpus, NEIGHBOURS), dtype=np.int64),
        services=np.zeros((tenants, 1), dtype=np.int64),
        in_service=np.zeros(tenants, dtype=np.int64),
        gateway=gateway,
        itl=np.zeros((1, len(ITL_BUCKETS) + 1), dtype=np.int64),
        ttft=np.zeros((1, len(TTFT_BUCKETS) + 1), dtype=np.int64),
        tpot=np.zeros((1, len(ITL_BUCKETS) + 1), dtype=np.int64),
        queue=np.zeros((1, len(QUEUE_BUCKETS) + 1), dtype=np.int64),
        fine=np.zeros((tenants, len(fine) + 1), dtype=np.int64),
        fine_bounds=fine,
        itl_bounds=np.array(ITL_BUCKETS),
        ttft_bounds=np.array(TTFT_BUCKETS),
        queue_bounds=np.array(QUEUE_BUCKETS),
        queues=queue_table(),
    )


def with_room(world: World, *, engines: int, places: int) -> World:
    """The same world with room for so many engines of so many sequences each."""
    have, wide = world.running.shape
    rows, columns = max(have, engines), max(wide, places)
    if (rows, columns) == (have, wide):
        return world
    rows = rows if rows == have else max(rows, 2 * have)
    return world._replace(
        engines=_grown(world.engines, (rows,)),
        running=_grown(world.running, (rows, columns)),
        services=_grown(world.services, (len(world.services), rows)),
        itl=_grown(world.itl, (rows, world.itl.shape[1])),
        ttft=_grown(world.ttft, (rows, world.ttft.shape[1])),
        tpot=_grown(world.tpot, (rows, world.tpot.shape[1])),
        queue=_grown(world.queue, (rows, world.queue.shape[1])),
    )


def with_kind(world: World, spec: EngineSpec, *, place: int) -> World:
    """The same world, with this kind of engine at a place of its table."""
    kinds = _grown(world.kinds, (max(len(world.kinds), place + 1),))
    for name in _KIND_FLOATS:
        kinds[name][place] = getattr(spec, name)
    for name in _KIND_INTS:
        kinds[name][place] = spec.kv_tokens // spec.block_tokens if name == "blocks" else getattr(spec, name)
    return world._replace(kinds=kinds)


def _grown(array: Records, shape: tuple[int, ...]) -> Records:
    grown = np.zeros(shape, dtype=array.dtype)
    grown[tuple(slice(0, length) for length in array.shape)] = array
    return grown
