"""Tokens that iterations make, and the histograms that they count in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slmpack.simulate.batching import blocks_for
from slmpack.simulate.jit import inner
from slmpack.simulate.state import FINISHED, World

__all__ = ["finish_steps"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@inner
def bin_of(bounds: Floats, value: float) -> int:
    """The first bin whose upper bound is not below the value."""
    low, high = 0, len(bounds)
    while low < high:
        middle = (low + high) // 2
        if bounds[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _count(histogram: Ints, bounds: Floats, engine: np.void, steps: int, weight: int) -> None:
    """Adds `weight` observations of each of the engine's next `steps` iterations."""
    first, grow = engine["first"], engine["grow"]
    done, place = 0, bin_of(bounds, first)
    while done < steps:
        inside = steps
        if grow > 0.0 and place < len(bounds):
            inside = min(steps, int((bounds[place] - first) / grow) + 1)
        if inside > done:
            histogram[place] += weight * (inside - done)
            done = inside
        place += 1


@inner
def finish_steps(w: World, e: int, steps: int) -> None:
    """So many iterations are done; where more are planned, the next one is under way."""
    engine, size = w.engines[e], w.kinds[w.engines[e]["kind"]]["block_tokens"]
    more = 1 if steps < engine["plan"] else 0
    took = steps * engine["first"] + engine["grow"] * steps * (steps - 1) / 2
    end = engine["start"] + took
    later, kept = 0, 0
    for place in range(engine["running"]):
        r = w.running[e, place]
        request = w.requests[r]
        if request["take"] > 0:
            before = blocks_for(request["have"] + request["take"], size)
            later += _produce(w, e, r, steps, end)
            request["take"] = more
            engine["blocks"] += blocks_for(request["have"] + more, size) - before
        if request["state"] == FINISHED:
            engine["blocks"] -= blocks_for(request["have"], size)
        else:
            w.running[e, kept] = r
            kept += 1
    engine["running"] = kept
    if later > 0:
        _count(w.itl[e], w.itl_bounds, engine, steps, later)
        _count(w.fine[engine["tenant"]], w.fine_bounds, engine, steps, later)
        engine["itl"] += later * took
    engine["start"] = end
    engine["first"] += engine["grow"] * steps
    engine["context"] += engine["decoding"] * steps
    engine["steps"] -= steps
    engine["plan"] -= steps


@inner
def _produce(w: World, e: int, r: int, steps: int, end: float) -> int:
    """One request after its iterations; 1 if it has tokens that follow others, one from each."""
    engine, request = w.engines[e], w.requests[r]
    request["have"] += request["take"] + steps - 1
    if request["have"] < request["input"] + request["made"] + steps - 1:
        return 0
    later = 1
    if request["made"] == 0:
        _first_token(w, e, r, end)
        later = 0
    elif request["last"] != engine["start"]:
        _move(w, e, engine["start"] + engine["first"] - request["last"])
    engine["generation"] += steps
    request["made"] += steps
    request["last"] = end
    if request["made"] >= request["output"]:
        waited = request["started"] - request["enter"]
        w.queue[e, bin_of(w.queue_bounds, waited)] += 1
        engine["queue"] += waited
        each = (end - request["first"]) / max(1, request["made"] - 1)
        w.tpot[e, bin_of(w.itl_bounds, each)] += 1
        engine["tpot"] += each
        engine["completions"] += 1
        request["state"] = FINISHED
    return later


@inner
def _first_token(w: World, e: int, r: int, end: float) -> None:
    engine, request = w.engines[e], w.requests[r]
    seconds = end - request["enter"] + w.kinds[engine["kind"]]["request_s"]
    w.ttft[e, bin_of(w.ttft_bounds, seconds)] += 1
    engine["ttft"] += seconds
    engine["prompt"] += request["input"]
    request["first"] = end


@inner
def _move(w: World, e: int, gap: float) -> None:
    """A token that came `gap` seconds after the one before will be counted as if it took one iteration."""
    engine, fine = w.engines[e], w.fine[w.engines[e]["tenant"]]
    w.itl[e, bin_of(w.itl_bounds, engine["first"])] -= 1
    w.itl[e, bin_of(w.itl_bounds, gap)] += 1
    fine[bin_of(w.fine_bounds, engine["first"])] -= 1
    fine[bin_of(w.fine_bounds, gap)] += 1
    engine["itl"] += gap - engine["first"]
