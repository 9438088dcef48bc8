"""Who takes part in an engine"s next iteration: vLLM"s scheduler, first come first served."""

from __future__ import annotations

import math

from slmpack.simulate.jit import inner
from slmpack.simulate.state import RUNNING, World
from slmpack.simulate.waiting import push_front

__all__ = ["blocks_for", "schedule"]


@inner
def blocks_for(tokens: int, size: int) -> int:
    """KV blocks of `size` tokens that so many take."""
    return (tokens + size - 1) // size


@inner
def _preempt_youngest(w: World, e: int, size: int) -> None:
    """Back to the front of the waiting list; its tokens must all be computed again."""
    engine = w.engines[e]
    engine["running"] -= 1
    r = w.running[e, engine["running"]]
    request = w.requests[r]
    engine["blocks"] -= blocks_for(request["have"], size)
    request["have"] = request["take"] = 0
    request["preempted"] += 1
    engine["preempted"] += 1
    push_front(w, e, r)


@inner
def _continue(w: World, e: int, budget: int) -> int:
    """Gives running requests, oldest first, their tokens of the next iteration.

    The budget that is left, or -1 where a request was preempted for want of blocks.
    """
    engine, kind = w.engines[e], w.kinds[w.engines[e]["kind"]]
    size, preempted, place = kind["block_tokens"], False, 0
    while place < engine["running"]:
        request = w.requests[w.running[e, place]]
        take = min(request["input"] + request["made"] - request["have"], budget)
        more = blocks_for(request["have"] + take, size) - blocks_for(request["have"], size)
        while engine["blocks"] + more > kind["blocks"] and engine["running"] > place:
            _preempt_youngest(w, e, size)
            preempted = True
        if engine["running"] > place:
            request["take"] = take
            engine["blocks"] += more
            budget -= take
        place += 1
    return -1 if preempted else budget


@inner
def _admit(w: World, e: int, budget: int, now: float) -> int:
    """Takes waiting requests in the order of their arrival while places, budget and blocks last; how many."""
    engine, kind = w.engines[e], w.kinds[w.engines[e]["kind"]]
    size, admitted = kind["block_tokens"], 0
    while engine["head"] >= 0 and budget > 0 and engine["running"] < kind["max_num_seqs"]:
        r = engine["head"]
        request = w.requests[r]
        tokens = request["input"] + request["made"]
        if request["enter"] > now or engine["blocks"] + blocks_for(tokens, size) > kind["blocks"]:
            break
        if kind["chunked"] == 0 and tokens > budget and admitted > 0:
            break
        take = tokens if kind["chunked"] == 0 else min(tokens, budget)
        engine["head"] = request["next"]
        if engine["head"] < 0:
            engine["tail"] = -1
        engine["waiting"] -= 1
        w.running[e, engine["running"]] = r
        engine["running"] += 1
        engine["blocks"] += blocks_for(take, size)
        request["take"], request["state"] = take, RUNNING
        if math.isnan(request["started"]):
            request["started"] = now
        budget -= take
        admitted += 1
    return admitted


@inner
def schedule(w: World, e: int, now: float) -> bool:
    """Who takes part in the next iteration; whether the same ones may go on until one of them is done."""
    engine, kind = w.engines[e], w.kinds[w.engines[e]["kind"]]
    if kind["chunked"] == 0:
        for place in range(engine["running"]):
            w.requests[w.running[e, place]]["take"] = 0
        if _admit(w, e, kind["max_num_batched_tokens"], now) > 0:
            return False
    budget = _continue(w, e, kind["max_num_batched_tokens"])
    if budget < 0 or kind["chunked"] == 0:
        return budget > 0
    return _admit(w, e, budget, now) == 0 and budget > 0
