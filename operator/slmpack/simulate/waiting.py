"""Waiting lists: requests chained by their `next`, at a replica or at the gateway."""

from __future__ import annotations

from slmpack.simulate.jit import inner
from slmpack.simulate.state import GATEWAY, QUEUED, World

__all__ = ["enter", "hold", "push_front"]


@inner
def push(w: World, e: int, request: int) -> None:
    """To the end of the replica's waiting list."""
    engine = w.engines[e]
    w.requests[request]["next"] = -1
    w.requests[request]["state"] = QUEUED
    if engine["head"] < 0:
        engine["head"] = request
    else:
        w.requests[engine["tail"]]["next"] = request
    engine["tail"] = request
    engine["waiting"] += 1


@inner
def push_front(w: World, e: int, request: int) -> None:
    """To its beginning."""
    engine = w.engines[e]
    w.requests[request]["next"] = engine["head"]
    w.requests[request]["state"] = QUEUED
    if engine["head"] < 0:
        engine["tail"] = request
    engine["head"] = request
    engine["waiting"] += 1


@inner
def enter(w: World, e: int, request: int, at: float) -> None:
    """A request reaches its replica."""
    w.requests[request]["enter"] = at
    w.requests[request]["replica"] = e
    push(w, e, request)


@inner
def hold(w: World, request: int) -> None:
    """A request waits at the gateway."""
    place = w.gateway[w.requests[request]["tenant"]]
    w.requests[request]["state"] = GATEWAY
    if place[0] < 0:
        place[0] = request
    else:
        w.requests[place[1]]["next"] = request
    place[1] = request
    place[2] += 1
