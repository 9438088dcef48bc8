"""Board power of a GPU from what its engines move and compute."""

from __future__ import annotations

from slmpack.domain.gpu import GpuModel
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance_table import PowerConstants
from slmpack.domain.prediction import Tenant

__all__ = ["board_power", "bytes_a_second", "flops_a_second"]


def board_power(gpu: GpuModel, constants: PowerConstants, *, memory: float, compute: float) -> Interval:
    """Watts of the whole board while its engines are busy; `memory` and `compute` are parts of the catalogue's peaks.

    Where the product was measured: the fit with its spread. Elsewhere [loaded idle, TDP], and the expected value is
    the fit of all measured products in parts of the TDP; basis assumed.
    """
    tdp = float(gpu.tdp_w)
    memory = min(1.0, memory)
    idle = gpu.loaded_idle_w[0] if gpu.loaded_idle_w is not None else tdp * constants.loaded_idle_share
    fit = constants.fit_for(gpu.id)
    if fit is not None:
        expected = _within(idle, fit.active_w + fit.memory_w * memory + fit.compute_w * compute, tdp)
        return Interval(
            low=_within(idle, expected * fit.spread.low, tdp),
            expected=expected,
            high=_within(idle, expected * fit.spread.high, tdp),
            basis=Basis.MODELLED,
        )
    part = constants.generic
    expected = tdp * (part.active_w + part.memory_w * memory + part.compute_w * compute)
    return Interval(low=idle, expected=_within(idle, expected, tdp), high=tdp, basis=Basis.ASSUMED)


def bytes_a_second(tenant: Tenant, batch: float, itl_s: float) -> float:
    """Memory traffic of one engine: its weights once an iteration, the cache of every sequence in decode."""
    model = tenant.model
    context = tenant.input_tokens + tenant.output_tokens / 2
    cache = model.cache_read_bytes(context, tenant.kv_element_bytes)
    return (model.read_bytes(batch) + batch * cache) / itl_s


def flops_a_second(tenant: Tenant, throughput_tok_s: float) -> float:
    """Arithmetic of one engine, prompts that the prefix cache lacks included."""
    model, context = tenant.model, tenant.input_tokens + tenant.output_tokens / 2
    prompt = tenant.input_tokens * (1.0 - tenant.prefix_hit_rate)
    request = model.linear_flops(prompt + tenant.output_tokens)
    request += model.attention_flops(prompt, tenant.input_tokens / 2)
    request += model.attention_flops(tenant.output_tokens, context)
    return throughput_tok_s / tenant.output_tokens * request


def _within(low: float, value: float, high: float) -> float:
    return max(low, min(value, high))
