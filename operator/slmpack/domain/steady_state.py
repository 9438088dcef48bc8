"""One engine under a constant number of requests in flight: batch, iteration time, time to first token.

A request takes part in as many iterations as it has tokens to make, the first of which the last chunk of its prompt
brings, and those that its other chunks take; during its stay each of the requests there is prefilled once, itself
included. So it stays

    R = iterations * t(b, 0) + chunks * (t(b, c) - t(b, 0)),   b = running * tokens to decode / iterations

for as many iterations as that, or as all prompts together have chunks if those are more. A chunk has at most
max_num_batched_tokens - b tokens; where more prompts come than iterations, several share one. Neither b nor c depend on
how fast the device is, and t only falls with its speed, so R does too.

However the prompts fall: those that come before a request's first token delay that token, the others lengthen the
iterations between its tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Tenant
from slmpack.domain.step_time import StepCosts

__all__ = ["LEAST_IN_FLIGHT", "SteadyState", "kv_limited_batch", "steady_state"]

LEAST_IN_FLIGHT = 1e-9
"""Requests; below it counts as so many: figures stay finite. One request of 30 s in a thousand years."""

_FULLEST = 0.9
"""A queue of random arrivals has no mean length where it is full; closed loops have."""


_SHORTEST = 1e-9
"""Seconds that a prompt chunk takes at least: without attention one may fit into the time for the weights."""


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Means over time; seconds. Built once for each point of a sweep, hence positional."""

    running: float
    """Requests that hold a place in the engine: in decode or in prefill."""
    batch: float
    """Sequences in decode, on average."""
    iteration: float
    """Mean time between two tokens of a sequence; where it has one token only, of an iteration."""
    decode_iteration: float
    """An iteration without a prompt chunk."""
    mixed_iteration: float
    """An iteration with one; where prompts run apart, both together."""
    mixed_part: float
    """Part of the iterations that carry a prompt chunk."""
    cycle: float
    """A mean iteration of the whole stay."""
    busy: float
    """Of `cycle`, the part at the device's memory or arithmetic."""
    prefill: float
    """From scheduling to the first token."""


def kv_limited_batch(tenant: Tenant) -> float:
    """Sequences whose live tokens (input and half of the output) the KV pool holds; at least one."""
    return max(1.0, tenant.kv_cache_tokens / (tenant.input_tokens + tenant.output_tokens / 2))


def steady_state(tenant: Tenant, costs: StepCosts, constants: EngineConstants) -> SteadyState:
    """The steady state of one engine with the device to itself."""
    running = max(LEAST_IN_FLIGHT, min(tenant.in_flight, float(tenant.max_num_seqs), kv_limited_batch(tenant)))
    prompt = tenant.input_tokens * (1.0 - tenant.prefix_hit_rate)
    if prompt <= 0.0:
        return _decode_only(costs, constants, running=running)
    shape = _chunked if constants.chunked_prefill else _apart
    return _times(costs, constants, shape(tenant, max(1.0, running), prompt), running)


class _Stay(NamedTuple):
    """What happens while a request is in the engine, in iterations: the same on any device."""

    inside: float
    """Requests that are there; where on average less than one is, it is alone."""
    sequences: float
    """In decode, in a mean iteration."""
    tokens: float
    """That a request makes in iterations of their own: all but the first."""
    own: float
    """Iterations in which its prompt is read beside the decoding of others."""
    iterations: float
    """That decode."""
    chunk: float
    """Prompt tokens of an iteration that has any."""
    chunks: float
    """Of all prompts."""


def _chunked(tenant: Tenant, inside: float, prompt: float) -> _Stay:
    """Prompt chunks ride on iterations that decode, in the room that the decoding sequences leave."""
    tokens, room = tenant.output_tokens - 1.0, float(tenant.max_num_batched_tokens)
    full = room * tokens / (prompt + tokens)  # then every iteration is as large as it may be
    room = max(1.0, room - min(inside - 1.0, full))
    own = max(1.0, prompt / room)
    iterations = max(tokens + own, inside * prompt / room)
    chunk = min(room, prompt * max(1.0, inside / iterations))
    sequences = max(1.0, inside * tokens / iterations)
    return _Stay(inside, sequences, tokens, own, iterations, chunk, inside * prompt / chunk)


def _apart(tenant: Tenant, inside: float, prompt: float) -> _Stay:
    """Prompts have iterations of their own, which come first."""
    tokens = tenant.output_tokens - 1.0
    chunk = min(float(tenant.max_num_batched_tokens), prompt * max(1.0, inside / max(1.0, tokens)))
    return _Stay(inside, inside, tokens, 0.0, tokens, chunk, inside * prompt / chunk)


def _decode_only(costs: StepCosts, constants: EngineConstants, *, running: float) -> SteadyState:
    sequences = max(1.0, running)
    iteration = costs.iteration(sequences)
    busy = costs.work(sequences) + _kernels_busy(costs, constants, sequences)
    return SteadyState(
        running, running, iteration, iteration, iteration, 0.0, iteration, min(busy, iteration), iteration
    )


def _times(costs: StepCosts, constants: EngineConstants, stay: _Stay, running: float) -> SteadyState:
    inside, sequences, tokens = stay.inside, stay.sequences, stay.tokens
    fixed = costs.kernels + costs.step
    work = costs.work(sequences)
    decode = fixed + costs.sequence * sequences + work
    if constants.chunked_prefill:
        more = longer = max(_SHORTEST, costs.work(sequences, stay.chunk) - work)
    else:
        more = costs.work(0.0, stay.chunk)
        longer = max(_SHORTEST, fixed + more)
    wait = (1.0 - 1.0 / inside) * decode / 2  # for the end of the iteration under way
    whole = stay.iterations * decode + stay.chunks * longer
    seconds = whole + wait
    each = stay.chunks / inside
    all_iterations = max(stay.iterations, stay.chunks)
    part = stay.chunks / all_iterations
    ahead = _ahead(part, inside) * (stay.own * decode + each * longer)
    prefill = stay.own * decode + max(1.0, each) * longer + ahead + wait
    prefill = min(max(prefill, seconds - tokens * (decode + longer)), seconds - tokens * decode)
    cycle = whole / all_iterations
    iteration = (seconds - prefill) / tokens if tokens else cycle
    others = (iteration - decode) / longer if tokens else part
    busy = work + _kernels_busy(costs, constants, sequences)
    busy = (stay.iterations * busy + stay.chunks * more) / all_iterations
    decoding = running * tokens * iteration / seconds
    mixed = decode + longer
    return SteadyState(running, decoding, iteration, decode, mixed, others, cycle, min(busy, cycle), prefill)


def _kernels_busy(costs: StepCosts, constants: EngineConstants, sequences: float) -> float:
    """Small kernels and samplers keep the device from others for a part of their time."""
    sharing = constants.sharing
    return costs.kernels * sharing.busy_part + costs.sequence * sequences * sharing.sequence_busy_part


def _ahead(part: float, running: float) -> float:
    """Prompts that are served before a new one, on average, where this part of the iterations carries prompts.

    One more than that is taken as the geometric mean of what random arrivals give, 1 + part / 2 / (1 - part), and of
    what requests give that all end and start together, (running + 1) / 2: closed loops of equal lengths are near the
    latter.
    """
    together = (running + 1.0) / 2
    part = min(part, _FULLEST)
    random = 1.0 + part / (2.0 * (1.0 - part))
    return math.sqrt(min(random, together) * together) - 1.0
