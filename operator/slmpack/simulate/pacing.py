"""How long iterations take, alone and beside neighbours, and how many of the same kind follow one another."""

from __future__ import annotations

import math

import numpy as np

from slmpack.simulate.batching import blocks_for, schedule
from slmpack.simulate.jit import inner
from slmpack.simulate.state import LOADS, World

__all__ = ["begin", "cut", "go_on", "run_until", "steps_by"]

_NOTICED = 0.02
"""By which an engine"s load must change, as a part of its time, before its neighbours are slowed by another amount."""


@inner
def _found(w: World, e: int) -> float:
    """Engines of its GPU that one finds at the device, on average, as its neighbours work at this moment."""
    engine = w.engines[e]
    if w.kinds[engine["kind"]]["shared"] == 0:
        return 0.0
    count, load = 0, 0.0
    members = w.members[engine["gpu"]]
    for place in range(w.boards[engine["gpu"]]["engines"]):
        other = w.engines[members[place]]
        if members[place] != e and other["active"] == 1:
            count += 1
            load += other["rho"]
    if count == 0:
        return 0.0
    exact = load / count * LOADS
    below = min(LOADS - 1, int(exact))
    part = exact - below
    return float(w.queues[count, below] * (1.0 - part) + w.queues[count, below + 1] * part)


@inner
def steps_by(first: float, grow: float, steps: int, passed: float) -> int:
    """Iterations that are done after so many seconds, at most `steps`."""
    if passed < first:
        return 0
    half = first - grow / 2
    done = int(2.0 * passed / (half + math.sqrt(half * half + 2.0 * grow * passed)))
    done = min(done, steps)
    while done > 0 and done * first + grow * done * (done - 1) / 2 > passed:
        done -= 1
    while done < steps and (done + 1) * first + grow * (done + 1) * done / 2 <= passed:
        done += 1
    return done


@inner
def cut(w: World, e: int, now: float) -> None:
    """The stretch ends with the iteration under way, so that the next one sees what is different now."""
    engine = w.engines[e]
    if engine["steps"] > 1:
        done = steps_by(engine["first"], engine["grow"], engine["steps"], now - engine["start"])
        run_until(engine, min(engine["steps"], done + 1))


@inner
def run_until(engine: np.void, steps: int) -> None:
    """The stretch has so many iterations."""
    engine["steps"] = steps
    engine["end"] = engine["start"] + steps * engine["first"] + engine["grow"] * steps * (steps - 1) / 2


@inner
def _run(w: World, e: int, now: float) -> None:
    """As planned, or until a request is there that may come in."""
    engine = w.engines[e]
    steps = engine["plan"]
    if engine["head"] >= 0 and engine["running"] < w.kinds[engine["kind"]]["max_num_seqs"]:
        enter = w.requests[engine["head"]]["enter"]
        if enter > now:
            steps = min(steps, steps_by(engine["first"], engine["grow"], steps, enter - now) + 1)
    run_until(engine, steps)
    _use(w, e)


@inner
def go_on(w: World, e: int, now: float) -> None:
    """The same requests decode on, as fast as their neighbours let them now."""
    _time(w, e)
    _run(w, e, now)


