"""Board power of a GPU from what its engines move and compute."""

from __future__ import annotations

from slmpack.domain.gpu import GpuModel
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance_table import PowerConstants
from slmpack.domain.prediction import Tenant

__all__ = ["board_power", "bytes_a_second", "flops_a_second", "loaded_idle_w"]


def board_power(gpu: GpuModel, constants: PowerConstants, *, memory: float, compute: float, busy: float) -> Interval:
    """Watts of the whole board.

    Args:
        gpu: the product.
        constants: of the fits.
        memory: part of the catalogue's bandwidth that is used while any engine has work.
        compute: the same of its FLOP/s.
        busy: part of the time, 0 to 1, in which any engine has work; else the board draws its loaded idle.

    Where the product was measured: the fit with its spread. Elsewhere [loaded idle, TDP], and the expected value is
    the fit of all measured products in parts of the TDP; basis assumed. A loaded idle that was never captured lies
    between the lowest part of the TDP that was, and what the fit says of an engine that moves and computes nothing.
    """
    tdp = float(gpu.tdp_w)
    fit, part = constants.fit_for(gpu.id), constants.generic
    least, most = loaded_idle_w(gpu, constants)
    idle = (least + most) / 2
    memory = min(1.0, memory)

    def mean(resting: float, working: float) -> float:
        return resting + busy * (max(least, min(working, tdp)) - resting)

    if fit is None:
        working = tdp * (part.active_w + part.memory_w * memory + part.compute_w * compute)
        return Interval(low=least, expected=mean(idle, working), high=tdp, basis=Basis.ASSUMED)
    working = max(least, min(fit.active_w + fit.memory_w * memory + fit.compute_w * compute, tdp))
    return Interval(
        low=mean(least, working * fit.spread.low),
        expected=mean(idle, working),
        high=mean(most, working * fit.spread.high),
        basis=Basis.MODELLED,
    )


def loaded_idle_w(gpu: GpuModel, constants: PowerConstants) -> tuple[float, float]:
    """Lowest and highest watts with a model resident and no work: captured, else as `board_power` says."""
    fit, low = constants.fit_for(gpu.id), gpu.tdp_w * constants.loaded_idle_share
    unloaded = gpu.tdp_w * constants.generic.active_w if fit is None else fit.active_w
    return gpu.loaded_idle_w or (low, max(low, unloaded))


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
