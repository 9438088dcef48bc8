"""How many requests a second the replicas of one GPU carry: the goodput at the knee of that packing (D8a).

A Service hands each request to a replica at random, so each is a queue of its own: a birth-death chain whose service
rate in state n is what the performance model says of n requests there. Its capacity is the largest Poisson rate at
which no more than `tail` of the requests find the replica beyond its knee. The chain's distribution does not depend on
that of the lengths, as long as requests share the engine (processor sharing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, log

from slmpack.domain.calibration import Calibration
from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.interval import Interval
from slmpack.domain.knee import NoKnee, find_knee
from slmpack.domain.paying import largest_kept
from slmpack.domain.performance import Unpredictable, predict, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Sharing, Site, Tenant
from slmpack.domain.question import ChoicePolicy
from slmpack.domain.serving import Engine
from slmpack.domain.workload import Bounds, Workload

__all__ = ["Carried", "Mix", "Stack", "carried", "latency_at", "power_at", "rounded"]

_REMEMBERED = 8192
_HALVINGS = 20
"""Of the interval that holds the capacity: to a millionth of it."""
_LEAST = 1e-9
"""Requests, or requests a second: next to none."""
_QUEUED = 1.0 - 1e-6
"""Load of the fastest state at most: a queue without an end has no distribution."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Mean tokens of a request."""

    input_tokens: int
    output_tokens: int
    prefix_hit_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """So many equal replicas of one deployment on one GPU, and what else runs there."""

    engine: Engine
    site: Site
    constants: EngineConstants
    calibration: Calibration | None
    replicas: int
    max_num_seqs: int
    """Of each replica, as it is started."""
    kv_cache_tokens: int
    others: tuple[Tenant, ...] = ()
    """Engines of other deployments that share the device, with the requests that they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What one replica of a stack carries while all of them are as busy."""

    requests_s: float
    """Requests a second that it answers within the bounds."""
    batch: float
    """Requests at it, on average, at that rate."""
    most: int
    """Requests at it, at its knee."""
    itl_s: float
    """Mean inter-token latency at the knee."""


def rounded(value: float, step: float) -> float:
    """The nearest power of `step`; of a positive value."""
    power: float = step ** round(log(value) / log(step))
    return power


@lru_cache(maxsize=_REMEMBERED)
def carried(stack: Stack, mix: Mix, bounds: Bounds, policy: ChoicePolicy, tail: float) -> Carried | Unpredictable:
    """What each replica of the stack carries. Remembered: the next decision asks the same."""
    try:
        return _carried(stack, mix, bounds, policy, tail)
    except _CannotError as cannot:
        return cannot.answer


@lru_cache(maxsize=_REMEMBERED)
def latency_at(stack: Stack, mix: Mix, batch: float) -> float | None:
    """Mean inter-token latency with so many requests at each replica, seconds; None where nothing is predicted."""
    found = rates(_tenants(stack, mix, batch), stack.site, stack.constants, calibration=stack.calibration)
    return None if isinstance(found, Unpredictable) else found[0].itl_s


@lru_cache(maxsize=_REMEMBERED)
def power_at(stack: Stack, mix: Mix, requests_s: float) -> Interval | None:
    """Watts of the GPU while each replica answers so many requests a second; None where nothing is predicted."""
    try:
        curve = _curve(stack, mix, (1, stack.max_num_seqs))
        batch = _batch_for(curve, requests_s * mix.output_tokens * stack.replicas, float(stack.max_num_seqs))
    except _CannotError:
        return None
    found = predict(_tenants(stack, mix, batch), stack.site, stack.constants, calibration=stack.calibration)
    return None if isinstance(found, Unpredictable) else found.power_w


class _CannotError(Exception):
    """Leaves a computation in the middle of a curve."""

    def __init__(self, answer: Unpredictable) -> None:
        super().__init__(answer.reason)
        self.answer = answer


def _carried(stack: Stack, mix: Mix, bounds: Bounds, policy: ChoicePolicy, tail: float) -> Carried | Unpredictable:
    curve = _curve(stack, mix, policy.knee.grid)
    places = min(float(stack.max_num_seqs), max(1.0, _held(stack, mix)))
    most = _most(curve, places, bounds, policy)
    served = _services(curve, mix, replicas=stack.replicas, most=max(most, floor(places)))
    requests_s, batch = _most_arrivals(served, most, tail)
    return Carried(requests_s=requests_s, batch=batch, most=most, itl_s=curve.at(most).itl_s)


