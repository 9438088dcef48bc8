"""One engine under a constant number of requests in flight: batch, iteration time, time to first token.

While a request is in the engine, each of the requests there is prefilled once, itself included. So it stays

    R = iterations * t(b, 0) + running * prefill work of a prompt

for as many iterations as it has output tokens and prompt chunks, or as all prompts together have chunks if those are
more,

however the prompts fall. Those that come before its first token delay that token, the others lengthen the iterations
between its tokens: ITL = (R - TTFT) / output, and the batch in decode is b = running * (R - TTFT) / R. A chunk has at
most max_num_batched_tokens - b tokens; several short prompts share one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Tenant
from slmpack.domain.step_time import StepCosts

__all__ = ["SteadyState", "busy_at", "kv_limited_batch", "steady_state"]


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
    """Mean time between two tokens of a sequence."""
    decode_iteration: float
    """An iteration without a prompt chunk."""
    mixed_iteration: float
    """An iteration with one; where prompts run apart, both together."""
    mixed_part: float
    """Part of the iterations that carry a prompt chunk."""
    busy: float
    """Of `iteration`, the part at the device's memory or arithmetic."""
    prefill: float
    """From scheduling to the first token."""


def kv_limited_batch(tenant: Tenant) -> float:
    """Sequences whose live tokens (input and half of the output) the KV pool holds; at least one."""
    return max(1.0, tenant.kv_cache_tokens / (tenant.input_tokens + tenant.output_tokens / 2))


def steady_state(tenant: Tenant, costs: StepCosts, constants: EngineConstants) -> SteadyState:
    """The steady state, in two rounds: the batch follows from the times, the times hardly from the batch."""
    running = min(tenant.in_flight, float(tenant.max_num_seqs), kv_limited_batch(tenant))
    prompt = tenant.input_tokens * (1.0 - tenant.prefix_hit_rate)
    if prompt <= 0.0:
        return _decode_only(costs, constants, running=running)
    batch = running
    if constants.chunked_prefill:
        batch = min(running, tenant.max_num_batched_tokens / (1.0 + prompt / tenant.output_tokens))
    first = _at(tenant, costs, constants, (batch, running, prompt))
    return _at(tenant, costs, constants, (first.batch, running, prompt))


def busy_at(tenant: Tenant, costs: StepCosts, constants: EngineConstants, state: SteadyState) -> float:
    """Seconds at the device's memory or arithmetic in a mean iteration, at a state's batch but with other costs."""
    prompt = tenant.input_tokens * (1.0 - tenant.prefix_hit_rate)
    if prompt <= 0.0:
        return _decode_only(costs, constants, running=state.running).busy
    return _at(tenant, costs, constants, (state.batch, state.running, prompt)).busy


def _decode_only(costs: StepCosts, constants: EngineConstants, *, running: float) -> SteadyState:
    sequences = max(1.0, running)
    iteration = costs.iteration(sequences)
    busy = costs.work(sequences) + _kernels_busy(costs, constants, sequences)
    return SteadyState(running, running, iteration, iteration, iteration, 0.0, min(busy, iteration), iteration)


def _at(tenant: Tenant, costs: StepCosts, constants: EngineConstants, at: tuple[float, float, float]) -> SteadyState:
    """The times at a batch in decode, of (batch, running, uncached prompt tokens), and the batch that they lead to."""
    batch, running, prompt = at
    output = tenant.output_tokens
    sequences = max(1.0, batch)
    inside = max(1.0, running)  # where on average less than one is there, it is alone
    fixed = costs.kernels + costs.step
    work = costs.work(sequences)
    decode = fixed + costs.sequence * sequences + work
    room = float(tenant.max_num_batched_tokens)
    chunk = prompt if output >= batch else batch * prompt / output
    if constants.chunked_prefill:
        room = max(1.0, room - (sequences if inside > 1.0 else 0.0))
        chunk = min(room, chunk)
        more = longer = max(_SHORTEST, costs.work(sequences, chunk) - work)
        steps = math.ceil(prompt / room) * decode
    else:
        chunk = min(room, chunk)
        more = costs.work(0.0, chunk)
        longer = max(_SHORTEST, fixed + more)
        steps = 0.0
    chunks = prompt / chunk
    iterations = max(float(output), inside * chunks)
    wait = (1.0 - 1.0 / inside) * decode / 2  # for the end of the iteration under way
    stay = iterations * decode + steps + inside * chunks * longer + wait
    own = steps + chunks * longer
    prefill = own * (1.0 + _ahead(inside * chunks / iterations, inside)) + wait
    prefill = min(max(prefill, stay - output * (decode + longer)), stay - output * decode)
    iteration = (stay - prefill) / output
    others = (iteration - decode) / longer
    busy = work + others * more + _kernels_busy(costs, constants, sequences)
    decoding = running * output * iteration / (output * iteration + prefill)
    mixed = decode + longer
    return SteadyState(running, decoding, iteration, decode, mixed, others, min(busy, iteration), prefill)


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