@inner
def _longest(w: World, e: int) -> int:
    """Iterations until a request is done or blocks run out; at least one."""
    engine, kind = w.engines[e], w.kinds[w.engines[e]["kind"]]
    steps = w.requests[w.running[e, 0]]["output"]
    for place in range(engine["running"]):
        request = w.requests[w.running[e, place]]
        steps = min(steps, request["output"] - request["made"])
    free, size = kind["blocks"] - engine["blocks"], kind["block_tokens"]
    if engine["running"] * ((steps - 1) // size + 1) <= free:
        return int(steps)
    low, high = 1, steps
    while low < high:
        middle = (low + high + 1) // 2
        if _more_blocks(w, e, middle, size) <= free:
            low = middle
        else:
            high = middle - 1
    return int(low)


@inner
def _more_blocks(w: World, e: int, steps: int, size: int) -> int:
    """Blocks that so many decode iterations take beyond the first."""
    more = 0
    for place in range(w.engines[e]["running"]):
        have = w.requests[w.running[e, place]]["have"]
        more += blocks_for(have + steps, size) - blocks_for(have + 1, size)
    return more


@inner
def begin(w: World, e: int, now: float, jump: bool) -> bool:
    """Begins what comes next; whether its neighbours notice a difference."""
    engine = w.engines[e]
    free = schedule(w, e, now)
    shown, before, chunk = engine["rho"], engine["decoding"], engine["chunk"]
    _compose(w, e)
    engine["start"] = now
    if engine["decoding"] + engine["chunk"] == 0:
        engine["active"], engine["steps"], engine["plan"] = 0, 0, 0
        engine["memory"] = engine["compute"] = engine["rho"] = 0.0
        return bool(shown > 0.0)
    engine["active"] = 1
    load = _time(w, e)
    another = before != engine["decoding"] or chunk != engine["chunk"]
    if shown == 0.0 or (another and abs(load - shown) > _NOTICED):
        engine["rho"] = load
    engine["plan"] = _longest(w, e) if free and engine["chunk"] == 0 and jump else 1
    _run(w, e, now)
    return bool(shown != engine["rho"])


@inner
def _compose(w: World, e: int) -> None:
    """Adds up what the requests of the next iteration bring."""
    engine = w.engines[e]
    decoding, context, chunk, pairs = 0, 0.0, 0, 0.0
    for place in range(engine["running"]):
        request = w.requests[w.running[e, place]]
        take, have = request["take"], request["have"]
        if take == 1 and request["made"] > 0 and request["input"] + request["made"] - have == 1:
            decoding += 1
            context += have
        elif take > 0:
            chunk += take
            pairs += take * have + take * (take + 1) / 2
    engine["decoding"], engine["context"] = decoding, context
    engine["chunk"], engine["pairs"] = chunk, pairs


@inner
def _time(w: World, e: int) -> float:
    """Sets the seconds of the next iteration and what each one after it adds; its load of the device alone."""
    engine, kind = w.engines[e], w.kinds[w.engines[e]["kind"]]
    decoding, chunk = engine["decoding"], engine["chunk"]
    weights = kind["weights_s"]
    if kind["experts_s"] > 0.0:
        weights += kind["experts_s"] * (1.0 - kind["expert_missed"] ** (decoding + chunk))
    tokens = (decoding + kind["prefill"] * chunk) * kind["token_s"]
    attention = engine["context"] * kind["cache_s"] + decoding * kind["state_s"]
    prompt = kind["prefill"] * engine["pairs"] * kind["prompt_s"]
    small = kind["busy_s"] + kind["sequence_busy_s"] * decoding
    away = kind["host_s"] + kind["sequence_s"] * decoding - small
    memory, compute = kind["cap_memory"], kind["cap_compute"]
    capped = max(weights * memory, tokens * compute) + attention * memory + prompt * compute + small
    busy, grow = max(weights, tokens) + attention + prompt + small, decoding * kind["cache_s"]
    wait = 1.0 + kind["contention"] * _found(w, e)
    if busy * wait >= capped:
        engine["first"], engine["grow"] = busy * wait + away, grow * wait
    else:
        engine["first"], engine["grow"] = capped + away, grow * memory
    return float(busy / (busy + away))


@inner
def _use(w: World, e: int) -> None:
    """What the stretch uses of the GPU's peaks, on average."""
    engine, kind = w.engines[e], w.kinds[w.engines[e]["kind"]]
    decoding, chunk = engine["decoding"], engine["chunk"]
    context = engine["context"] + decoding * (engine["steps"] - 1) / 2
    each = (engine["end"] - engine["start"]) / engine["steps"]
    moved = kind["weights_part"] + kind["cache_part"] * context
    if kind["experts_s"] > 0.0:
        moved += kind["experts_part"] * (1.0 - kind["expert_missed"] ** (decoding + chunk))
    computed = (decoding + chunk) * kind["token_part"] + (context + engine["pairs"]) * kind["pairs_part"]
    engine["memory"], engine["compute"] = moved / each, computed / each