def _most(curve: Curve, places: float, bounds: Bounds, policy: ChoicePolicy) -> int:
    """Requests at a replica up to which it does what is asked: its knee, or the last that keeps the stated bounds.

    A bound on the time to first token allows a queue. One that not even a single request keeps is a matter of what
    replicas are placed on: more of them keep it no better, and one at a time is the least that can be carried.
    """
    if bounds == Bounds():
        found = find_knee(curve, policy.knee, bounds, most=places)
        return 1 if isinstance(found, NoKnee) else found.batch
    kept = largest_kept(curve, places if bounds.ttft_s is None else float(curve.grid[-1]), bounds)
    return 1 if kept is None else max(1, floor(kept.batch))


def _services(curve: Curve, mix: Mix, *, replicas: int, most: int) -> tuple[float, ...]:
    """Requests a second that one replica answers with 1, 2, ... `most` there, the model between points of its grid."""
    each = mix.output_tokens * replicas
    return tuple(max(_LEAST, curve.between(count).throughput_tok_s / each) for count in range(1, most + 1))


def _most_arrivals(served: Sequence[float], most: int, tail: float) -> tuple[float, float]:
    """The largest arrival rate with at most `tail` of the arrivals beyond `most`, and the mean number there."""
    low, high = 0.0, served[-1] * _QUEUED
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beyond, _ = _chain(served, most, middle)
        low, high = (middle, high) if beyond <= tail else (low, middle)
    return low, _chain(served, most, low)[1]


def _chain(served: Sequence[float], most: int, arrivals: float) -> tuple[float, float]:
    """Probability of more than `most` there, and the mean number; beyond the last state the rate stays as it is."""
    weight, total, within, mean = 1.0, 1.0, 1.0, 0.0
    for count, rate in enumerate(served, start=1):
        weight *= arrivals / rate
        total += weight
        mean += count * weight
        if count <= most:
            within += weight
    ratio = arrivals / served[-1]
    queue = weight * ratio / (1.0 - ratio)
    total += queue
    mean += queue * (len(served) + 1.0 / (1.0 - ratio))
    return 1.0 - within / total, mean / total


def _batch_for(curve: Curve, demand_tok_s: float, most: float) -> float:
    """Requests at each replica at which all of them together make so many tokens a second; at most `most`."""
    low, high = _LEAST, most
    if curve.at(high).throughput_tok_s <= demand_tok_s:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if curve.at(middle).throughput_tok_s < demand_tok_s else (low, middle)
    return high


def _held(stack: Stack, mix: Mix) -> float:
    """Sequences of the mean length whose KV cache one replica holds."""
    return _pool(stack, mix) / (mix.input_tokens + mix.output_tokens / 2)


def _pool(stack: Stack, mix: Mix) -> int:
    """Tokens; a model without a cache is never short of it."""
    if stack.engine.model.kv_elements_per_token:
        return max(1, stack.kv_cache_tokens)
    return ceil(stack.max_num_seqs * (mix.input_tokens + mix.output_tokens / 2))


def _curve(stack: Stack, mix: Mix, grid: Sequence[int]) -> Curve:
    """Our replicas on the GPU together, against the requests at each."""

    def point(batch: float) -> CurvePoint:
        found = rates(_tenants(stack, mix, batch), stack.site, stack.constants, calibration=stack.calibration)
        if isinstance(found, Unpredictable):
            raise _CannotError(found)
        own = found[0]
        total = own.throughput_tok_s * stack.replicas
        return CurvePoint(batch=batch, throughput_tok_s=total, itl_s=own.itl_s, ttft_s=own.ttft_s)

    return Curve.of_function(grid, point)


def _tenants(stack: Stack, mix: Mix, batch: float) -> tuple[Tenant, ...]:
    workload = Workload(
        input_tokens=mix.input_tokens, output_tokens=mix.output_tokens, prefix_hit_rate=mix.prefix_hit_rate
    )
    one = stack.engine.tenant(
        workload,
        in_flight=batch,
        sequences=stack.max_num_seqs,
        kv_cache_tokens=_pool(stack, mix),
        prefix_hit_rate=mix.prefix_hit_rate,
    )
    if stack.site.sharing is Sharing.MPS:
        return (*(one,) * stack.replicas, *stack.others)
    return (one,) * stack.replicas
