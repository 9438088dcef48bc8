"""The simulator"s inner loop: iteration-level continuous batching on every GPU, by events in time order.

The functions here and in the modules that they use change the World"s arrays in place and are compiled where numba is
there. A stretch of iterations that only decode is one event; every token of it still counts in the histograms. GPUs do
not see each other, so each is taken through the whole time on its own.
"""

from __future__ import annotations

import numpy as np

from slmpack.simulate.jit import compiled, inner, whole
from slmpack.simulate.metering import close_window, count_power
from slmpack.simulate.pacing import begin, cut, go_on, run_until, steps_by
from slmpack.simulate.state import REJECTED, World
from slmpack.simulate.tokens import finish_steps
from slmpack.simulate.waiting import enter, hold

__all__ = ["advance", "join", "leave", "route", "serve"]


@compiled
def route(w: World, cursor: int, until: float) -> int:
    """Gives every arrival up to `until` to a replica, while no Service changes; the first that comes later."""
    while cursor < len(w.requests) and w.requests[cursor]["arrival"] <= until:
        request = w.requests[cursor]
        if request["state"] != REJECTED:
            choices = w.in_service[request["tenant"]]
            if choices == 0:
                hold(w, cursor)
            else:
                chosen = w.services[request["tenant"], int(request["pick"] * choices)]
                enter(w, chosen, cursor, request["arrival"])
                _interrupt(w, chosen, request["arrival"])
        cursor += 1
    return cursor


@compiled
def join(w: World, e: int, now: float) -> None:
    """A replica, whose kind, tenant and GPU are set, takes its place there."""
    engine = w.engines[e]
    gpu = engine["gpu"]
    board = w.boards[gpu]
    count_power(board, now)
    close_window(board, now)
    engine["added"], engine["ended"] = now, np.inf
    engine["head"] = engine["tail"] = -1
    w.members[gpu, board["engines"]] = e
    board["engines"] += 1


@compiled
def serve(w: World, e: int, now: float) -> None:
    """A replica is ready: it joins its Service and takes all that waits at the gateway."""
    engine = w.engines[e]
    tenant = engine["tenant"]
    engine["ready"] = 1
    place = w.in_service[tenant]
    while place > 0 and w.services[tenant, place - 1] > e:
        w.services[tenant, place] = w.services[tenant, place - 1]
        place -= 1
    w.services[tenant, place] = e
    w.in_service[tenant] += 1
    request = w.gateway[tenant, 0]
    while request >= 0:
        following = w.requests[request]["next"]
        enter(w, e, request, now)
        request = following
    w.gateway[tenant, 0] = w.gateway[tenant, 1] = -1
    w.gateway[tenant, 2] = 0


@compiled
def leave(w: World, e: int, now: float) -> None:
    """A replica leaves its Service; without a request it ends."""
    engine = w.engines[e]
    if engine["ending"] == 1:
        return
    tenant = engine["tenant"]
    if engine["ready"] == 1:
        place = 0
        while w.services[tenant, place] != e:
            place += 1
        w.in_service[tenant] -= 1
        while place < w.in_service[tenant]:
            w.services[tenant, place] = w.services[tenant, place + 1]
            place += 1
    engine["ready"], engine["ending"] = 0, 1
    if engine["active"] == 0 and engine["head"] < 0:
        _end(w, e, now)


@inner
def _end(w: World, e: int, now: float) -> None:
    """The GPU loses the replica."""
    engine = w.engines[e]
    board = w.boards[engine["gpu"]]
    count_power(board, now)
    close_window(board, now)
    engine["ended"] = now
    members = w.members[engine["gpu"]]
    place = 0
    while members[place] != e:
        place += 1
    board["engines"] -= 1
    while place < board["engines"]:
        members[place] = members[place + 1]
        place += 1


@compiled
def advance(w: World, until: float, jump: bool) -> None:
    """Takes every GPU to `until`; with `jump` False iteration by iteration, which must give the same."""
    for gpu in range(len(w.boards)):
        board, members = w.boards[gpu], w.members[gpu]
        while True:
            soonest, chosen = until, whole(-1)
            for place in range(board["engines"]):
                at = _next_event(w, members[place])
                if at < soonest or (at == soonest and chosen < 0):
                    soonest, chosen = at, members[place]
            if chosen < 0:
                break
            _event(w, chosen, max(soonest, board["at"]), jump)
        for place in range(board["engines"]):
            _settle(w, members[place], until)
        count_power(board, until)
        close_window(board, until)


@inner
def _event(w: World, e: int, now: float, jump: bool) -> None:
    """The replica's iterations are done, or its first request is there: what comes next begins."""
    engine = w.engines[e]
    board = w.boards[engine["gpu"]]
    count_power(board, now)
    if engine["active"] == 1 and engine["steps"] < engine["plan"] and not _may_admit(w, e, now):
        finish_steps(w, e, engine["steps"])
        go_on(w, e, now)
        changed = False
    else:
        engine["plan"] = engine["steps"]
        if engine["active"] == 1:
            finish_steps(w, e, engine["steps"])
        changed = begin(w, e, now, jump)
    members, working, memory, compute = w.members[engine["gpu"]], 0, 0.0, 0.0
    for place in range(board["engines"]):
        other = w.engines[members[place]]
        if other["active"] == 1:
            if changed and members[place] != e and w.kinds[other["kind"]]["shared"] == 1:
                cut(w, members[place], now)
            working += 1
            memory += other["memory"]
            compute += other["compute"]
    board["working"], board["memory_rate"], board["compute_rate"] = working, memory, compute
    if engine["ending"] == 1 and engine["active"] == 0 and engine["head"] < 0:
        _end(w, e, now)


@inner
def _may_admit(w: World, e: int, now: float) -> bool:
    """Whether a request waits that there is a place for."""
    engine = w.engines[e]
    if engine["head"] < 0 or engine["running"] >= w.kinds[engine["kind"]]["max_num_seqs"]:
        return False
    return bool(w.requests[engine["head"]]["enter"] <= now)


@inner
def _interrupt(w: World, e: int, now: float) -> None:
    """A new request ends the stretch that it comes into, if there is a place for it."""
    engine = w.engines[e]
    if engine["active"] == 1 and engine["running"] < w.kinds[engine["kind"]]["max_num_seqs"]:
        cut(w, e, now)


@inner
def _settle(w: World, e: int, now: float) -> None:
    """Counts the iterations that are done, so that metrics are those of now; the one under way stays."""
    engine = w.engines[e]
    if engine["active"] == 1 and engine["steps"] > 1:
        done = steps_by(engine["first"], engine["grow"], engine["steps"], now - engine["start"])
        done = min(done, engine["steps"] - 1)
        if done > 0:
            left = engine["steps"] - done
            finish_steps(w, e, done)
            run_until(engine, left)


@inner
def _next_event(w: World, e: int) -> float:
    """When the replica's state changes next by itself."""
    engine = w.engines[e]
    if engine["active"] == 1:
        return float(engine["end"])
    if engine["head"] >= 0:
        return float(w.requests[engine["head"]]["enter"])
    return np.inf
